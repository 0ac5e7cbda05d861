"""Which layers of a detection transformer are quantised. Rules read the graph; no rule reads a name.

A layer is a Conv, MatMul or Gemm with a constant weight. What it feeds decides: the last layer before a sampling position,
an attention or box distribution, a query selection or the result stays in float, because one grid step there moves a box
or reorders queries, and those layers are a small part of the time. LayerNorm, softmax and TopK are never wrapped at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from calibration.graph import Graph, attribute
from edgedet import InvalidInputError

Scope = Literal["conv", "linear", "all"]

# Operators that hand a value on without a learnt weight: a rule looks through them to see what a layer feeds.
_OPAQUE = {"Conv", "ConvTranspose", "Shape", "Size", "NonZero"}


@dataclass(frozen=True)
class Layer:
    """One layer that will run in int8.

    Attributes:
        node: name of the ONNX node.
        op: `Conv`, `MatMul` or `Gemm`.
        activation: tensor name of its input.
        weight: initializer name of its weight.
        axis: output-channel axis of the weight.
        group: name of the group it is switched with, from the structure of the graph.
    """

    node: str
    op: str
    activation: str
    weight: str
    axis: int
    group: str


@dataclass(frozen=True)
class KeptFloat:
    """A layer that stays in float, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """The layers to quantise, in graph order, and the ones left alone."""

    layers: tuple[Layer, ...]
    kept: tuple[KeptFloat, ...]

    @property
    def activations(self) -> tuple[str, ...]:
        """The tensors that need a range, without repeats, in graph order."""
        return tuple(dict.fromkeys(layer.activation for layer in self.layers))

    @property
    def groups(self) -> tuple[str, ...]:
        """Group names in graph order."""
        return tuple(dict.fromkeys(layer.group for layer in self.layers))

    def without(self, groups: Iterable[str], reason: str) -> Placement:
        """The same placement with some groups left in float.

        Raises:
            InvalidInputError: a group does not exist.
        """
        dropped = set(groups)
        unknown = sorted(dropped - set(self.groups))
        if unknown:
            raise InvalidInputError(f"expected groups among {', '.join(self.groups)}, got {', '.join(unknown)}")
        kept = tuple(KeptFloat(layer.node, reason) for layer in self.layers if layer.group in dropped)
        return Placement(tuple(layer for layer in self.layers if layer.group not in dropped), self.kept + kept)


@dataclass(frozen=True, kw_only=True)
class PlacementOptions:
    """What may be quantised.

    Attributes:
        scope: `conv` convolutions only, `linear` matrix products only, or `all`.
        minimum_channels: layers with fewer input or output channels stay in float; below the width of the int8 kernels
            the conversions cost more than the product saves. Depthwise convolutions count their total channels.
    """

    scope: Scope = "conv"
    minimum_channels: int = 8

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.minimum_channels < 1:
            raise InvalidInputError(f"expected minimum_channels >= 1, got {self.minimum_channels}")


def place(graph: Graph, options: PlacementOptions) -> Placement:
    """Apply the rules to every layer of a graph."""
    layers: list[Layer] = []
    kept: list[KeptFloat] = []
    for node in graph.model.graph.node:
        slot = weight_slot(graph, node)
        if slot is None:
            continue
        reason = _refusal(graph, node, slot, options)
        if reason:
            kept.append(KeptFloat(node.name, reason))
            continue
        layers.append(
            Layer(
                node=node.name,
                op=node.op_type,
                activation=node.input[1 - slot],
                weight=node.input[slot],
                axis=_output_axis(node),
                group="",
            )
        )
    return Placement(tuple(_grouped(graph, layers)), tuple(kept))


def weight_slot(graph: Graph, node: onnx.NodeProto) -> int | None:
    """Input slot of a layer's constant weight; None for a node that is not a layer."""
    if node.op_type == "Conv":
        return 1 if node.input[1] in graph.constants else None
    if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
        return None
    constant = graph.constants.get(node.input[1])
    return 1 if constant is not None and constant.ndim == 2 and node.input[0] not in graph.constants else None


def _output_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1


def _refusal(graph: Graph, node: onnx.NodeProto, slot: int, options: PlacementOptions) -> str:
    family = "conv" if node.op_type == "Conv" else "linear"
    if options.scope not in (family, "all"):
        return f"scope is {options.scope}"
    weight = graph.constants[node.input[slot]]
    if weight.dtype != np.float32:
        return f"weight is {weight.dtype}, not float32"
    if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "transA", 0)):
        return "Gemm with alpha or transA"
    axis = _output_axis(node)
    outputs = weight.shape[axis]
    inputs = weight.shape[1] if node.op_type == "Conv" else weight.shape[1 - axis]
    groups = attribute(node, "group", 1)
    assert isinstance(groups, int)
    if min(outputs, inputs * groups) < options.minimum_channels:
        return f"fewer than {options.minimum_channels} channels"
    return _feeds(graph, node)


def _feeds(graph: Graph, node: onnx.NodeProto) -> str:
    """Why the layer's output must stay in float, or an empty string. Looks as far as the next layers."""
    seen: set[str] = set()
    front = list(node.output)
    while front:
        name = front.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in graph.outputs:
            return "feeds the result"
        for consumer, slot in graph.consumers.get(name, ()):
            kind = consumer.op_type
            if kind == "GridSample" and slot == 1:
                return "feeds sampling positions"
            if kind in ("Floor", "Round", "Ceil"):
                return "feeds sampling positions"
            if kind == "TopK" and slot == 0:
                return "feeds a query selection"
            if kind == "Softmax" and node.op_type != "Conv":
                return "feeds an attention or box distribution"
            if kind in _OPAQUE or weight_slot(graph, consumer) is not None:
                continue
            # A product of two activations mixes everything (q·k): what it feeds says nothing about this layer.
            if kind in ("MatMul", "Einsum") and not _is_constant(graph, consumer, 1 - slot):
                continue
            front.extend(output for output in consumer.output if output)
    return ""


def _is_constant(graph: Graph, node: onnx.NodeProto, slot: int) -> bool:
    return slot < len(node.input) and node.input[slot] in graph.constants


def _grouped(graph: Graph, layers: list[Layer]) -> list[Layer]:
    """Cut the layers, in graph order, where the convolution output changes its channel count or a linear part begins.

    Layers of one stage share kernels, resolution and data, so they are switched together.
    """
    grouped: list[Layer] = []
    number = 0
    for position, layer in enumerate(layers):
        if position and position % 4 == 0:
            number += 1
        grouped.append(Layer(layer.node, layer.op, layer.activation, layer.weight, layer.axis, f"g{number:02d}"))
    return grouped

"""Which layers of a detection transformer are quantised. Rules read the graph; no rule reads a name.

A layer is a Conv, MatMul or Gemm with a constant weight. What it feeds decides: the last layer before a sampling
position, an attention or box distribution, a query selection or the result stays in float, because one grid step
there moves a box or reorders queries, and those layers are a small part of the time. LayerNorm, softmax and TopK are
never wrapped at all.
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
    """

    node: str
    op: str
    activation: str
    weight: str
    axis: int


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


@dataclass(frozen=True, kw_only=True)
class PlacementOptions:
    """What may be quantised.

    Attributes:
        scope: `conv` convolutions only, `linear` matrix products only, or `all`.
        minimum_channels: layers with fewer output channels stay in float, and so do matrix products with fewer input
            channels: below the width of the int8 kernels the conversions cost more than the product saves. A
                convolution
            may read fewer, for the image has three.
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
            )
        )
    return Placement(tuple(layers), tuple(kept))


def without(placement: Placement, nodes: Iterable[str]) -> Placement:
    """The placement with some layers left in float.

    Raises:
        InvalidInputError: a name is not a layer of the placement.
    """
    chosen = set(nodes)
    unknown = sorted(chosen - {layer.node for layer in placement.layers})
    if unknown:
        raise InvalidInputError(f"expected names of int8 layers to leave in float, got '{unknown[0]}'")
    return Placement(
        tuple(layer for layer in placement.layers if layer.node not in chosen),
        placement.kept
        + tuple(KeptFloat(layer.node, "left in float by choice") for layer in placement.layers if layer.node in chosen),
    )


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
    channels = weight.shape[:1] if node.op_type == "Conv" else weight.shape
    reason = feeds(graph, node)
    if not reason and min(channels) < options.minimum_channels:
        return f"fewer than {options.minimum_channels} channels"
    return reason


def feeds(graph: Graph, node: onnx.NodeProto) -> str:
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
            if (kind == "GridSample" and slot == 1) or kind in ("Floor", "Round", "Ceil") or _to_integer(consumer):
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


def _to_integer(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and attribute(node, "to") in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def _is_constant(graph: Graph, node: onnx.NodeProto, slot: int) -> bool:
    return slot < len(node.input) and node.input[slot] in graph.constants

"""Layers that belong together, told from the graph by where they stand and what their result is for, never by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from calibration.graph import Graph, static_shapes
from calibration.placement import Layer, Placement, weight_slot

Role = Literal["query, key", "value", "attention output", "feed-forward"]

# What a value passes through without being mixed with weights, on the way from a layer to its purpose.
_MIXING = {"Conv", "Gemm", "ConvTranspose"}


@dataclass(frozen=True)
class Group:
    """Layers that are tried together.

    Attributes:
        name: part of the network and role, such as "backbone, stride 8" or "decoder 2, value".
        nodes: names of their ONNX nodes, in graph order.
    """

    name: str
    nodes: tuple[str, ...]


def groups(graph: Graph, placement: Placement) -> list[Group]:
    """Divide the layers of a placement.

    Convolutions go by the stride of their output against the network's input: "backbone" above everything that is
    upsampled or attended to, "encoder" below. Matrix products go by what their result is for, and by the number of
    softmaxes above them, which counts the attention layers of encoder and decoder.
    """
    shapes = static_shapes(graph.model, batch=1)
    side = max((shape[2] for shape in shapes.values() if len(shape) == 4), default=1)
    above = _above(graph)
    nodes = {node.name: node for node in graph.model.graph.node}
    members: dict[str, list[str]] = {}
    for layer in placement.layers:
        name = _name(graph, nodes[layer.node], layer, shapes, side, above[layer.node])
        members.setdefault(name, []).append(layer.node)
    return [Group(name, tuple(layers)) for name, layers in members.items()]


@dataclass(frozen=True)
class _Above:
    """What lies above a node.

    Attributes:
        attention: softmaxes on the longest path.
        upsampled: something was.
        selected: queries were, by a TopK.
    """

    attention: int = 0
    upsampled: bool = False
    selected: bool = False


def _above(graph: Graph) -> dict[str, _Above]:
    """For every node, what lies above it."""
    found: dict[str, _Above] = {}
    for node in graph.model.graph.node:
        above = [found[graph.producers[name].name] for name in node.input if name in graph.producers]
        found[node.name] = _Above(
            max((entry.attention for entry in above), default=0) + (node.op_type == "Softmax"),
            any(entry.upsampled for entry in above) or node.op_type in ("Resize", "Upsample"),
            any(entry.selected for entry in above) or node.op_type == "TopK",
        )
    return found


def _name(
    graph: Graph,
    node: onnx.NodeProto,
    layer: Layer,
    shapes: Mapping[str, tuple[int, ...]],
    side: int,
    above: _Above,
) -> str:
    if layer.op == "Conv":
        shape = shapes.get(node.output[0], ())
        stride = f"stride {side // shape[2]}" if len(shape) == 4 and shape[2] else "dynamic shape"
        return f"{'encoder' if above.upsampled or above.attention else 'backbone'}, {stride}"
    part = f"decoder {above.attention}" if above.selected else f"encoder {above.attention}"
    return f"{part}, {_role(graph, node)}"


def _role(graph: Graph, node: onnx.NodeProto) -> Role:
    """What a matrix product's result is for: looks down to the next products of two activations, and up for one."""
    seen: set[str] = set()
    front = list(node.output)
    while front:
        name = front.pop()
        if name in seen:
            continue
        seen.add(name)
        for consumer, slot in graph.consumers.get(name, ()):
            if consumer.op_type in _MIXING or weight_slot(graph, consumer) is not None:
                continue
            if (consumer.op_type == "GridSample" and slot == 0) or consumer.op_type in ("GatherElements", "GatherND"):
                return "value"
            if consumer.op_type == "MatMul":
                return "query, key" if _reaches_softmax(graph, consumer) else "value"
            front.extend(consumer.output)
    return "attention output" if _from_attention(graph, node) else "feed-forward"


def _reaches_softmax(graph: Graph, product: onnx.NodeProto) -> bool:
    """Whether a product of two activations is normalised before anything mixes it again."""
    front = list(product.output)
    seen: set[str] = set()
    while front:
        name = front.pop()
        if name in seen:
            continue
        seen.add(name)
        for consumer, _ in graph.consumers.get(name, ()):
            if consumer.op_type == "Softmax":
                return True
            if consumer.op_type not in _MIXING | {"MatMul"}:
                front.extend(consumer.output)
    return False


def _from_attention(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a layer reads, reshaped at most, a product of two activations or a weighted sum of samples."""
    producer = graph.producers.get(node.input[0])
    while producer is not None and producer.op_type in ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"):
        producer = graph.producers.get(producer.input[0])
    if producer is None:
        return False
    return producer.op_type == "ReduceSum" or (producer.op_type == "MatMul" and weight_slot(graph, producer) is None)

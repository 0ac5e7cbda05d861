"""Additions that TensorRT fuses into the convolution before them, if their other operand is quantised too."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from calibration.graph import Graph
from calibration.placement import Placement, feeds

# What may stand between the addition and the layers that read it: TensorRT fuses it into the same kernel.
_ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"}


@dataclass(frozen=True)
class Skip:
    """A residual addition.

    Attributes:
        node: name of the Add.
        slot: its input that gets a pair.
        tensor: what that input reads.
    """

    node: str
    slot: int
    tensor: str


def residual_skips(graph: Graph, placement: Placement) -> tuple[Skip, ...]:
    """The additions of a quantised convolution and a skip connection, whose sum quantised layers read.

    A convolution writes its sum in int8 only if what it adds comes in int8. Where both operands are written by
    quantised convolutions, the pair stands on the one with fewer layers above it, the short way. An addition whose sum
    feeds a decision that stays in float is left alone, and so is one that adds what a layer kept in float writes.
    """
    convolutions = {layer.node for layer in placement.layers if layer.op == "Conv"}
    kept = {layer.node for layer in placement.kept}
    quantised = set(placement.activations)
    depth = _depths(graph)
    found = []
    for node in graph.model.graph.node:
        if node.op_type != "Add" or any(name in graph.constants for name in node.input):
            continue
        if node.input[0] == node.input[1] or not _read_quantised(graph, node, quantised) or feeds(graph, node):
            continue
        fused = [slot for slot in (0, 1) if _writes_only_here(graph, node.input[slot], convolutions)]
        if not fused:
            continue
        # The slot that is not fused; of two candidates the deeper one is fused.
        slot = 1 - max(fused, key=lambda slot: depth.get(node.input[slot], 0))
        producer = graph.producers.get(node.input[slot])
        if producer is None or producer.name not in kept:
            found.append(Skip(node.name, slot, node.input[slot]))
    return tuple(found)


def addends(graph: Graph, placement: Placement) -> tuple[str, ...]:
    """The tensors that some subset of a placement's layers may want a pair for, in graph order: measure them all."""
    adds = {skip.node for skip in residual_skips(graph, placement)}
    names = [name for node in graph.model.graph.node if node.name in adds for name in node.input]
    return tuple(dict.fromkeys(names))


def _depths(graph: Graph) -> dict[str, int]:
    """Convolutions and matrix products on the longest path to every tensor."""
    depth: dict[str, int] = {}
    for node in graph.model.graph.node:
        above = max((depth.get(name, 0) for name in node.input), default=0)
        for name in node.output:
            depth[name] = above + (node.op_type in ("Conv", "MatMul", "Gemm"))
    return depth


def _writes_only_here(graph: Graph, name: str, convolutions: set[str]) -> bool:
    producer = graph.producers.get(name)
    alone = len(graph.consumers[name]) == 1 and name not in graph.outputs
    return producer is not None and producer.name in convolutions and alone


def _read_quantised(graph: Graph, node: onnx.NodeProto, quantised: set[str]) -> bool:
    """Whether a layer in int8 reads the sum, behind an activation at most."""
    if node.output[0] in quantised:
        return True
    behind = [reader for reader, _ in graph.consumers.get(node.output[0], []) if reader.op_type in _ACTIVATIONS]
    return any(reader.output[0] in quantised for reader in behind)

"""What in a graph the known-bad combinations are told by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedet.onnx_graph import FLOAT16, INT8, INT32, UINT8, Node, OnnxGraph

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


def has(graph: OnnxGraph, *operators: str) -> bool:
    """Whether one of these standard operators occurs."""
    return any(True for _ in graph.of(*operators))


def renamed_sampling(graph: OnnxGraph) -> bool:
    """GridSample with a mode in the words of opset 20."""
    return any(node.attributes.get("mode") in ("linear", "cubic") for node in graph.of("GridSample"))


def is_typed(graph: OnnxGraph) -> bool:
    """Half precision is written into the graph: what must not be is in float32 there already."""
    return any(tensor.dtype == FLOAT16 for tensor in graph.tensors.values()) or any(
        node.attributes.get("to") == FLOAT16 for node in graph.of("Cast")
    )


def spelt_norm(graph: OnnxGraph) -> bool:
    """A LayerNorm or RMSNorm out of single operators: the mean of a square, then its root."""
    for node in graph.of("ReduceMean"):
        square = graph.producer(node.inputs[0]) if node.inputs else None
        if square is None or square.domain:
            continue
        if square.op == "Pow" or (square.op == "Mul" and len(set(square.inputs)) == 1):
            return True
    return False


def zero_points(graph: OnnxGraph) -> Iterator[tuple[Node, int, np.ndarray[tuple[int], np.dtype[np.generic]] | None]]:
    """(node, element type, values) of every Q/DQ operator with a constant zero-point."""
    for node in graph.of(*_QUANTISERS):
        tensor = graph.tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
        if tensor is not None:
            yield node, tensor.dtype, tensor.values


def lacks_zero_points(graph: OnnxGraph) -> bool:
    """A Q/DQ operator without a zero-point of its own."""
    return any(len(node.inputs) < 3 or not node.inputs[2] for node in graph.of(*_QUANTISERS))


def shifted(graph: OnnxGraph) -> bool:
    """A zero-point other than 0."""
    return any(values is not None and bool(np.any(values)) for _, _, values in zero_points(graph))


def unsigned(graph: OnnxGraph) -> bool:
    """Unsigned integers between Q and DQ."""
    return any(dtype == UINT8 for _, dtype, _ in zero_points(graph))


def signed_activations(graph: OnnxGraph) -> bool:
    """Activations, not weights, in signed integers."""
    return any(
        dtype == INT8 and node.op == "QuantizeLinear" and node.inputs[0] not in graph.tensors
        for node, dtype, _ in zero_points(graph)
    )


def scale_not_positive(graph: OnnxGraph) -> bool:
    """A scale of 0 or below."""
    for node in graph.of(*_QUANTISERS):
        tensor = graph.tensors.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if (
            tensor is not None
            and tensor.values is not None
            and bool(np.any(np.asarray(tensor.values, np.float64) <= 0.0))
        ):
            return True
    return False


def integer_bias(graph: OnnxGraph) -> bool:
    """int32 constants, biases that is, behind a DequantizeLinear."""
    tensors = (graph.tensors.get(node.inputs[0]) for node in graph.of("DequantizeLinear") if node.inputs)
    return any(tensor is not None and tensor.dtype == INT32 for tensor in tensors)


def padded_pool_on_integers(graph: OnnxGraph) -> bool:
    """An AveragePool that counts its padding and reads integers with a zero-point other than 0."""
    moved = {node.outputs[0] for node, _, values in zero_points(graph) if values is not None and np.any(values)}
    for node in graph.of("AveragePool"):
        pads = node.attributes.get("pads", ())
        counts = node.attributes.get("count_include_pad") == 1 and isinstance(pads, tuple) and any(pads)
        if counts and node.inputs and node.inputs[0] in moved:
            return True
    return False

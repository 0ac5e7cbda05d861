"""Write the Q/DQ ONNX that one backend runs well, from ranges that are the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from calibration.graph import Graph
from calibration.observers import Range
from calibration.placement import Layer, Placement
from calibration.residual import addends, residual_skips
from calibration.sharing import pairs
from edgedet import InvalidInputError

BackendName = Literal["openvino", "onnxruntime", "tensorrt"]


@dataclass(frozen=True)
class Grid:
    """A uniform integer grid: real = (integer - zero_point) * scale.

    Attributes:
        scale: > 0, float32.
        zero_point: integer that stands for the real 0.
        signed: int8 where true, uint8 otherwise.
    """

    scale: float
    zero_point: int
    signed: bool

    @property
    def dtype(self) -> type[np.int8] | type[np.uint8]:
        """NumPy type of the integers."""
        return np.int8 if self.signed else np.uint8


def activation_grid(extent: Range, backend: BackendName) -> Grid:
    """Grid of an activation: signed and symmetric for TensorRT, unsigned with a zero-point elsewhere.

    x86 int8 dot products take unsigned x signed, so OpenVINO and onnxruntime run unsigned activations in int8 and fall
    back to float on most signed ones; TensorRT accepts symmetric scales only.
    """
    if backend == "tensorrt":
        signed_scale = half_scale(np.array(max(-extent.low, extent.high) / 127.0))
        return Grid(float(signed_scale), 0, signed=True)
    scale = _positive((extent.high - extent.low) / 255.0)
    return Grid(scale, int(np.clip(np.rint(-extent.low / scale), 0, 255)), signed=False)


def half_scale(scale: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The next half precision numbers at or above positive scales: a grid of that width has the same form in any type.

    A strongly typed network wants scales of the type of the tensors around them. Rounded afterwards, they would no
    longer be those that the integers were made with; small ones would become 0, which TensorRT refuses.
    """
    rounded = np.clip(scale, 2.0**-24, 65504.0).astype(np.float16)
    largest = np.float16(np.finfo(np.float16).max)
    up = np.where(rounded.astype(np.float64) < scale, np.nextafter(rounded, largest), rounded)
    return up.astype(np.float32)


def quantise_weight(
    weight: npt.NDArray[np.float32], axis: int, *, backend: BackendName = "openvino"
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric int8 weight in [-127, 127] and its scale per output channel.

    Args:
        weight: any rank.
        axis: output channels.
        backend: scales for TensorRT are half precision numbers (see `half_scale`).

    Raises:
        InvalidInputError: the weight holds NaN or infinity.
    """
    if not np.isfinite(weight).all():
        raise InvalidInputError("expected finite weights, got NaN or infinity; the checkpoint is broken")
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    peak = np.abs(weight).max(axis=others).astype(np.float64)
    exact = np.where(peak > 0, peak / 127.0, 1.0)
    scale = half_scale(exact) if backend == "tensorrt" else exact.astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    integers = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
    return integers, scale


def measured(graph: Graph, placement: Placement, backend: BackendName) -> tuple[str, ...]:
    """The tensors whose ranges `render` wants for a backend, or may want for fewer layers of the same placement."""
    skips = addends(graph, placement) if backend == "tensorrt" else ()
    return tuple(dict.fromkeys([*placement.activations, *skips]))


def render(
    graph: Graph,
    placement: Placement,
    ranges: Mapping[str, Range],
    backend: BackendName,
    *,
    means: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> onnx.ModelProto:
    """Copy of the float model with QuantizeLinear/DequantizeLinear around the layers of `placement`.

    Every pair carries an explicit zero-point. Biases stay float initializers: an int32 bias behind a
    DequantizeLinear is refused by TensorRT and buys nothing. A pair is read by layers and by operators that only move
    values to layers (see `calibration.sharing`): were it read by others, the backend would carry integers through
    whatever follows (see docs/calibration.md for what OpenVINO makes of a padded average pool).

    TensorRT gets two kinds of pairs more. Its layers want one right in front of them, also behind an operator that
    moves integers (the same grid again, which changes nothing); and it fuses a residual addition into the convolution
    before it only if the other operand has one (`calibration.residual`).

    Args:
        graph: float graph.
        placement: layers to wrap.
        ranges: range of every tensor of `measured`.
        backend: whose form to write.
        means: mean of every channel of the activations; where given, the bias takes back what rounding the weights does
            to the mean of each output channel (Nagel et al. 2019, section 4.2).

    Raises:
        InvalidInputError: a range is missing.
    """
    skips = residual_skips(graph, placement) if backend == "tensorrt" else ()
    missing = [name for name in [*placement.activations, *(skip.tensor for skip in skips)] if name not in ranges]
    if missing:
        raise InvalidInputError(f"expected a range for '{missing[0]}', got none; run the calibration again")
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    nodes = {node.name: node for node in model.graph.node}
    wrapped: dict[str, str] = {}
    inserted: list[onnx.NodeProto] = []
    placed = pairs(graph, placement, ranges)
    for name, extent in placed.ranges.items():
        wrapped[name] = _wrap_activation(model, inserted, name, activation_grid(extent, backend))
    for name in placed.movers:
        node = nodes[name]
        for slot, source in enumerate(node.input):
            node.input[slot] = wrapped.get(source, source)
    if backend == "tensorrt":
        for name, extent in placed.carried.items():
            wrapped[name] = _wrap_activation(model, inserted, name, activation_grid(extent, backend))
    for skip in skips:
        if skip.tensor not in wrapped:
            grid = activation_grid(ranges[skip.tensor], backend)
            wrapped[skip.tensor] = _wrap_activation(model, inserted, skip.tensor, grid)
        nodes[skip.node].input[skip.slot] = wrapped[skip.tensor]
    weights: dict[tuple[str, int], str] = {}
    for layer in placement.layers:
        key = (layer.weight, layer.axis)
        if key not in weights:
            weights[key] = _wrap_weight(model, inserted, graph, layer, backend)
        node = nodes[layer.node]
        if means is not None and layer.op in ("Conv", "Gemm") and layer.activation in means:
            _correct_bias(model, node, graph, layer, means[layer.activation], backend)
        node.input[0] = wrapped.get(layer.activation, layer.activation)
        node.input[1] = weights[key]
    _insert(model, inserted)
    _drop_unused(model)
    onnx.checker.check_model(model)
    return model


def _wrap_activation(model: onnx.ModelProto, inserted: list[onnx.NodeProto], name: str, grid: Grid) -> str:
    scale, zero = f"{name}/scale", f"{name}/zero_point"
    model.graph.initializer.append(numpy_helper.from_array(np.array(grid.scale, np.float32), scale))
    model.graph.initializer.append(numpy_helper.from_array(np.array(grid.zero_point, grid.dtype), zero))
    integer, real = f"{name}/quantized", f"{name}/dequantized"
    inserted.append(onnx.helper.make_node("QuantizeLinear", [name, scale, zero], [integer], f"{name}/Quantize"))
    inserted.append(onnx.helper.make_node("DequantizeLinear", [integer, scale, zero], [real], f"{name}/Dequantize"))
    return real


def _wrap_weight(
    model: onnx.ModelProto, inserted: list[onnx.NodeProto], graph: Graph, layer: Layer, backend: BackendName
) -> str:
    weight = graph.constants[layer.weight].astype(np.float32)
    integers, scales = quantise_weight(weight, layer.axis, backend=backend)
    name = f"{layer.weight}/axis{layer.axis}"
    model.graph.initializer.append(numpy_helper.from_array(integers, f"{name}/quantized"))
    model.graph.initializer.append(numpy_helper.from_array(scales, f"{name}/scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(len(scales), np.int8), f"{name}/zero_point"))
    inserted.append(
        onnx.helper.make_node(
            "DequantizeLinear",
            [f"{name}/quantized", f"{name}/scale", f"{name}/zero_point"],
            [f"{name}/dequantized"],
            f"{name}/Dequantize",
            axis=layer.axis,
        )
    )
    return f"{name}/dequantized"


def _correct_bias(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    graph: Graph,
    layer: Layer,
    means: npt.NDArray[np.float64],
    backend: BackendName,
) -> None:
    """Add (W - Wq) * E[x] to the bias: every output channel then has the float layer's mean, borders aside."""
    weight = graph.constants[layer.weight].astype(np.float32)
    integers, scales = quantise_weight(weight, layer.axis, backend=backend)
    shape = [1] * weight.ndim
    shape[layer.axis] = -1
    error = weight.astype(np.float64) - integers * scales.reshape(shape).astype(np.float64)
    if layer.op == "Conv":
        per_output = error.reshape(error.shape[0], error.shape[1], -1).sum(axis=2)
        groups = len(means) // error.shape[1]
        inputs = np.repeat(means.reshape(groups, -1), error.shape[0] // groups, axis=0)
        shift = (per_output * inputs).sum(axis=1)
    else:
        shift = error @ means if layer.axis == 0 else means @ error
    bias = graph.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(1)
    name = f"{node.name}/bias"
    model.graph.initializer.append(numpy_helper.from_array((bias + shift).astype(np.float32), name))
    del node.input[2:]
    node.input.append(name)


def _insert(model: onnx.ModelProto, inserted: list[onnx.NodeProto]) -> None:
    """Put each new node right after what it reads, which keeps the node list in execution order."""
    after: dict[str, list[onnx.NodeProto]] = {}
    for node in inserted:
        after.setdefault(node.input[0], []).append(node)
    known = [value.name for value in model.graph.input] + [tensor.name for tensor in model.graph.initializer]
    ordered: list[onnx.NodeProto] = []

    def emit(names: list[str]) -> None:
        for name in names:
            for node in after.pop(name, []):
                ordered.append(node)
                emit(list(node.output))

    emit(known)
    for node in list(model.graph.node):
        ordered.append(node)
        emit(list(node.output))
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _positive(scale: float) -> float:
    """A tensor that is always zero gets some scale; every value then maps to the zero-point."""
    return float(max(np.float32(scale), np.finfo(np.float32).tiny))

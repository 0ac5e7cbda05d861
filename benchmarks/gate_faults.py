"""Faults to plant into INT8 models, each of which a gate must refuse: for the tests and for `benchmarks.gate`.

All of them work by what nodes do, never by their names, and leave a valid ONNX model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from calibration.collect import session, with_outputs

Array = npt.NDArray[np.generic]
Feeds = Sequence[Mapping[str, Array]]


def swapped_channels(model: onnx.ModelProto) -> None:
    """The first convolution reads blue for red."""
    weight = _initializer(model, _source(model, _first_convolution(model).input[1]))
    _replace(weight, numpy_helper.to_array(weight)[:, ::-1])


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def wrong_normalisation(model: onnx.ModelProto, *, mean: Sequence[float], std: Sequence[float]) -> None:
    """A mean and a deviation are taken off pixels that the network wants as they are."""
    shift, scale = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (mean, std))
    image = model.graph.input[0].name
    readers = _readers(model, image)
    shifted = _insert(model, "Sub", [image, _constant(model, "fault/mean", shift)])
    _rewire(readers, image, _insert(model, "Div", [shifted, _constant(model, "fault/deviation", scale)]))


def scaled_activations(factor: float) -> Callable[[onnx.ModelProto], None]:
    """The scale of the activation in the middle of the network is multiplied: tiny zeroes it, small saturates it."""

    def change(model: onnx.ModelProto) -> None:
        quantised = list(_activations(model))
        scale = _initializer(model, quantised[len(quantised) // 2].input[1])
        _replace(scale, numpy_helper.to_array(scale) * np.float32(factor))

    return change


def garbage_layer(model: onnx.ModelProto) -> None:
    """The largest weight behind the query selection, or of all where there is none, on a grid of three values."""
    nodes = list(model.graph.node)
    start = next((at + 1 for at, node in enumerate(nodes) if node.op_type == "TopK"), 0)
    layers = [node for node in nodes[start:] if node.op_type in ("MatMul", "Gemm", "Conv")]
    weights = [(node, _real_weight(model, node.input[1])) for node in layers]
    node, values = max(weights, key=lambda layer: layer[1].size)
    scale = np.abs(values).max().astype(np.float32)
    parts = [
        _constant(model, "fault/weight", np.rint(values / scale).astype(np.int8)),
        _constant(model, "fault/weight/scale", scale),
        _constant(model, "fault/weight/zero", np.array(0, np.int8)),
    ]
    node.input[1] = _insert(model, "DequantizeLinear", parts, before=node)


def nearest_sampling(model: onnx.ModelProto) -> None:
    """Every GridSample takes the nearest value."""
    for node in model.graph.node:
        if node.op_type == "GridSample":
            kept = [entry for entry in node.attribute if entry.name != "mode"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("mode", "nearest")])


def permuted_labels(model: onnx.ModelProto, *, classes: int, swap: tuple[int, int] | None = None) -> None:
    """Every class comes out as the next one, or two classes as each other."""
    order = np.roll(np.arange(classes), -1)
    if swap is not None:
        order = np.arange(classes)
        order[list(swap)] = order[list(swap[::-1])]
    names = [output.name for output in model.graph.output]
    if "logits" in names:
        _behind(model, "logits", "Gather", lambda inner: [inner, _constant(model, "fault/order", order)], axis=2)
    else:
        _behind(model, "labels", "Gather", lambda inner: [_constant(model, "fault/order", order), inner], axis=0)


def batch_bug(model: onnx.ModelProto) -> None:
    """Every image of a batch gets the scores of the first one; alone, nothing is wrong."""
    scores = next(output.name for output in model.graph.output if output.name in ("logits", "scores"))
    inner = _rename(model, scores)
    first = _insert(
        model, "Gather", [inner, _constant(model, "fault/first", np.array([0], np.int64))], end=True, axis=0
    )
    nothing = _insert(model, "Sub", [inner, inner], end=True)
    model.graph.node.append(helper.make_node("Add", [nothing, first], [scores], "fault/batch"))


def int8_layernorm(model: onnx.ModelProto, feeds: Feeds) -> None:
    """Signed symmetric pairs in front of LayerNorms: OpenVINO then runs them in int8."""
    tensors = normalised(model)
    extents = _extents(model, tensors, feeds)
    for name in tensors:
        scale = np.float32(max(-extents[name][0], extents[name][1]) / 127)
        _pair(model, name, scale, np.array(0, np.int8))


def padded_pool(model: onnx.ModelProto, feeds: Feeds) -> None:
    """A uint8 pair with a zero-point in front of average pools that count their padding, which OpenVINO gets wrong."""
    tensors = [
        node.input[0]
        for node in model.graph.node
        if node.op_type == "AveragePool" and any(entry.name == "count_include_pad" for entry in node.attribute)
    ]
    for name, (low, high) in _extents(model, tensors, feeds).items():
        scale = np.float32((high - low) / 255)
        _pair(model, name, scale, np.array(np.clip(np.rint(-low / scale), 0, 255), np.uint8))


def normalised(model: onnx.ModelProto) -> list[str]:
    """Tensors that a LayerNorm reads, as one operator or as x - mean(x)."""
    means = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "ReduceMean"}
    found = []
    for node in model.graph.node:
        whole = node.op_type == "LayerNormalization"
        parts = node.op_type == "Sub" and means.get(node.input[1]) == node.input[0]
        if whole or parts:
            found.append(node.input[0])
    return list(dict.fromkeys(found))


def _extents(model: onnx.ModelProto, tensors: Sequence[str], feeds: Feeds) -> dict[str, tuple[float, float]]:
    """Smallest (at most 0) and largest value of tensors over some inputs."""
    runner = session(with_outputs(model, tensors))
    wanted = {value.name for value in runner.get_inputs()}
    low, high = dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 1e-6)
    for feed in feeds:
        values = runner.run(list(tensors), {name: value for name, value in feed.items() if name in wanted})
        for name, value in zip(tensors, values, strict=True):
            low[name], high[name] = min(low[name], float(value.min())), max(high[name], float(value.max()))
    return {name: (low[name], high[name]) for name in tensors}


def _pair(model: onnx.ModelProto, name: str, scale: np.float32, zero: Array) -> None:
    """QuantizeLinear and DequantizeLinear between a tensor and all that read it."""
    readers = _readers(model, name)
    parts = [_constant(model, f"fault/{name}/scale", scale), _constant(model, f"fault/{name}/zero", zero)]
    integers = _insert(model, "QuantizeLinear", [name, *parts])
    _rewire(readers, name, _insert(model, "DequantizeLinear", [integers, *parts]))


def _behind(
    model: onnx.ModelProto, output: str, kind: str, inputs: Callable[[str], list[str]], **attributes: object
) -> None:
    """Put a node between an output and what makes it."""
    inner = _rename(model, output)
    model.graph.node.append(helper.make_node(kind, inputs(inner), [output], f"fault/{output}", **attributes))


def _rename(model: onnx.ModelProto, output: str) -> str:
    """Give a tensor that is an output another name, so that a new node can make the output."""
    inner = f"{output}/inner"
    for node in model.graph.node:
        node.output[:] = [inner if name == output else name for name in node.output]
        node.input[:] = [inner if name == output else name for name in node.input]
    return inner


def _first_convolution(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "Conv")


def _activations(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    return (node for node in model.graph.node if node.op_type == "QuantizeLinear")


def _source(model: onnx.ModelProto, name: str) -> str:
    """The initializer that a weight comes from, through its DequantizeLinear."""
    made = next((node for node in model.graph.node if name in node.output), None)
    return made.input[0] if made is not None and made.op_type == "DequantizeLinear" else name


def _real_weight(model: onnx.ModelProto, name: str) -> npt.NDArray[np.float32]:
    """A constant weight in float, empty for what is no constant."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    source = _source(model, name)
    if source not in constants:
        return np.zeros(0, np.float32)
    values = numpy_helper.to_array(constants[source]).astype(np.float32)
    if source == name:
        return values
    made = next(node for node in model.graph.node if name in node.output)
    scale = numpy_helper.to_array(constants[made.input[1]])
    axis = next((entry.i for entry in made.attribute if entry.name == "axis"), 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    return values * (scale.reshape(shape) if scale.ndim else scale)


def _initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _replace(tensor: onnx.TensorProto, values: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _constant(model: onnx.ModelProto, name: str, values: Array | np.float32) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def _readers(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if name in node.input]


def _rewire(readers: Sequence[onnx.NodeProto], before: str, after: str) -> None:
    for node in readers:
        node.input[:] = [after if name == before else name for name in node.input]


def _insert(
    model: onnx.ModelProto,
    kind: str,
    inputs: Sequence[str],
    *,
    before: onnx.NodeProto | None = None,
    end: bool = False,
    **attributes: object,
) -> str:
    """Add a node right after what it reads, before another node, or at the end; returns its output."""
    nodes = model.graph.node
    output = f"fault/{kind}_{len(nodes)}"
    node = helper.make_node(kind, list(inputs), [output], output, **attributes)
    if end:
        nodes.append(node)
    elif before is not None:
        nodes.insert(next(at for at, other in enumerate(nodes) if other is before or other == before), node)
    else:
        made = [at for at, other in enumerate(nodes) if set(other.output) & set(inputs)]
        nodes.insert(max(made, default=-1) + 1, node)
    return output

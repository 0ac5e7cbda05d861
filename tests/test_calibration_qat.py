"""Fine-tuning: the graph in torch against onnxruntime, its roundings against the rendered model, and training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cell_world import make_bundle, make_images, make_model
from onnx import TensorProto, helper, numpy_helper

from calibration.cli import main
from calibration.collect import session
from calibration.graph import Graph, load, prepare
from calibration.observers import Range
from calibration.placement import Placement, PlacementOptions, place
from calibration.qat.call import Call
from calibration.qat.fake_quant import fake_activation, fake_weight
from calibration.qat.finetune import Finetuned, FinetuneOptions, finetune
from calibration.qat.loss import distillation_loss, generalised_iou
from calibration.qat.module import OPERATORS, GraphModule, float_module, steps_of
from calibration.qat.quantised import STRETCH, quantised_module, trained_graph, trained_ranges
from calibration.qat.targets import find_targets
from calibration.render import BackendName, Grid, activation_grid, measured, quantise_weight, render
from edgedet import InvalidInputError, ModelError
from edgedet.bundle import load_model_json

_NUMPY = {np.dtype(np.float32): 1, np.dtype(np.int64): 7, np.dtype(np.bool_): 9, np.dtype(np.int32): 6}


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape).astype(np.float32)


def ints(*values: object) -> np.ndarray:
    return np.array(values, np.int64)


# Operators

X = floats(2, 3, 6, 5)
CASES: list[tuple[str, list[np.ndarray | None], dict[str, object]]] = [
    ("Conv", [X, floats(4, 3, 3, 3), floats(4)], {"pads": [0, 0, 1, 1], "strides": [2, 2]}),
    ("Conv", [X, floats(3, 1, 3, 3)], {"pads": [2, 2, 2, 2], "dilations": [2, 2], "group": 3}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("MaxPool", [-np.abs(X)], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "count_include_pad": 1}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 0}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "pads": [0, 1, 1, 0], "count_include_pad": 1}),
    ("GlobalAveragePool", [X], {}),
    ("GlobalMaxPool", [X], {}),
    ("Pad", [X, ints(0, 1, 2, 0, 0, 0, 1, 3), np.float32(0.5)], {}),
    ("Pad", [X, ints(0, 0, 2, 1, 0, 0, 1, 3)], {"mode": "reflect"}),
    ("Pad", [X, ints(0, 0, 2, 1, 0, 0, 1, 3)], {"mode": "edge"}),
    (
        "Resize",
        [X, None, None, ints(2, 3, 15, 7)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    ("Resize", [X, None, np.array([1, 1, 3, 2], np.float32)], {"mode": "nearest"}),
    ("Resize", [X, None, None, ints(2, 3, 13, 11)], {"mode": "linear"}),
    (
        "Resize",
        [X, None, None, ints(2, 3, 13, 11)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    ("GridSample", [X, 1.3 * floats(2, 4, 7, 2)], {"mode": "bilinear", "padding_mode": "zeros"}),
    ("GridSample", [X, 1.3 * floats(2, 4, 7, 2)], {"padding_mode": "border", "align_corners": 1}),
    ("GridSample", [X, 1.3 * floats(2, 4, 7, 2)], {"mode": "nearest"}),
    ("Gather", [floats(4, 5, 3), ints([0, -1], [2, 4])], {"axis": 1}),
    ("Gather", [floats(4, 5), np.array(-2, np.int64)], {"axis": 0}),
    ("GatherElements", [floats(4, 5), ints([0, -1, 2], [4, 1, 0])], {"axis": 1}),
    ("GatherND", [floats(2, 5, 3), ints([[4], [-1]], [[0], [2]])], {"batch_dims": 1}),
    ("GatherND", [floats(2, 5, 3), ints([0, 4], [1, -2])], {}),
    ("Slice", [floats(6, 7), ints(1), ints(2**63 - 1), ints(-1), ints(2)], {}),
    ("Slice", [floats(6, 7), ints(-1, 5), ints(-100, 1), ints(0, 1), ints(-2, -1)], {}),
    ("Slice", [floats(6, 7), ints(-3, 0), ints(99, -2)], {}),
    ("Split", [floats(2, 7), ints(3, 0, 4)], {"axis": -1}),
    ("Split", [floats(2, 6)], {"axis": 1}),
    ("TopK", [np.array([[1, 3, 3, 2, 3], [0, 0, 0, 0, -1]], np.float32), ints(3)], {"axis": -1}),
    ("TopK", [floats(3, 5), ints(2)], {"axis": 0, "largest": 0}),
    ("Reshape", [floats(2, 3, 4), ints(0, -1, 2)], {}),
    ("Flatten", [floats(2, 3, 4)], {"axis": 2}),
    ("Flatten", [floats(2, 3, 4)], {"axis": 0}),
    ("Transpose", [floats(2, 3, 4)], {}),
    ("Transpose", [floats(2, 3, 4)], {"perm": [2, 0, 1]}),
    ("Unsqueeze", [floats(2, 3), ints(-1, 0)], {}),
    ("Squeeze", [floats(1, 3, 1), ints(-1)], {}),
    ("Squeeze", [floats(1, 3, 1)], {}),
    ("Expand", [floats(3, 1), ints(2, 1, 4)], {}),
    ("Tile", [floats(2, 3), ints(2, 3)], {}),
    ("Concat", [floats(2, 3), floats(2, 1)], {"axis": -1}),
    ("Shape", [X], {"start": 1, "end": -1}),
    ("Range", [np.array(3, np.int64), np.array(11, np.int64), np.array(2, np.int64)], {}),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(np.array([7], np.int64))}),
    ("Cast", [np.array([1.7, -1.7], np.float32)], {"to": TensorProto.INT64}),
    ("Div", [ints(7, -7, 7), ints(2, 2, -2)], {}),
    ("Mod", [ints(7, -7, 7), ints(3, 3, -3)], {}),
    ("Mod", [np.float32([7.5, -7.5]), np.float32([2, 2])], {"fmod": 1}),
    ("Pow", [np.abs(floats(3, 4)), np.array(2, np.float32)], {}),
    ("Round", [np.array([0.5, 1.5, -2.5, 2.4], np.float32)], {}),
    ("Clip", [floats(3, 4), np.float32(-0.1), None], {}),
    ("Clip", [floats(3, 4), None, np.float32(0.3)], {}),
    ("Where", [floats(3, 4) > 0, floats(3, 4), np.array(0, np.float32)], {}),
    ("ReduceMean", [X], {"axes": [-1, 1], "keepdims": 0}),
    ("ReduceMax", [X], {"axes": [-1]}),
    ("ReduceMin", [X], {"axes": [2, 3]}),
    ("ReduceSum", [X, ints(2)], {"keepdims": 0}),
    ("ReduceSum", [X], {}),
    ("ReduceSum", [X], {"noop_with_empty_axes": 1}),
    ("ArgMax", [floats(3, 4)], {"axis": 1, "keepdims": 0}),
    ("Softmax", [floats(2, 3, 4)], {"axis": 1}),
    ("LogSoftmax", [floats(2, 3, 4)], {}),
    ("LayerNormalization", [floats(2, 3, 4), floats(3, 4), floats(3, 4)], {"axis": 1, "epsilon": 1e-3}),
    ("BatchNormalization", [X, floats(3), floats(3), floats(3), np.abs(floats(3))], {"epsilon": 1e-3}),
    ("Gemm", [floats(4, 2), floats(3, 4), floats(3)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Einsum", [floats(2, 3, 4), floats(2, 5, 4)], {"equation": "bqc,bkc->bqk"}),
    ("MatMul", [floats(2, 3, 4), floats(4, 5)], {}),
    ("Max", [floats(3, 4), floats(4), floats(1, 4)], {}),
    ("HardSigmoid", [floats(3, 4)], {"alpha": 0.3}),
    ("HardSwish", [floats(3, 4) * 4], {}),
    ("LeakyRelu", [floats(3, 4)], {}),
    ("Softplus", [floats(3, 4)], {}),
    *[(name, [np.abs(floats(3, 4)) + 0.1], {}) for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity")],
    *[
        (name, [np.abs(floats(3, 4)) + 0.1], {})
        for name in ("Log", "Neg", "Reciprocal", "Sigmoid", "Sin", "Sqrt", "Tanh")
    ],
    *[(name, [ints(1, 2, 3), ints(3, 2, 1)], {}) for name in ("Equal", "Greater", "Less", "Sub")],
    *[(name, [ints(1, 2, 3), ints(3, 2, 1)], {}) for name in ("GreaterOrEqual", "LessOrEqual", "Min")],
]


def one_node(kind: str, inputs: Sequence[np.ndarray | None], attributes: Mapping[str, object]) -> onnx.ModelProto:
    names = ["" if value is None else f"x{at}" for at, value in enumerate(inputs)]
    outputs = {"TopK": 2, "Split": 3 if len(inputs) > 1 else 2}.get(kind, 1)
    values = [
        helper.make_tensor_value_info(name, _NUMPY[value.dtype], value.shape)
        for name, value in zip(names, inputs, strict=True)
        if value is not None
    ]
    node = helper.make_node(kind, names, [f"y{at}" for at in range(outputs)], "node", **attributes)
    graph = helper.make_graph([node], "one", values, [onnx.ValueInfoProto(name=name) for name in node.output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"), CASES, ids=[f"{at}-{case[0]}" for at, case in enumerate(CASES)]
)
def test_an_operator_gives_what_onnxruntime_gives(
    kind: str, inputs: list[np.ndarray | None], attributes: dict[str, object]
) -> None:
    inputs = [None if value is None else np.asarray(value) for value in inputs]
    model = one_node(kind, inputs, attributes)
    feed = {f"x{at}": value for at, value in enumerate(inputs) if value is not None}
    expected = session(model, threads=1).run(None, feed)
    outputs = [value.name for value in model.graph.output]
    module = GraphModule(steps_of(model), {}, ())
    found = module({name: torch.from_numpy(value.copy()) for name, value in feed.items()}, outputs)
    for name, value in zip(outputs, expected, strict=True):
        assert found[name].numpy().dtype == value.dtype
        np.testing.assert_allclose(found[name].numpy(), value, rtol=1e-5, atol=1e-5)


def test_no_operator_is_untested() -> None:
    elsewhere = {"Add", "Mul", "Relu", "Not", "And", "Or", "Sum", "Gelu"}
    assert set(OPERATORS) - {kind for kind, _, _ in CASES} == elsewhere


@pytest.mark.parametrize("kind", ["GridSample", "GatherND", "Softmax", "TopK", "Slice", "LayerNormalization", "Resize"])
def test_gradients_agree_with_finite_differences(kind: str) -> None:
    _, inputs, attributes = next(case for case in CASES if case[0] == kind)
    values = [None if value is None else torch.from_numpy(np.asarray(value)) for value in inputs]
    values = [value.double() if value is not None and value.is_floating_point() else value for value in values]
    first = values[0]
    assert first is not None

    def run(value: torch.Tensor) -> torch.Tensor:
        made = OPERATORS[kind](Call("node", kind, attributes, [value, *values[1:]]))
        return made[0] if isinstance(made, tuple) else made

    # no ties for TopK, whose gradient is not defined there
    start = torch.from_numpy(np.random.default_rng(1).permutation(first.numel()).reshape(first.shape) / 7.0)
    assert torch.autograd.gradcheck(run, (start.requires_grad_(),))


def test_what_is_not_covered_is_named() -> None:
    model = one_node("Hardmax", [floats(2, 3)], {})
    with pytest.raises(ModelError, match="Hardmax"):
        steps_of(model)
    same = one_node("MaxPool", [X], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"})
    module = GraphModule(steps_of(same), {}, ())
    with pytest.raises(ModelError, match="MaxPool 'node': expected explicit pads"):
        module({"x0": torch.from_numpy(X)}, ["y0"])
    model = one_node("Relu", [X], {})
    with pytest.raises(ModelError, match="tensors of the graph or its feed, got x0"):
        GraphModule(steps_of(model), {}, ())({}, ["y0"])
    model.opset_import[0].version = 12
    with pytest.raises(ModelError, match="operator set 13 or newer, got 12"):
        steps_of(model)


# Rounding

GRIDS = [Grid(0.25, 0, signed=True), Grid(0.1, 37, signed=False), Grid(0.3, 255, signed=False)]


@pytest.mark.parametrize("grid", GRIDS)
def test_activations_are_rounded_as_onnxruntime_does(grid: Grid) -> None:
    """Values on, between and beyond the levels, ties included."""
    values = np.concatenate([np.arange(-700, 700) * np.float32(grid.scale / 2), floats(500) * 60]).astype(np.float32)
    zero = numpy_helper.from_array(np.array(grid.zero_point, grid.dtype), "z")
    scale = numpy_helper.from_array(np.array(grid.scale, np.float32), "s")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)],
        [zero, scale],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (expected,) = session(model, threads=1).run(None, {"x": values})
    tensor = torch.from_numpy(values).requires_grad_()
    stretch = torch.zeros((), requires_grad=True)
    found = fake_activation(tensor, grid, stretch)
    np.testing.assert_array_equal(found.detach().numpy(), expected)
    found.sum().backward()
    assert tensor.grad is not None
    low, high = (np.array(limit) for limit in ((-128, 127) if grid.signed else (0, 255)))
    integers = np.rint(values / np.float32(grid.scale)) + grid.zero_point
    inside = (integers >= low) & (integers <= high)
    np.testing.assert_array_equal(tensor.grad.numpy(), inside.astype(np.float32))
    # LSQ: the rounding error inside, the last integer outside, in steps
    steps = values / np.float32(grid.scale)
    slope = np.where(inside, np.rint(steps) - steps, np.clip(integers, low, high) - grid.zero_point)
    assert stretch.grad is not None
    assert float(stretch.grad) == pytest.approx(grid.scale * slope.sum() / np.sqrt(len(values) * 255), rel=1e-3)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("backend", ["openvino", "tensorrt"])
def test_weights_are_rounded_as_rendering_does(axis: int, backend: BackendName) -> None:
    weight = floats(6, 5, 3) * np.float32(2.0) ** np.arange(-9, -3, dtype=np.float32).reshape(6, 1, 1)
    weight[2] = 0.0
    tensor = torch.from_numpy(weight).requires_grad_()
    found = fake_weight(tensor, axis, backend)
    integers, scales = quantise_weight(weight, axis, backend=backend)
    shape = [1, 1, 1]
    shape[axis] = -1
    np.testing.assert_array_equal(found.detach().numpy(), integers * scales.reshape(shape))
    (found * 3).sum().backward()
    assert tensor.grad is not None
    assert bool((tensor.grad == 3).all())


# The rendered model


def network(seed: int = 0) -> onnx.ModelProto:
    """Convolutions, a residual, a concatenation whose integers are carried, tokens, a Gemm, a MatMul, a selection."""
    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {
        "w0": rng.normal(size=(16, 3, 3, 3)) / 5,
        "b0": rng.normal(size=16) / 5,
        "w1": rng.normal(size=(16, 16, 1, 1)) / 4,
        "w2": rng.normal(size=(16, 16, 3, 3)) / 12,
        "b2": rng.normal(size=16) / 5,
        "w3": rng.normal(size=(16, 32, 1, 1)) / 6,
        "w4": rng.normal(size=(16, 16)) / 4,
        "b4": rng.normal(size=16) / 5,
        "w5": rng.normal(size=(16, 5)) / 4,
        "w6": rng.normal(size=(4, 16)) / 4,
        "b6": rng.normal(size=4) / 5,
    }
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    for name, value in (("tokens", [0, 16, 64]), ("k", [6]), ("last", [-1]), ("rows", [-1, 16]), ("back", [-1, 6, 4])):
        tensors.append(numpy_helper.from_array(np.array(value, np.int64), name))
    nodes = [
        helper.make_node("Conv", ["images", "w0", "b0"], ["c0"], pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"]),
        helper.make_node("Conv", ["c1", "w2", "b2"], ["c2"], pads=[1] * 4),
        helper.make_node("Add", ["r0", "c2"], ["a"]),
        helper.make_node("Relu", ["a"], ["r1"]),
        helper.make_node("Concat", ["c1", "r1"], ["j"], axis=1),
        helper.make_node("Conv", ["j", "w3"], ["c3"]),
        helper.make_node("Relu", ["c3"], ["map"]),
        helper.make_node("Reshape", ["map", "tokens"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "w4"], ["m"]),
        helper.make_node("Add", ["m", "b4"], ["h"]),
        helper.make_node("Relu", ["h"], ["rh"]),
        helper.make_node("MatMul", ["rh", "w5"], ["scores"]),
        helper.make_node("ReduceMax", ["scores"], ["best"], axes=[-1], keepdims=0),
        helper.make_node("TopK", ["best", "k"], ["top", "index"]),
        helper.make_node("Unsqueeze", ["index", "last"], ["i"]),
        helper.make_node("GatherND", ["rh", "i"], ["q"], batch_dims=1),
        helper.make_node("GatherND", ["scores", "i"], ["logits"], batch_dims=1),
        helper.make_node("Reshape", ["q", "rows"], ["q2"]),
        helper.make_node("Gemm", ["q2", "w6", "b6"], ["b"], transB=1),
        helper.make_node("Sigmoid", ["b"], ["bs"]),
        helper.make_node("Reshape", ["bs", "back"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 6, 5]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 6, 4]),
        ],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(count, 3, 8, 8)).astype(np.float32)


def quantised(backend: BackendName) -> tuple[Graph, Placement, dict[str, Range], onnx.ModelProto]:
    graph = prepare(network())
    placement = place(graph, PlacementOptions(scope="all", minimum_channels=1))
    names = measured(graph, placement, backend)
    tapped = with_outputs(graph.model, names)
    values = dict(zip(names, session(tapped, threads=1).run(list(names), {"images": images(16)}), strict=True))
    ranges = {
        name: Range(min(float(np.quantile(v, 0.01)), 0.0), float(np.quantile(v, 0.99))) for name, v in values.items()
    }
    means = {name: v.mean(axis=(0, 2, 3) if v.ndim == 4 else tuple(range(v.ndim - 1))) for name, v in values.items()}
    return graph, placement, ranges, render(graph, placement, ranges, backend, means=means)


def with_outputs(model: onnx.ModelProto, names: Sequence[str], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    copy.graph.output.extend(helper.make_tensor_value_info(n, kind, None) for n in names if n not in present)
    return copy


def run_both(
    model: onnx.ModelProto,
    module: GraphModule,
    feed: dict[str, np.ndarray],
    outputs: Sequence[str],
    choices: Sequence[str],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values of `outputs` from onnxruntime and from torch, which is told what onnxruntime selected."""
    runner = session(with_outputs(model, choices, TensorProto.INT64), threads=1)
    expected = dict(zip([*outputs, *choices], runner.run([*outputs, *choices], feed), strict=True))
    tensors = {name: torch.from_numpy(value) for name, value in feed.items()}
    with torch.no_grad():
        found = module(tensors, outputs, selected={name: torch.from_numpy(expected[name]) for name in choices})
    return [(found[name].numpy(), expected[name]) for name in outputs]


@pytest.mark.parametrize("backend", ["openvino", "tensorrt"])
def test_the_module_computes_what_was_rendered(backend: BackendName) -> None:
    graph, placement, ranges, rendered = quantised(backend)
    module = quantised_module(graph, placement, rendered, backend)
    assert {layer.op for layer in placement.layers} == {"Conv", "MatMul"}
    pairs = [node for node in rendered.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) > 4
    logits, boxes = run_both(rendered, module, {"images": images(3, 7)}, ["logits", "boxes"], ["index"])
    # A value that lies between two levels may fall to either side; one step is about 1 % of the range here.
    step = max(grid_step(ranges[layer.activation], backend) for layer in placement.layers)
    for found, expected in (logits, boxes):
        assert np.abs(found - expected).max() < 3 * step
        assert np.abs(found - expected).mean() < 1e-3
    exact = float_module(graph)
    float_logits = run_both(graph.model, exact, {"images": images(3, 7)}, ["logits"], ["index"])[0][0]
    assert np.abs(float_logits - logits[1]).mean() > 10 * np.abs(logits[0] - logits[1]).mean()


def grid_step(extent: Range, backend: BackendName) -> float:
    return activation_grid(extent, backend).scale


@pytest.mark.parametrize("backend", ["openvino", "tensorrt"])
def test_trained_weights_go_back_through_render(backend: BackendName) -> None:
    graph, placement, ranges, rendered = quantised(backend)
    before = graph.model.SerializeToString(deterministic=True)
    module = quantised_module(graph, placement, rendered, backend)
    assert initializers(again(graph, placement, ranges, rendered, module, backend)) == initializers(rendered)
    with torch.no_grad():
        for name, parameter in module.trainable.items():
            noise = 0.1 * torch.rand(parameter.shape)
            parameter.copy_(noise if name.startswith(STRETCH) else parameter * (1.0 + noise))
    tuned = again(graph, placement, ranges, rendered, module, backend)
    assert graph.model.SerializeToString(deterministic=True) == before
    assert initializers(tuned).keys() == initializers(rendered).keys()
    for found, expected in run_both(tuned, module, {"images": images(3, 7)}, ["logits", "boxes"], ["index"]):
        assert np.abs(found - expected).mean() < 1e-3
    assert set(module.trainable) >= {"w0", "w2", "w5", "w6", "b6", "b4"}


def again(
    graph: Graph,
    placement: Placement,
    ranges: dict[str, Range],
    rendered: onnx.ModelProto,
    module: GraphModule,
    backend: BackendName,
) -> onnx.ModelProto:
    """The model as it is rendered from what the module holds now, without bias correction."""
    trained = trained_graph(graph, placement, rendered, module)
    return render(trained, placement, trained_ranges(graph, placement, ranges, module, backend), backend)


def initializers(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}


def test_a_constant_with_two_roles_is_fixed() -> None:
    model = network()
    extra = helper.make_node("Add", ["flat", "w4"], ["odd"])  # never right, and enough for the rule
    graph = prepare(model)
    assert "w4" in float_module(graph).trainable
    graph.model.graph.node.append(extra)
    graph.reindex()
    assert "w4" not in float_module(graph).trainable


# Targets and loss


def test_targets_are_found_by_what_reads_them() -> None:
    targets = find_targets(prepare(network()), {"logits": "logits", "boxes": "boxes"})
    assert targets.choices == ("index",)
    assert targets.logits == ("scores", "logits")
    assert targets.maps == ("map",)
    assert not targets.corners
    with pytest.raises(ModelError, match="expected an output 'classes'"):
        find_targets(prepare(network()), {"logits": "classes", "boxes": "boxes"})


def test_generalised_iou_of_known_boxes() -> None:
    first = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 2, 2], [1, 1, 1, 1]])
    second = torch.tensor([[0.0, 0, 2, 2], [2, 0, 3, 1], [1, 1, 3, 3], [1, 1, 1, 1]])
    expected = [1.0, 0.0 - 1 / 3, 1 / 7 - 2 / 9]
    np.testing.assert_allclose(generalised_iou(first, second)[:3].numpy(), expected, atol=1e-6)
    assert bool(generalised_iou(first, second).isfinite().all())


def test_the_loss_is_zero_for_the_teacher_and_its_gradient_is_right() -> None:
    targets = find_targets(prepare(network()), {"logits": "logits", "boxes": "boxes"})
    generator = torch.Generator().manual_seed(0)
    shapes = {"scores": (2, 64, 5), "logits": (2, 6, 5), "boxes": (2, 6, 4), "map": (2, 16, 8, 8)}
    teacher = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    same = distillation_loss(teacher, teacher, targets, (8, 8))
    assert {name: float(value) for name, value in same.items()} == pytest.approx(dict.fromkeys(same, 0.0), abs=1e-5)
    other = {name: value + 0.1 * torch.rand(value.shape, generator=generator) for name, value in teacher.items()}
    terms = distillation_loss(other, teacher, targets, (8, 8))
    assert all(float(value) > 0 for value in terms.values())
    # classes: against the textbook formula in NumPy
    total = 0.0
    for name in ("scores", "logits"):
        p, q = (1 / (1 + np.exp(-value[name].double().numpy())) for value in (teacher, other))
        total += (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum() / max(p.sum(), 1)
    assert float(terms["class"]) == pytest.approx(total / 2, rel=1e-3)
    # boxes count by the confidence of the teacher
    silent = {**teacher, "logits": teacher["logits"] - torch.tensor([[40.0], [0], [0], [0], [0], [0]])}
    moved = {**silent, "boxes": teacher["boxes"] + torch.tensor([[0.5], [0], [0], [0], [0], [0]])}
    assert float(distillation_loss(moved, silent, targets, (8, 8))["l1"]) < 1e-6


# Training

SPEC = {
    "input": {"name": "images", "width": 8, "height": 8},
    "output": {"logits": "logits", "boxes": "boxes"},
}
OPTIONS = FinetuneOptions(epochs=3, rate=3e-3, batch=2, threads=1)


def tuned(options: FinetuneOptions = OPTIONS, **more: Any) -> tuple[Finetuned, Graph]:
    graph, placement, ranges, rendered = quantised("openvino")
    tensors = images(20, 3)
    loaders = [lambda at=at: tensors[at] for at in range(len(tensors))]
    return finetune(graph, placement, ranges, rendered, "openvino", loaders, spec=SPEC, options=options, **more), graph


def weights(graph: Graph) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in graph.constants.items()}


def test_training_brings_the_student_nearer_to_its_teacher() -> None:
    result, _ = tuned(FinetuneOptions(epochs=8, rate=2e-3, batch=2, threads=1))
    totals = [terms["total"] for terms in result.losses]
    assert len(totals) == 9
    assert totals[result.best] == min(totals) < 0.8 * totals[0]
    assert result.images == (18, 2)
    ranges = quantised("openvino")[2]
    assert result.ranges.keys() == ranges.keys()
    assert all(result.ranges[name] != extent for name, extent in ranges.items())
    worst, graph = tuned(FinetuneOptions(epochs=1, rate=0.03, batch=2, threads=1))
    assert worst.best == 0
    start, placement, _, rendered = quantised("openvino")
    module = quantised_module(start, placement, rendered, "openvino")
    assert weights(worst.graph) == weights(trained_graph(start, placement, rendered, module))
    assert weights(graph) == weights(start)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 9, 10, 26])
def test_an_interrupted_run_ends_with_the_same_weights(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within an epoch, at its end, and in the last one; what was drawn and the optimiser's memory come back."""
    monkeypatch.setattr("calibration.qat.state._SECONDS_BETWEEN", 0.0)
    whole, _ = tuned()
    calls = 0

    def stop(stage: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        assert (stage, done, total) == ("fine-tuning", 2 * calls, 54)
        if calls == after:
            raise StoppedError

    state = tmp_path / "deep" / "state.safetensors"
    with pytest.raises(StoppedError):
        tuned(state=state, progress=stop)
    assert state.is_file()
    seen: list[int] = []
    resumed, _ = tuned(state=state, progress=lambda stage, done, total: seen.append(done))
    assert seen[0] == 2 * (after + 1)
    assert resumed.losses == whole.losses
    assert weights(resumed.graph) == weights(whole.graph)
    assert list(state.parent.iterdir()) == []


def test_a_state_that_cannot_be_read_counts_as_missing(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    state.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      rubbish")
    result, _ = tuned(FinetuneOptions(epochs=1, rate=1e-3, batch=2, threads=1), state=state)
    assert len(result.losses) == 2


def test_bad_options_and_too_few_images_are_refused() -> None:
    for bad in ({"epochs": 0}, {"rate": 0.0}, {"batch": 0}, {"held_out": 0.6}, {"threads": -1}, {"seed": -1}):
        with pytest.raises(InvalidInputError, match="expected"):
            FinetuneOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="expected at least 40 images for batches of 20"):
        tuned(FinetuneOptions(batch=20))
    broken = [lambda: np.full((3, 8, 8), np.nan, np.float32)] * 8
    graph, placement, ranges, rendered = quantised("openvino")
    with pytest.raises(ModelError, match="lower --lr"):
        finetune(graph, placement, ranges, rendered, "openvino", broken, spec=SPEC, options=OPTIONS)


# The command


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_images(root / "train", 16, seed=1)
    make_images(root / "val", 8, seed=2)
    make_bundle(root / "bundle", make_model(root / "model.onnx"))
    assert main(["sample", str(root / "bundle"), "--images", str(root / "train"), "--count", "16"]) == 0
    return root


def test_the_command_writes_a_model_that_passes(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(world / "bundle", tmp_path / "bundle"))
    before = load_model_json(bundle)["files"]["model.onnx"]
    assert main(["finetune", str(bundle), "--epochs", "4", "--lr", "1e-4", "--batch", "2", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "trained on 14 images" in said
    assert "kept" in said
    spec = load_model_json(bundle)
    assert spec["files"]["model.onnx"] == before
    entry = json.loads((bundle / "calibration.json").read_text())["quantization"]["openvino"]
    assert entry["finetuned"]["float_sha256"] == before["sha256"]
    assert entry["int8_sha256"] == spec["files"][spec["models"]["int8"]["openvino"]]["sha256"]
    assert entry["finetuned"]["options"]["rate"] == 1e-4
    assert len(entry["finetuned"]["losses"]) == 5
    assert entry["finetuned"]["best_epoch"] > 0
    plain = tmp_path / "plain"
    shutil.copytree(world / "bundle", plain)
    assert main(["quantize", str(plain), "--threads", "1"]) == 0
    assert "finetuned" not in json.loads((plain / "calibration.json").read_text())["quantization"]["openvino"]
    changed = [weights_of(folder / spec["models"]["int8"]["openvino"]) for folder in (plain, bundle)]
    assert changed[0] != changed[1]
    assert not list(tmp_path.glob("*.calibration/finetune-*"))


def weights_of(path: Path) -> dict[str, bytes]:
    return initializers(onnx.load(str(path)))


# The published models


@pytest.mark.slow
@pytest.mark.parametrize("name", ["atto", "femto"])
def test_the_published_detectors_run_as_in_onnxruntime(shared: Path, name: str) -> None:
    graph = prepare(load(shared / "models" / f"deimv2_hgnetv2_{name}_coco.onnx"))
    module = float_module(graph)
    side = graph.model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    output = {"labels": "labels", "boxes": "boxes", "scores": "scores"}
    targets = find_targets(graph, output)
    assert len(targets.choices) == 2
    assert len(targets.logits) == 2
    assert len(targets.maps) >= 2
    rng = np.random.default_rng(0)
    for batch in (1, 3):
        pixels = rng.uniform(size=(batch, 3, side, side)).astype(np.float32)
        feed = {"images": pixels, "orig_target_sizes": np.full((batch, 2), side, np.int64)}
        names = ["boxes", "scores", "labels", *targets.logits, *targets.maps]
        model = with_outputs(graph.model, [*targets.logits, *targets.maps])
        for key, (found, expected) in zip(names, run_both(model, module, feed, names, targets.choices), strict=True):
            scale = side if key == "boxes" else max(float(np.abs(expected).max()), 1.0)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * scale, err_msg=key)

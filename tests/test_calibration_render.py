"""Placement, equalisation and rendering on small graphs, executed by onnxruntime and by OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import CollectOptions, channel_extents, collect, passes
from calibration.equalise import equalise
from calibration.graph import Graph, load, prepare
from calibration.observers import Range, observe
from calibration.placement import PlacementOptions, place
from calibration.render import activation_grid, half_scale, measured, quantise_weight, render
from calibration.sharing import pairs
from edgedet import InvalidInputError, ModelError

ALL = PlacementOptions(scope="all")
SETTINGS = CollectOptions(batch=2, threads=1)


class Builder:
    """A graph in a few lines; weights are random and node names say nothing."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def conv(self, source: str, channels: tuple[int, int], kernel: int = 1, group: int = 1, spread: float = 1.0) -> str:
        shape = (channels[1], channels[0] // group, kernel, kernel)
        weight = self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        weight *= spread ** np.linspace(-1, 1, channels[1]).reshape(-1, 1, 1, 1)
        bias = self.rng.normal(size=channels[1]) * 0.1
        pads = [kernel // 2] * 4
        return self.add("Conv", source, self.constant(weight), self.constant(bias), group=group, pads=pads)

    def linear(self, source: str, channels: tuple[int, int]) -> str:
        return self.add("MatMul", source, self.constant(self.rng.normal(size=channels) / np.sqrt(channels[0])))

    def model(self, inputs: dict[str, Sequence[object]], outputs: Sequence[str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model)  # the checker wants shapes on outputs
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        return model


def backbone(spread: float = 1.0) -> onnx.ModelProto:
    """Scale and bias behind ReLU, a depthwise convolution, a concatenation, padded pooling, a residual add."""
    build = Builder()
    stem = build.add("Relu", build.conv("images", (3, 16), 3, spread=spread))
    stem = build.add("Add", build.add("Mul", stem, build.constant([1.7])), build.constant([-0.3]))
    left = build.conv(stem, (16, 16), 3, group=16, spread=spread)
    right = build.add("Relu", build.conv(stem, (16, 16), 3))
    joined = build.add("Concat", left, right, axis=1)
    mixed = build.conv(joined, (32, 16))
    pooled = build.add("AveragePool", mixed, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, count_include_pad=1)
    deep = build.conv(build.add("Relu", build.conv(pooled, (16, 16))), (16, 16))
    total = build.add("Add", pooled, deep)
    last = build.add("Sigmoid", build.conv(total, (16, 16)))
    return build.model({"images": ["N", 3, 24, 24]}, [last])


def images(count: int = 8, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, size=(count, 3, 24, 24)).astype(np.float32)


def batches(values: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{"images": values[start : start + 2]} for start in range(0, len(values), 2)]


def run_onnxruntime(model: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": values})[0]


def compile_openvino(model: onnx.ModelProto, shape: tuple[int, ...]) -> openvino.CompiledModel:
    core = openvino.Core()
    network = core.read_model(model.SerializeToString(), b"")
    network.reshape({"images": list(shape)})
    return core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})


def kernels(compiled: openvino.CompiledModel) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        found.setdefault(info["layerType"].astype(str), []).append(info["primitiveType"].astype(str))
    return found


def quantised(model: onnx.ModelProto, backend: str = "openvino", *, alpha: float = 0.0, bias: bool = True) -> tuple:
    graph = prepare(model)
    placement = place(graph, PlacementOptions())
    feed = batches(images())
    if alpha:
        extents = channel_extents(graph.model, placement.activations, lambda: feed, options=SETTINGS)
        equalise(graph, placement, extents, alpha=alpha)
        placement = place(graph, PlacementOptions())
    tensors = measured(graph, placement, backend)  # type: ignore[arg-type]
    statistics = collect(graph.model, tensors, lambda: feed, options=SETTINGS)
    ranges = {name: observe(entry.histogram, "minmax") for name, entry in statistics.items()}
    means = {name: entry.channel_means for name, entry in statistics.items()} if bias else None
    return render(graph, placement, ranges, backend, means=means), placement, ranges, graph  # type: ignore[arg-type]


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean()))


# Arithmetic


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "tensorrt"])
@pytest.mark.parametrize("extent", [Range(0.0, 6.0), Range(-1.3, 7.1), Range(-4.0, 0.0), Range(-1e-4, 1e-5)])
def test_quantise_dequantise_is_within_half_a_step(extent: Range, backend: str) -> None:
    grid = activation_grid(extent, backend)  # type: ignore[arg-type]
    values = np.linspace(extent.low, extent.high, 1001)
    limits = np.iinfo(grid.dtype)
    steps = np.clip(np.rint(values / grid.scale) + grid.zero_point, limits.min, limits.max)
    error = np.abs((steps - grid.zero_point) * grid.scale - values)
    # Rounding the zero-point moves the ends of an asymmetric grid by up to half a step.
    assert error.max() <= grid.scale * (0.5 if backend == "tensorrt" else 1.0) * (1 + 1e-5)
    assert (np.rint(0.0 / grid.scale) + grid.zero_point - grid.zero_point) * grid.scale == 0.0
    assert limits.min <= grid.zero_point <= limits.max


def test_backends_get_their_form_from_the_same_range() -> None:
    extent = Range(-1.0, 3.0)
    asymmetric, symmetric = activation_grid(extent, "openvino"), activation_grid(extent, "tensorrt")
    assert (asymmetric.signed, asymmetric.zero_point, asymmetric.scale) == (False, 64, pytest.approx(4 / 255))
    assert (symmetric.signed, symmetric.zero_point) == (True, 0)
    assert 3 / 127 <= symmetric.scale <= 3 / 127 * (1 + 2**-10)
    assert symmetric.scale == np.float16(symmetric.scale)
    assert activation_grid(extent, "onnxruntime") == asymmetric


def test_a_tensor_that_is_always_zero_gets_a_usable_scale() -> None:
    assert activation_grid(Range(0.0, 0.0), "openvino").scale > 0.0


def test_scales_for_tensorrt_are_the_next_half_precision_numbers() -> None:
    """By the table of all of them; zero, subnormal and huge scales included."""
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    scales = np.concatenate([every[1:], every[1:-1] * (1 + 2**-12), [1e-9, 1e-6 / 3, 70000.0, 0.0]])
    found = half_scale(scales)
    expected = every[np.clip(np.searchsorted(every, scales), 1, len(every) - 1)]
    assert np.array_equal(found, expected.astype(np.float32))
    assert (found > 0).all()


@pytest.mark.parametrize("backend", ["openvino", "tensorrt"])
@pytest.mark.parametrize("axis", [0, 1])
def test_weights_are_within_half_a_step_of_their_own_channel(axis: int, backend: str) -> None:
    weight = np.random.default_rng(0).normal(size=(12, 9)).astype(np.float32)
    weight[3] = 0.0
    weight[:, 2] *= 100.0
    integers, scales = quantise_weight(weight, axis, backend=backend)  # type: ignore[arg-type]
    steps = np.expand_dims(scales, 1 - axis)
    assert integers.dtype == np.int8
    assert np.abs(integers).max() == 127
    assert (np.abs(integers * steps - weight) <= steps * 0.5 * (1 + 1e-5)).all()
    assert scales.shape == (weight.shape[axis],)


# Structure


@pytest.mark.parametrize(
    ("backend", "dtype"), [("openvino", np.uint8), ("onnxruntime", np.uint8), ("tensorrt", np.int8)]
)
def test_rendered_structure(backend: str, dtype: type) -> None:
    model, placement, _, _ = quantised(backbone(), backend)
    constants = initializers(model)
    layers = {layer.node: layer for layer in placement.layers}
    produced = {name: node for node in model.graph.node for name in node.output}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(layers) == 6
    for node in pairs:
        assert len(node.input) == 3, "an explicit zero-point"
        source = constants.get(node.input[0])
        assert source is None or source.dtype == np.int8, "no int32 bias behind a DequantizeLinear"
        zero = constants[node.input[2]]
        if source is not None:
            axis = next(entry.i for entry in node.attribute if entry.name == "axis")
            assert constants[node.input[1]].shape == (source.shape[axis],)
            assert zero.dtype == np.int8
            assert not zero.any()
        else:
            assert constants[node.input[1]].shape == ()
            assert zero.dtype == dtype
            if backend == "tensorrt":
                assert zero == 0
    for node in model.graph.node:
        if node.name in layers:
            allowed = {"DequantizeLinear"} if backend == "tensorrt" else {"DequantizeLinear", "Concat"}
            assert produced[node.input[0]].op_type in allowed
            assert produced[node.input[1]].op_type == "DequantizeLinear"
            assert constants[node.input[2]].dtype == np.float32
    # One tensor, a concatenation, has its pairs on its two inputs; for TensorRT it has its own as well.
    wrapped = {node.input[0] for node in pairs if node.op_type == "QuantizeLinear"}
    assert len(wrapped) == len(placement.activations) + (2 if backend == "tensorrt" else 1)


def test_each_tensor_is_wrapped_once_and_only_for_layers() -> None:
    model, _, _, _ = quantised(backbone())
    quantize = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantize) == len(set(quantize))
    real = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    readers = {node.op_type for node in model.graph.node if real & set(node.input)}
    assert readers == {"Conv", "Concat"}, "an AveragePool on integers is what breaks OpenVINO"


def moving(build: Builder, source: str, *, read_by_float: bool) -> list[str]:
    """Two branches that meet in a concatenation, and convolutions that read it."""
    left, right = build.conv(source, (3, 16), 3), build.add("Relu", build.conv(source, (3, 16), 3))
    joined = build.add("Concat", left, right, axis=1)
    last = build.add("Sigmoid", build.conv(build.add("Relu", build.conv(joined, (32, 16))), (16, 16)))
    return [last, build.add("Sigmoid", joined)] if read_by_float else [last]


def test_pairs_stand_above_what_only_moves_values() -> None:
    build = Builder()
    model = build.model({"images": ["N", 3, 24, 24]}, moving(build, "images", read_by_float=False))
    written, placement, ranges, graph = quantised(model)
    placed = pairs(graph, placement, ranges)
    quantize = {node.input[0]: node for node in written.graph.node if node.op_type == "QuantizeLinear"}
    producers = [graph.producers[name].op_type if name in graph.producers else "" for name in placed.ranges]
    assert sorted(producers) == ["", "Conv", "Relu"], "the input, and both ends of the concatenation"
    assert set(quantize) == set(placed.ranges)
    joined = [extent for name, extent in placed.ranges.items() if name != "images"]
    assert joined[0] == joined[1] == ranges[placement.activations[-1]]
    found = kernels(compile_openvino(written, (1, 3, 24, 24)))
    assert sum(kind.endswith("I8") for kind in found["Convolution"]) == len(placement.layers) == 3
    assert found["Concatenation"] == ["ref_I8"]
    assert len(found.get("Subgraph", [])) <= 1, "only the input is converted in a step of its own"
    reference = run_onnxruntime(model, images())
    assert relative(run_onnxruntime(written, images()), reference) < 0.05
    engine = compile_openvino(written, images().shape)
    assert relative(next(iter(engine(images()).values())), run_onnxruntime(written, images())) < 0.02


def test_a_float_reader_keeps_the_pair_below() -> None:
    build = Builder()
    model = build.model({"images": ["N", 3, 24, 24]}, moving(build, "images", read_by_float=True))
    written, placement, ranges, graph = quantised(model)
    placed = pairs(graph, placement, ranges)
    assert not placed.movers
    assert set(placed.ranges) == set(placement.activations)
    exact = [node.input[0] for node in written.graph.node if node.op_type == "Sigmoid"]
    assert graph.producers[exact[1]].op_type == "Concat", "what is float reads the float tensor"


def test_gemm_and_matmul_are_quantised_along_their_output_channels() -> None:
    build = Builder()
    hidden = build.add("Relu", build.linear("images", (24, 16)))
    weight = build.constant(build.rng.normal(size=(20, 16)))
    hidden = build.add("Gemm", hidden, weight, build.constant(np.zeros(20)), transB=1)
    model = build.model({"images": [6, 24]}, [build.add("Relu", build.linear(hidden, (20, 12)))])
    graph = prepare(model)
    placement = place(graph, ALL)
    assert [(layer.op, layer.axis) for layer in placement.layers] == [("MatMul", 1), ("Gemm", 0)]
    assert placement.kept[0].reason == "feeds the result"
    feed = [{"images": np.random.default_rng(0).normal(size=(6, 24)).astype(np.float32)}]
    statistics = collect(graph.model, placement.activations, lambda: feed, options=SETTINGS)
    ranges = {name: observe(entry.histogram, "minmax") for name, entry in statistics.items()}
    means = {name: entry.channel_means for name, entry in statistics.items()}
    found = run_onnxruntime(render(graph, placement, ranges, "onnxruntime", means=means), feed[0]["images"])
    assert relative(found, run_onnxruntime(model, feed[0]["images"])) < 0.03


def test_a_missing_range_is_refused() -> None:
    graph = prepare(backbone())
    placement = place(graph, PlacementOptions())
    with pytest.raises(InvalidInputError, match="expected a range"):
        render(graph, placement, {}, "openvino")


# Execution


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_engines_agree_with_float_and_with_each_other(alpha: float) -> None:
    source = backbone()
    model, placement, _, _ = quantised(source, alpha=alpha)
    values = images(2, seed=9)
    expected = run_onnxruntime(source, values)
    compiled = compile_openvino(model, values.shape)
    by_openvino = compiled([values])[0]
    by_onnxruntime = run_onnxruntime(model, values)
    assert relative(by_onnxruntime, expected) < 0.05
    assert relative(by_openvino, expected) < 0.05
    assert relative(by_openvino, by_onnxruntime) < 0.03
    convolutions = kernels(compiled)["Convolution"] + kernels(compiled).get("GroupConvolution", [])
    assert sum(name.endswith("I8") for name in convolutions) == len(placement.layers)


def test_signed_rendering_runs_in_onnxruntime() -> None:
    source = backbone()
    model, _, _, _ = quantised(source, "tensorrt")
    values = images(2, seed=9)
    assert relative(run_onnxruntime(model, values), run_onnxruntime(source, values)) < 0.08


def test_padded_average_pool_keeps_its_border_in_openvino() -> None:
    """OpenVINO pads an asymmetric u8 average pool with integer 0 instead of the zero-point: never feed it integers."""
    build = Builder()
    pooled = build.add(
        "AveragePool", build.conv("images", (3, 16)), kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1
    )
    source = build.model({"images": [2, 3, 24, 24]}, [build.add("Relu", build.conv(pooled, (16, 16)))])
    model, _, _, _ = quantised(source)
    values = images(2, seed=9)
    border = np.ones((24, 24), bool)
    border[1:-1, 1:-1] = False
    expected = run_onnxruntime(source, values)[..., border]
    assert relative(compile_openvino(model, values.shape)([values])[0][..., border], expected) < 0.05


# Equalisation and bias correction


def test_equalisation_keeps_the_function_and_evens_the_channels() -> None:
    source = backbone(spread=3.0)
    graph = prepare(source)
    placement = place(graph, PlacementOptions())
    feed = batches(images())
    before = channel_extents(graph.model, placement.activations, lambda: feed, options=SETTINGS)
    assert equalise(graph, placement, before, alpha=1.0) > 16
    values = images(2, seed=9)
    np.testing.assert_allclose(
        run_onnxruntime(graph.model, values), run_onnxruntime(source, values), rtol=1e-4, atol=1e-5
    )
    after = channel_extents(graph.model, placement.activations, lambda: feed, options=SETTINGS)
    joined = next(name for name in placement.activations if len(before[name]) == 32)
    unevenness = [np.median(extents[joined].max() / extents[joined]) for extents in (before, after)]
    assert unevenness[0] > 3.0
    assert unevenness[1] < 1.1


def test_equalisation_lowers_the_error_where_channels_differ() -> None:
    source = backbone(spread=8.0)
    values = images(2, seed=9)
    expected = run_onnxruntime(source, values)
    errors = [relative(run_onnxruntime(quantised(source, alpha=alpha)[0], values), expected) for alpha in (0.0, 0.5)]
    assert errors[1] < 0.8 * errors[0]


def test_channels_that_meet_a_sigmoid_product_are_left_alone() -> None:
    build = Builder()
    first = build.conv("images", (3, 16), spread=8.0)
    swish = build.add("Mul", first, build.add("Sigmoid", first))
    source = build.model({"images": ["N", 3, 24, 24]}, [build.add("Relu", build.conv(swish, (16, 16)))])
    graph = prepare(source)
    placement = place(graph, PlacementOptions())
    extents = {name: np.linspace(0.1, 4, 16 if name != "images" else 3) for name in placement.activations}
    assert equalise(graph, placement, extents, alpha=1.0) == 0


def test_bias_correction_restores_the_mean_of_every_channel() -> None:
    build = Builder()
    weight = build.rng.uniform(0.0, 1.0, size=(16, 3, 1, 1))
    weight[:, 0] *= 60.0  # coarse steps for the other two inputs
    layer = build.add("Relu", build.add("Conv", "images", build.constant(weight)))
    same = build.constant(np.eye(16).reshape(16, 16, 1, 1))
    source = build.model({"images": ["N", 3, 24, 24]}, [build.add("Conv", layer, same)])  # the last one stays float
    values = images()
    means = [
        run_onnxruntime(model, values).mean(axis=(0, 2, 3))
        for model in (source, quantised(source, bias=False)[0], quantised(source, bias=True)[0])
    ]
    assert np.abs(means[2] - means[0]).max() < 0.25 * np.abs(means[1] - means[0]).max()


# Placement rules


def head(end: str) -> tuple[onnx.ModelProto, str]:
    """Two linear layers; what the second one feeds is `end`. Returns the model and the name of the second's weight."""
    build = Builder()
    hidden = build.add("Relu", build.linear("images", (24, 16)))
    last = build.linear(hidden, (16, 16))
    weight = build.nodes[-1].input[1]
    biased = build.add("Add", last, build.constant(np.zeros(16)))
    if end == "result":
        out = build.add("Sigmoid", biased)
    elif end == "query selection":
        scores = build.add("ReduceMax", biased, axes=[-1], keepdims=0)
        build.nodes.append(helper.make_node("TopK", [scores, build.constant([2], np.int64)], ["best", "index"]))
        out = build.add("Cast", "index", to=TensorProto.FLOAT)
    elif end == "attention or box distribution":
        spread = build.add("Softmax", biased, axis=-1)
        out = build.add("MatMul", spread, build.constant(np.ones((16, 2))))
    elif end == "GridSample":
        grid = build.add("Reshape", biased, build.constant([1, 6, 8, 2], np.int64))
        picture = build.constant(np.ones((1, 4, 5, 5)))
        out = build.add("GridSample", picture, grid)
    elif end == "Floor":
        corner = build.add("Cast", build.add("Floor", biased), to=TensorProto.INT64)
        out = build.add("Cast", corner, to=TensorProto.FLOAT)
    elif end == "Cast":
        index = build.add("Cast", biased, to=TensorProto.INT64)
        out = build.add("Cast", index, to=TensorProto.FLOAT)
    else:
        query = build.add("MatMul", biased, build.add("Transpose", biased, perm=[1, 0]))
        mixed = build.add("MatMul", build.add("Softmax", query, axis=-1), hidden)
        out = build.add("Relu", build.linear(mixed, (16, 12)))
    return build.model({"images": [6, 24]}, [out]), weight


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("result", "feeds the result"),
        ("query selection", "feeds a query selection"),
        ("attention or box distribution", "feeds an attention or box distribution"),
        ("GridSample", "feeds sampling positions"),
        ("Floor", "feeds sampling positions"),
        ("Cast", "feeds sampling positions"),
        ("attention product", None),
    ],
)
def test_the_last_layer_before_a_decision_stays_float(end: str, reason: str | None) -> None:
    model, weight = head(end)
    graph = Graph(model)
    placement = place(graph, ALL)
    by_weight = {
        graph.producers[node.output[0]].input[1]: node.name for node in model.graph.node if node.op_type == "MatMul"
    }
    quantised_weights = {layer.weight for layer in placement.layers}
    assert model.graph.node[0].input[1] in quantised_weights
    assert (weight in quantised_weights) == (reason is None)
    if reason is not None:
        assert reason in {kept.reason for kept in placement.kept}
    assert weight in by_weight


def test_scope_and_width_leave_layers_out() -> None:
    build = Builder()
    narrow = build.add("Relu", build.conv("images", (3, 4)))
    wide = build.add("Relu", build.conv(narrow, (4, 16)))
    model = build.model({"images": ["N", 3, 8, 8]}, [build.add("Relu", build.conv(wide, (16, 16)))])
    graph = prepare(model)
    assert [kept.reason for kept in place(graph, PlacementOptions()).kept] == [
        "fewer than 8 channels",
        "feeds the result",
    ]
    assert place(graph, PlacementOptions(scope="linear")).layers == ()
    with pytest.raises(InvalidInputError, match="minimum_channels"):
        PlacementOptions(minimum_channels=0)


# Reading models and collecting


def test_broken_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not an onnx file")
    with pytest.raises(ModelError, match="valid ONNX"):
        load(path)
    model = backbone()
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0, 0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, model.graph.initializer[0].name))
    onnx.save(model, str(path))
    with pytest.raises(ModelError, match="NaN or infinity"):
        load(path)
    onnx.save(quantised(backbone())[0], str(path))
    with pytest.raises(ModelError, match="quantised already"):
        load(path)


def test_nan_activations_are_refused_with_the_name_of_the_tensor() -> None:
    build = Builder()
    broken = build.add("Sqrt", build.add("Sub", "images", build.constant([2.0])))
    model = build.model({"images": ["N", 3, 24, 24]}, [build.add("Relu", build.conv(broken, (3, 16)))])
    graph = prepare(model)
    with pytest.raises(ModelError, match=r"tensor 't1'.*NaN"):
        collect(graph.model, ["t1"], lambda: batches(images()), options=SETTINGS)


def test_collecting_in_passes_gives_the_same_statistics() -> None:
    graph = prepare(backbone())
    tensors = place(graph, PlacementOptions()).activations
    tight = CollectOptions(batch=400, memory_mb=8, threads=1)
    assert len(passes(graph.model, tensors, tight)) > 1
    assert [name for group in passes(graph.model, tensors, tight) for name in group] == list(tensors)
    assert passes(graph.model, tensors, SETTINGS) == [list(tensors)]
    feed = batches(images())
    together = collect(graph.model, tensors, lambda: feed, options=SETTINGS)
    apart = collect(graph.model, tensors, lambda: feed, options=tight)
    for name in tensors:
        assert np.array_equal(together[name].histogram.counts, apart[name].histogram.counts)
        assert together[name].histogram.total == np.prod([len(images()), *run_shape(graph.model, name)[1:]])
    with pytest.raises(InvalidInputError, match="at least one calibration image"):
        collect(graph.model, tensors, list, options=SETTINGS)


def run_shape(model: onnx.ModelProto, name: str) -> tuple[int, ...]:
    if name == "images":
        return images(1).shape
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {"images": images(1)})[0].shape


def test_channel_means_are_those_of_numpy() -> None:
    model = prepare(backbone()).model
    values = images()
    statistics = collect(model, ["images"], lambda: batches(values), options=SETTINGS)["images"]
    np.testing.assert_allclose(statistics.channel_means, values.mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-6)


def test_batchnorm_is_folded() -> None:
    build = Builder()
    layer = build.conv("images", (3, 16))
    numbers = [build.constant(build.rng.uniform(0.5, 2, 16)) for _ in range(4)]
    model = build.model(
        {"images": [2, 3, 24, 24]}, [build.add("Relu", build.add("BatchNormalization", layer, *numbers))]
    )
    graph = prepare(model)
    assert [node.op_type for node in graph.model.graph.node] == ["Conv", "Relu"]
    values = images(2)
    np.testing.assert_allclose(
        run_onnxruntime(graph.model, values), run_onnxruntime(model, values), rtol=1e-4, atol=1e-5
    )

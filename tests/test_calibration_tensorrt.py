"""What TensorRT gets: pairs on additions and concatenations, calibration caches, and engines built from all of it."""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from cell_world import COLOURS, SIDE, make_bundle, make_images, make_model
from onnx import numpy_helper
from test_calibration_render import Builder, backbone, batches, images, quantised, relative, run_onnxruntime

from calibration.calibrate import work_folder
from calibration.collect import CollectOptions, collect, session
from calibration.graph import Graph, prepare
from calibration.half import HalfOptions, half, type_quantised
from calibration.inputs import sample_batches
from calibration.observers import Range, observe
from calibration.placement import KeptFloat, Placement, PlacementOptions, place, without
from calibration.quantize import record_sample
from calibration.render import measured, render
from calibration.residual import residual_skips
from calibration.sampling import draw, read_sample
from calibration.tensorrt import memory
from calibration.tensorrt.cache import cache_bytes, float_tensors, header, parse_cache, write_cache
from calibration.tensorrt.calibrator import entropy_calibrator
from edgedet import BackendError, InvalidInputError
from edgedet.bundle import InputSpec, add_model, load_model_json, write_bundle

ONE_THREAD = CollectOptions(threads=1, batch=2)


# Residual additions


def block(*, shortcut: bool = False, activation: bool = True) -> tuple[Builder, str, str, str]:
    """A residual block between convolutions. Returns the builder and the names of skip, main branch and sum."""
    build = Builder()
    skip = build.add("Relu", build.conv("images", (3, 16), 3))
    main = build.conv(build.add("Relu", build.conv(skip, (16, 16), 3)), (16, 16), 3)
    if shortcut:
        skip = build.conv(skip, (16, 16))
    total = build.add("Add", main, skip)
    return build, skip, main, build.add("Relu", total) if activation else total


def finish(build: Builder, total: str, *more: str) -> Graph:
    last = build.add("Sigmoid", build.conv(build.add("Relu", build.conv(total, (16, 16))), (16, 16)))
    return prepare(build.model({"images": ["N", 3, 24, 24]}, [last, *more]))


def placed(graph: Graph) -> Placement:
    return place(graph, PlacementOptions())


@pytest.mark.parametrize("activation", [True, False])
def test_the_skip_gets_a_pair(activation: bool) -> None:
    build, skip, main, total = block(activation=activation)
    graph = finish(build, total)
    assert [found.tensor for found in residual_skips(graph, placed(graph))] == [skip]
    model, _, ranges, _ = quantised(graph.model, "tensorrt")
    produced = {name: node for node in model.graph.node for name in node.output}
    add = next(node for node in model.graph.node if node.op_type == "Add")
    assert {produced[name].op_type for name in add.input} == {"DequantizeLinear", "Conv"}
    pair = next(produced[name] for name in add.input if produced[name].op_type == "DequantizeLinear")
    quantize = produced[pair.input[0]]
    assert quantize.input[0] == skip
    # The convolutions that read the skip read the same pair: one tensor, one grid.
    assert sum(node.op_type == "QuantizeLinear" and node.input[0] == skip for node in model.graph.node) == 1
    assert main in ranges, "with fewer layers in int8 it may be the one"
    values = images(2, seed=9)
    assert relative(run_onnxruntime(model, values), run_onnxruntime(graph.model, values)) < 0.1
    for backend in ("openvino", "onnxruntime"):
        other = next(node for node in quantised(graph.model, backend)[0].graph.node if node.op_type == "Add")
        assert not any("dequantized" in name for name in other.input)


def test_of_two_convolutions_the_short_way_gets_the_pair() -> None:
    build, shortcut, main, total = block(shortcut=True)
    graph = finish(build, total)
    assert [found.tensor for found in residual_skips(graph, placed(graph))] == [shortcut]
    assert {shortcut, main} <= set(measured(graph, placed(graph), "tensorrt"))
    # One of them kept in float: an addition of its result is no int8 addition.
    producer = graph.producers[shortcut].name
    assert residual_skips(graph, without(placed(graph), [producer])) == ()
    assert residual_skips(graph, without(placed(graph), [graph.producers[main].name])) == ()


def test_additions_that_are_left_alone() -> None:
    build, _, main, total = block()
    graph = finish(build, total, build.add("Abs", main))  # something else reads the convolution: it cannot be fused
    assert residual_skips(graph, placed(graph)) == ()
    build, _, _, total = block()
    graph = prepare(build.model({"images": ["N", 3, 24, 24]}, [build.add("Sigmoid", total)]))  # feeds the result
    assert residual_skips(graph, placed(graph)) == ()
    build, _, _, total = block()
    graph = finish(build, build.add("AveragePool", total, kernel_shape=[2, 2]))  # no layer reads the sum itself
    assert residual_skips(graph, placed(graph)) == ()
    build, _, _, total = block()
    graph = finish(build, total)
    nothing = Placement((), (KeptFloat("none", "none"),))
    assert residual_skips(graph, nothing) == ()


# Concatenations


def test_a_concatenation_stays_in_integers() -> None:
    build = Builder()
    left, right = build.conv("images", (3, 16), 3), build.add("Relu", build.conv("images", (3, 16), 3))
    joined = build.add("Concat", left, build.add("Mul", right, build.constant(3.0)), axis=1)
    graph = finish(build, build.conv(joined, (32, 16)))
    model = quantised(graph.model, "tensorrt")[0]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    produced = {name: node for node in model.graph.node for name in node.output}
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    before = [produced[name] for name in concat.input]
    behind = [node for node in model.graph.node if concat.output[0] in node.input]
    assert [node.op_type for node in before] == ["DequantizeLinear"] * 2
    assert [node.op_type for node in behind] == ["QuantizeLinear"]
    scales = {float(constants[node.input[1]]) for node in [*before, *behind]}
    assert len(scales) == 1, "one grid, so that integers pass"
    values = images(2, seed=9)
    assert relative(run_onnxruntime(model, values), run_onnxruntime(graph.model, values)) < 0.1


# Calibration caches


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((8, 5, 3), "TRT-8503-EntropyCalibration2"),
        ((8, 6, 0), "TRT-8600-EntropyCalibration2"),
        ((10, 3, 0), "TRT-100300-EntropyCalibration2"),
    ],
)
def test_header(version: tuple[int, int, int], expected: str) -> None:
    assert header(version) == expected


def test_versions_without_calibrators_are_refused() -> None:
    for version in ((11, 0, 0), (7, 2, 3)):
        with pytest.raises(InvalidInputError, match="TensorRT 8 to 10"):
            header(version)


def test_a_cache_holds_scales_as_digits_of_floats() -> None:
    content = cache_bytes({"images": Range(0.0, 1.0), "a/b:0": Range(-254.0, 3.0)}, (8, 6, 0))
    lines = content.decode().split("\n")
    assert lines[0] == "TRT-8600-EntropyCalibration2"
    assert lines[2:] == ["a/b:0: 40000000", ""]  # 254 / 127 = 2.0, big-endian
    first, scales = parse_cache(content)
    assert first == lines[0]
    assert scales["images"] == pytest.approx(1 / 127, rel=2**-10)
    assert scales["a/b:0"] == 2.0
    assert struct.unpack(">f", bytes.fromhex(lines[1].split(": ")[1]))[0] == scales["images"]
    with pytest.raises(InvalidInputError, match="tensor names"):
        cache_bytes({"a: b": Range(0.0, 1.0)}, (8, 6, 0))
    for wrong in (b"", b"TRT-8600\nimages 3c", b"\xff\xfe", b"hello\n"):
        with pytest.raises(InvalidInputError):
            parse_cache(wrong)


def test_a_cache_names_every_float_tensor_of_the_file(tmp_path: Path) -> None:
    build = Builder()
    layer = build.conv("images", (3, 16))
    numbers = [build.constant(build.rng.uniform(0.5, 2, 16)) for _ in range(4)]
    normal = build.add("BatchNormalization", layer, *numbers)  # folded by any simplification
    shape = build.add("Shape", normal)
    model = build.model({"images": ["N", 3, 24, 24]}, [build.add("Reshape", build.add("Relu", normal), shape)])
    names = float_tensors(model)
    assert names == ("images", layer, normal, "t3", "t4")
    target = tmp_path / "model.cache"
    count = write_cache(
        model, target, lambda: batches(images()), version=(8, 6, 0), options=ONE_THREAD, method="minmax"
    )
    scales = parse_cache(target.read_bytes())[1]
    assert set(scales) == set(names)
    assert count == len(names)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.helper.make_tensor_value_info(normal, onnx.TensorProto.FLOAT, None))
    values = session(copy).run([normal], {"images": images()})[0]
    assert scales[normal] == pytest.approx(np.abs(values).max() / 127, rel=2**-10)


# The calibrator, driven as TensorRT drives it


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    make_images(root / "train", 7, seed=1)
    bundle = make_bundle(root / "cells", make_model(root / "model.onnx"))
    record_sample(bundle, draw(root / "train", count=7, seed=0))
    return bundle


class Base:
    """What tensorrt.IInt8EntropyCalibrator2 is to Python: a class whose __init__ has to be called."""

    def __init__(self) -> None:
        self.constructed = True


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("tensorrt")
    module.__version__ = "8.6.1"  # type: ignore[attr-defined]
    module.IInt8EntropyCalibrator2 = Base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


class Device:
    """Addresses and what lies there."""

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}

    def upload(self, values: np.ndarray, name: str) -> int:
        assert values.flags.c_contiguous
        address = 4096 + len(self.memory)
        self.memory[address] = values.copy()
        return address


def build_engine(calibrator: Any, names: list[str], device: Device) -> tuple[bool, list[dict[str, np.ndarray]]]:
    """TensorRT's side: whether the cache was used, and otherwise the batches that came; writes the cache."""
    assert calibrator.constructed
    cached = calibrator.read_calibration_cache()
    if cached:
        return True, []
    calibrator.get_batch_size()
    seen = []
    while (addresses := calibrator.get_batch(names)) is not None:
        assert all(isinstance(address, int) for address in addresses)
        seen.append({name: device.memory[address] for name, address in zip(names, addresses, strict=True)})
    calibrator.write_calibration_cache(memoryview(b"TRT-8601-EntropyCalibration2\nimages: 3c010a14\n"))
    return False, seen


def test_the_calibrator_is_fed_with_the_recorded_set(source: Path, tmp_path: Path, tensorrt: ModuleType) -> None:
    bundle = Path(shutil.copytree(source, tmp_path / "cells"))
    device = Device()
    calibrator = entropy_calibrator(bundle, batch=3, upload=device.upload)
    assert isinstance(calibrator, Base)
    assert calibrator.get_batch_size() == 3
    used, seen = build_engine(calibrator, ["images"], device)
    assert (used, len(seen)) == (False, 2), "seven images are two batches of three"
    sample = read_sample(bundle)
    expected = list(sample_batches(Path(sample.directory), sample, load_model_json(bundle), batch=3))[:2]
    for got, wanted in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(got["images"], wanted["images"])
    # A second build of the same model with the same set reads what the first one wrote.
    again = entropy_calibrator(bundle, batch=3, upload=device.upload)
    assert build_engine(again, ["images"], device)[0]
    assert [path.name for path in work_folder(bundle).iterdir()] == [calibrator.cache.name]


@pytest.mark.parametrize("change", ["model", "images", "input", "version", "batch"])
def test_a_cache_is_never_read_for_something_else(
    source: Path, tmp_path: Path, tensorrt: ModuleType, change: str
) -> None:
    bundle = Path(shutil.copytree(source, tmp_path / "cells"))
    device = Device()
    first = entropy_calibrator(bundle, batch=2, upload=device.upload)
    build_engine(first, ["images"], device)
    batch = 2
    if change == "model":
        model = onnx.load(bundle / "model.onnx")
        model.producer_name = "another"
        onnx.save(model, str(tmp_path / "other.onnx"))
        add_model(bundle, "fp32", "tensorrt", tmp_path / "other.onnx")
    elif change == "images":
        sample = read_sample(bundle)
        record_sample(bundle, draw(Path(sample.directory), count=5, seed=2))
    elif change == "input":
        spec = (bundle / "model.json").read_text().replace('"bilinear"', '"antialias"')
        (bundle / "model.json").write_text(spec)
    elif change == "version":
        tensorrt.__version__ = "8.6.2"  # type: ignore[attr-defined]
    else:
        batch = 3
    assert not build_engine(entropy_calibrator(bundle, batch=batch, upload=device.upload), ["images"], device)[0]


def test_sizes_are_int32_before_tensorrt_10(tmp_path: Path, tensorrt: ModuleType) -> None:
    from tiny_onnx import CLASSES, SIZE, scored_model

    from edgedet.bundle import LabelsBoxesScores

    make_images(tmp_path / "train", 2, seed=1)
    bundle = write_bundle(
        tmp_path / "scored",
        scored_model(tmp_path / "model.onnx"),
        name="scored",
        input=InputSpec(width=SIZE, height=SIZE),
        output=LabelsBoxesScores(top_k=3, size_input="orig_target_sizes"),
        classes=list(CLASSES),
    )
    record_sample(bundle, draw(tmp_path / "train", count=2, seed=0))
    for version, kind in (("8.6.1", np.int32), ("10.3.0", np.int64)):
        tensorrt.__version__ = version  # type: ignore[attr-defined]
        device = Device()
        names = ["orig_target_sizes", "images"]
        _, seen = build_engine(entropy_calibrator(bundle, batch=1, upload=device.upload), names, device)
        assert seen[0]["orig_target_sizes"].dtype == kind
        assert seen[0]["orig_target_sizes"].tolist() == [[SIZE, SIZE]]
    calibrator = entropy_calibrator(bundle, batch=2, upload=device.upload)
    with pytest.raises(InvalidInputError, match="an input 'other'"):
        calibrator.get_batch(["other"])


def test_what_is_missing_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"pip install 'edgedet\[tensorrt\]'"):
        entropy_calibrator(source)
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.0.0"))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="no calibrators"):
        entropy_calibrator(source)
    usable = SimpleNamespace(__version__="8.6.1", IInt8EntropyCalibrator2=Base)
    monkeypatch.setitem(sys.modules, "tensorrt", usable)  # type: ignore[arg-type]
    for wrong in (0, 8):
        with pytest.raises(InvalidInputError, match="a batch from 1 to the 7 images"):
            entropy_calibrator(source, batch=wrong)
    for package in ("cuda", "cuda.bindings.runtime", "cuda.cudart", "pycuda", "pycuda.driver", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendError, match="cuda-python, pycuda and torch"):
        entropy_calibrator(source, batch=2)


def test_memory_through_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a runtime with the calls and the results of cuda-python: one buffer per name, kept and filled again."""
    calls: list[tuple[Any, ...]] = []

    def malloc(size: int) -> tuple[int, int]:
        calls.append(("malloc", size))
        return (2, 0) if size > 1000 else (0, 7000 + len(calls))

    def copy(target: int, source: int, size: int, kind: str) -> tuple[int]:
        calls.append(("copy", target, size, kind))
        return (0,)

    kinds = SimpleNamespace(cudaMemcpyHostToDevice="to the device")
    runtime = SimpleNamespace(cudaMalloc=malloc, cudaMemcpy=copy, cudaMemcpyKind=kinds)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)  # type: ignore[arg-type]
    upload = memory.device_memory()
    first = upload(np.zeros(4, np.float32), "images")
    assert upload(np.ones(4, np.float32), "images") == first
    assert upload(np.ones(2, np.int32), "sizes") != first
    assert [call[0] for call in calls] == ["malloc", "copy", "copy", "malloc", "copy"]
    assert calls[1] == ("copy", first, 16, "to the device")
    with pytest.raises(BackendError, match="CUDA error 2"):
        upload(np.zeros(4000, np.float32), "large")


# Engines, built ahead of time on a machine without a GPU


class Builds:
    """tensorrt_rtx: TensorRT's parser and a builder that needs no device."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __call__(self, model: onnx.ModelProto) -> list[str]:
        """Parse and build; returns warnings. Fails with TensorRT's own words."""
        rtx: Any = self._module
        said: list[tuple[Any, str]] = []

        class Log(rtx.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                rtx.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                said.append((severity, message))

        log = Log()
        builder = rtx.Builder(log)
        network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = rtx.OnnxParser(network, log)
        if not parser.parse(model.SerializeToString()):
            errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
            pytest.fail(f"TensorRT cannot parse the model: {errors}")
        config = builder.create_builder_config()
        config.builder_optimization_level = 0
        config.num_compute_capabilities = 1
        config.set_compute_capability(rtx.ComputeCapability.SM86, 0)
        profile = builder.create_optimization_profile()
        for number in range(network.num_inputs):
            tensor = network.get_input(number)
            if -1 in tuple(tensor.shape):
                shapes = [tuple(batch if side < 0 else side for side in tensor.shape) for batch in (1, 1, 2)]
                profile.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        bad = (rtx.ILogger.Severity.ERROR, rtx.ILogger.Severity.INTERNAL_ERROR)
        errors = [message for severity, message in said if severity in bad]
        assert engine is not None, errors
        assert engine.nbytes > 0
        return [message for severity, message in said if severity == rtx.ILogger.Severity.WARNING]


@pytest.fixture(scope="module")
def builds() -> Builds:
    reason = "no tensorrt_rtx: pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings==1.7.1.116"
    return Builds(pytest.importorskip("tensorrt_rtx_bindings", reason=reason))


def everything(model: onnx.ModelProto, spec: dict[str, Any], side: tuple[int, int]) -> Iterator[onnx.ModelProto]:
    """All that this project writes for TensorRT: half precision, INT8, and INT8 in half precision."""
    graph = prepare(model)
    rng = np.random.default_rng(0)
    feeds = [{"images": rng.uniform(0, 1, (1, 3, *side)).astype(np.float32)} for _ in range(2)]
    if len(graph.model.graph.input) > 1:
        feeds = [{**feed, "orig_target_sizes": np.array([[*side]])} for feed in feeds]
    once = CollectOptions(threads=1, batch=1)
    # Noise through random weights says nothing of limits; which islands there are does not matter here.
    loose = HalfOptions(max_box_px=1e9, max_score=1e9, min_matched=0.0, collect=once)
    made = half(graph, lambda: feeds, spec, options=loose)
    yield made.model
    placement = place(graph, PlacementOptions(scope="all"))
    statistics = collect(graph.model, measured(graph, placement, "tensorrt"), lambda: feeds, options=once)
    ranges = {name: observe(entry.histogram, "minmax") for name, entry in statistics.items()}
    rendered = render(graph, placement, ranges, "tensorrt")
    yield rendered
    yield type_quantised(rendered, made)


def check(builds: Builds, model: onnx.ModelProto, spec: dict[str, Any], side: tuple[int, int]) -> None:
    count = 0
    for written in everything(model, spec, side):
        warnings = builds(written)
        assert not [message for message in warnings if "layernorm" in message.lower()]
        count += 1
    assert count == 3


def test_a_convolutional_network_builds(builds: Builds, tmp_path: Path) -> None:
    spec = {
        "input": {"name": "images", "width": SIDE, "height": SIDE},
        "output": {"form": "logits_boxes", "logits": "logits", "boxes": "boxes", "top_k": 16},
        "classes": list(COLOURS),
    }
    check(builds, onnx.load(make_model(tmp_path / "model.onnx")), spec, (SIDE, SIDE))


def test_the_builder_refuses_what_is_wrong(builds: Builds) -> None:
    """The fixture can fail: a zero-point other than 0 is nothing for TensorRT."""
    with pytest.raises(pytest.fail.Exception, match="cannot parse"):
        builds(quantised(backbone(), "openvino")[0])


@pytest.mark.slow
def test_femto_builds(builds: Builds, shared: Path) -> None:
    spec = {
        "input": {"name": "images", "width": 416, "height": 416},
        "output": {
            "form": "labels_boxes_scores",
            **{part: part for part in ("labels", "boxes", "scores")},
            "top_k": 300,
        },
        "classes": [str(number) for number in range(80)],
    }
    check(builds, onnx.load(shared / "models" / "deimv2_hgnetv2_femto_coco.onnx"), spec, (416, 416))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*legacy.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("rtdetrv2-r18", "gather"),
        ("rtdetrv2-r18-dsp", "discrete"),
        ("dfine-s", "gather"),
        ("dfine-s", "grid_sample"),
    ],
)
def test_exported_networks_build(builds: Builds, tmp_path: Path, name: str, sampling: Any) -> None:
    pytest.importorskip("torch")
    from test_deploy import small_config
    from test_models import shaken

    from training.export import export_onnx
    from training.models.detector import build

    side = (128, 160)
    model = shaken(build(small_config(name, side)))
    path = export_onnx(model.eval(), tmp_path / "model.onnx", sampling=sampling)
    spec = {
        "input": {"name": "images", "width": side[1], "height": side[0]},
        "output": {"form": "logits_boxes", "logits": "logits", "boxes": "boxes", "top_k": 7},
        "classes": list("abcde"),
    }
    check(builds, onnx.load(path), spec, side)
    path.unlink()

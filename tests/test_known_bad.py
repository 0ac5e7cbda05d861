"""Known-bad combinations: every entry against networks that have it and that do not, and the door that it guards."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cell_world import make_bundle, make_images, make_model
from onnx import TensorProto, helper, numpy_helper

from calibration.cli import main as calibration
from edgedet import BackendError, Detector, _core
from edgedet.bundle import add_model, set_best
from edgedet.known_bad import check
from edgedet.known_bad.check import KnownBadWarning, check_before_building, installed_version, known_bad
from edgedet.known_bad.table import TABLE, KnownBad
from edgedet.onnx_graph import OnnxGraph, parse_graph

ROOT = Path(__file__).resolve().parent.parent
TENSORRT = ((8, 5), (8, 6), (10, 3), (10, 4), (10, 7), (10, 13), (10, 16), (11, 1))


def graph(*nodes: onnx.NodeProto, opset: int = 17, **tensors: np.ndarray) -> OnnxGraph:
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    made = helper.make_graph(list(nodes), "g", [], [], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])
    return parse_graph(memoryview(model.SerializeToString()))


def node(op: str, *inputs: str, out: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [out], **attributes)


SCALE, ZERO = np.float32(0.1), np.int8(0)
S8 = {"scale": SCALE, "zero": ZERO}
QUANTISE = node("QuantizeLinear", "x", "scale", "zero")
DEQUANTISE = node("DequantizeLinear", "x", "scale", "zero")


@pytest.mark.parametrize(
    ("name", "network", "precision", "bad", "good"),
    [
        ("grid-sample-linear", graph(node("GridSample", "x", "g", mode="linear"), opset=20), "fp32", (8, 5), None),
        ("grid-sample-miscompiled", graph(node("GridSample", "x", "g", mode="bilinear")), "fp32", (10, 13), (10, 12)),
        ("grid-sample-miscompiled", graph(node("GridSample", "x", "g", mode="bilinear")), "int8", (11, 1), (8, 6)),
        ("layer-norm-unknown", graph(node("LayerNormalization", "x", "g")), "fp32", (8, 5), (8, 6)),
        ("gelu-unknown", graph(node("Gelu", "x"), opset=20), "fp16", (8, 6), (10, 3)),
        ("zero-point-missing", graph(node("QuantizeLinear", "x", "scale"), scale=SCALE), "int8", (8, 6), (10, 3)),
        ("zero-point-not-0", graph(QUANTISE, scale=SCALE, zero=np.int8(3)), "int8", (11, 1), None),
        ("scale-not-positive", graph(QUANTISE, scale=np.float32(0), zero=ZERO), "int8", (8, 5), None),
        ("unsigned-integers", graph(QUANTISE, scale=SCALE, zero=np.uint8(0)), "int8", (10, 3), None),
        (
            "integer-bias",
            graph(node("DequantizeLinear", "bias", "scale"), bias=np.zeros(4, np.int32), scale=SCALE),
            "int8",
            (11, 1),
            None,
        ),
        (
            "norm-in-fp16",
            graph(node("Pow", "x", "two", out="s"), node("ReduceMean", "s"), two=np.float32(2)),
            "fp16",
            (10, 16),
            None,
        ),
        ("norm-in-fp16", graph(node("Mul", "x", "x", out="s"), node("ReduceMean", "s")), "fp16", (8, 6), None),
        ("fp16-detr-8", graph(node("Softmax", "x")), "fp16", (8, 6), (10, 6)),
        ("fp16-attention-10.3", graph(node("Softmax", "x")), "fp16", (10, 4), (10, 6)),
        ("fp16-by-choice-11", graph(node("Relu", "x")), "fp16", (11, 1), (10, 16)),
        ("attention-10.7", graph(node("Softmax", "x")), "fp32", (10, 7), (10, 8)),
        (
            "dequantize-orin-10.16",
            graph(node("DequantizeLinear", "x", "scale", "zero"), **S8),
            "int8",
            (10, 16),
            (10, 3),
        ),
        ("volta", graph(node("Relu", "x")), "fp32", (10, 5), (10, 4)),
        ("blackwell", graph(node("Relu", "x")), "fp32", (10, 7), (10, 8)),
    ],
)
def test_entries_of_tensorrt(
    name: str, network: OnnxGraph, precision: str, bad: tuple[int, int], good: tuple[int, int] | None
) -> None:
    capability = {"volta": (7, 0), "blackwell": (12, 0), "dequantize-orin-10.16": (8, 7)}.get(name, (8, 6))

    def names(version: tuple[int, int], seen: tuple[int, int] | None = capability, asked: str = precision) -> list[str]:
        found = known_bad(network, backend="tensorrt", version=version, precision=asked, capability=seen)
        return [entry.name for entry in found]

    assert name in names(bad)
    if good is not None:
        assert name not in names(good)
    assert known_bad(network, backend="openvino", version=(2026, 4), precision="fp32") == []
    entry = next(entry for entry in TABLE if entry.name == name)
    if entry.capability is not None:
        assert name not in names(bad, None)
        assert name not in names(bad, (8, 9))
    if entry.precisions:
        assert name not in names(bad, asked="bf16")


@pytest.mark.parametrize(
    "network",
    [
        graph(node("GridSample", "x", "g", mode="nearest"), opset=20),
        graph(node("ReduceMean", "x"), node("Relu", "x", out="z")),
        graph(QUANTISE, node("DequantizeLinear", "y", "scale", "zero", out="z"), **S8),
        graph(helper.make_node("LayerNormalization", ["x"], ["y"], domain="com.mine")),
    ],
)
def test_what_is_fine(network: OnnxGraph) -> None:
    for version in TENSORRT[:6]:
        for precision in ("fp32", "fp16", "int8"):
            found = known_bad(network, backend="tensorrt", version=version, precision=precision, capability=(8, 6))
            assert {entry.name for entry in found if entry.certain} <= {"fp16-by-choice-11"}


def test_a_typed_network_has_its_islands_already() -> None:
    cast = node("Cast", "x", out="h", to=TensorProto.FLOAT16)
    power = [node("Pow", "x", "two", out="s"), node("ReduceMean", "s"), node("Softmax", "h", out="z")]
    for version in TENSORRT:
        found = known_bad(graph(cast, *power, two=np.float32(2)), backend="tensorrt", version=version, precision="fp16")
        assert {entry.name for entry in found} <= {"attention-10.7"}


def test_entries_of_openvino() -> None:
    def names(network: OnnxGraph) -> list[str]:
        return [entry.name for entry in known_bad(network, backend="openvino", version=(2026, 4), precision="int8")]

    assert names(graph(QUANTISE, **S8)) == ["signed-activations"]
    weights = {"x": np.zeros(3, np.float32), **S8}
    assert names(graph(QUANTISE, **weights)) == []
    pool = {"kernel_shape": [3, 3], "pads": [1, 1, 0, 0], "count_include_pad": 1}
    dequantise = node("DequantizeLinear", "q", "scale", "zero", out="d")
    moved = {"scale": SCALE, "zero": np.uint8(9)}
    assert names(graph(dequantise, node("AveragePool", "d", **pool), **moved)) == ["padded-pool-on-integers"]
    assert names(graph(dequantise, node("AveragePool", "d", **{**pool, "pads": [0, 0, 0, 0]}), **moved)) == []
    assert names(graph(dequantise, node("AveragePool", "d", **pool), scale=SCALE, zero=np.uint8(0))) == []


def test_the_table_is_whole() -> None:
    assert len({entry.name for entry in TABLE}) == len(TABLE)
    names = [backend["name"] for backend in _core.backends()]
    for entry in TABLE:
        assert entry.backend in names
        assert entry.symptom
        assert entry.remedy
        assert entry.sources
        for source in entry.sources:
            assert source.startswith("https://") or (ROOT / source).is_file(), source


def test_our_own_models_for_tensorrt_are_clean(tmp_path: Path) -> None:
    make_images(tmp_path / "train", 6, seed=1)
    bundle = make_bundle(tmp_path / "cells", make_model(tmp_path / "model.onnx"))
    assert calibration(["sample", str(bundle), "--images", str(tmp_path / "train"), "--count", "6"]) == 0
    for backend in ("tensorrt", "openvino"):
        assert calibration(["quantize", str(bundle), "--backend", backend, "--threads", "1"]) == 0
    ours = parse_graph(memoryview((bundle / "model.tensorrt.int8.onnx").read_bytes()))
    theirs = parse_graph(memoryview((bundle / "model.openvino.int8.onnx").read_bytes()))
    for version in TENSORRT:
        assert known_bad(ours, backend="tensorrt", version=version, precision="int8", capability=(8, 6)) == []
        bad = known_bad(theirs, backend="tensorrt", version=version, precision="int8", capability=(8, 6))
        assert "unsigned-integers" in {entry.name for entry in bad}
    assert known_bad(theirs, backend="openvino", version=(2026, 4), precision="int8") == []


# The door


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the installation say that it has a TensorRT of this version."""
    real = _core.backends()

    def install(version: str) -> None:
        here = {"name": "tensorrt", "available": True, "detail": f"TensorRT {version} on a GPU", "precisions": ["fp32"]}
        others = [entry for entry in real if entry["name"] != "tensorrt"]
        monkeypatch.setattr(check._core, "backends", lambda: [here, *others])

    return install


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = make_model(tmp_path / "model.onnx", "sampled")
    return make_bundle(tmp_path / "cells", model)


def linear(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(str(bundle / "model.onnx"))
    sample = next(entry for entry in model.graph.node if entry.op_type == "GridSample")
    next(entry for entry in sample.attribute if entry.name == "mode").s = b"linear"
    model.opset_import[0].version = 20
    onnx.save(model, str(tmp_path / "linear.onnx"))
    add_model(bundle, "fp16", "tensorrt", tmp_path / "linear.onnx")


def test_what_cannot_be_right_is_refused(bundle: Path, tmp_path: Path, pretend: Callable[[str], None]) -> None:
    linear(bundle, tmp_path)
    pretend("10.3.0.30")
    with pytest.raises(BackendError, match=r"fp16 on TensorRT 10\.3.*samples the nearest") as caught:
        Detector(bundle, backend="tensorrt", precision="fp16")
    assert "--sampling gather" in str(caught.value)
    assert "issues/4646" in str(caught.value)
    set_best(bundle, "tensorrt", "fp16")
    with pytest.raises(BackendError, match="samples the nearest"):
        check_before_building(bundle, backend="auto", precision="auto")


def test_what_was_wrong_elsewhere_is_a_warning(bundle: Path, pretend: Callable[[str], None]) -> None:
    pretend("11.1.0")
    with pytest.warns(KnownBadWarning, match="GridSample in the decoder"):
        check_before_building(bundle, backend="tensorrt", precision="fp32")


@pytest.mark.parametrize("backend", ["openvino", "auto", "tensorrt"])
def test_nothing_is_said_without_tensorrt_or_a_reason(
    backend: str, bundle: Path, pretend: Callable[[str], None]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if backend != "tensorrt":
            pretend("10.3.0") if backend == "openvino" else None
            Detector(bundle, backend="openvino" if backend == "openvino" else "auto", threads=1)
        pretend("10.3.0")
        check_before_building(bundle, backend=backend, precision="fp32")
        check_before_building(bundle, backend=backend, precision="int8")  # there is none; the detector says so


def test_versions_that_backends_name() -> None:
    openvino = next(entry for entry in _core.backends() if entry["name"] == "openvino")
    assert installed_version(openvino) == tuple(int(part) for part in _core.build_info()["openvino"].split(".")[:2])
    assert installed_version({**openvino, "available": False}) is None
    assert installed_version({"available": True, "detail": "something 1.2"}) is None


def test_certain_entries_come_first() -> None:
    network = graph(node("GridSample", "x", "g", mode="linear"), opset=20)
    found: list[KnownBad] = known_bad(network, backend="tensorrt", version=(11, 1), precision="fp32")
    assert [entry.certain for entry in found] == [True, False]

"""`search` and `verify` on TensorRT, whole, on a stand-in for it; and on a real one where there is one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import stand_in_tensorrt
from cell_world import make_bundle, make_images, make_model
from onnx import numpy_helper
from stand_in_tensorrt import StandIn

from calibration.cli import main
from calibration.execution import int8_norms, kernel_share
from calibration.gate.batches import float_reference, graph_batches
from calibration.graph import Graph
from calibration.placement import Placement
from calibration.search.bench import Bench, Time, half_files
from calibration.search.groups import Group
from calibration.search.options import SearchOptions
from calibration.search.run import search
from calibration.verify import VerifyOptions, check_report, summary, verify
from edgedet import Detections, Detector, InvalidInputError, read_image
from edgedet.bundle import add_model, load_model_json


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flow")
    make_images(root / "train", 8, seed=1)
    make_images(root / "select", 12, seed=2)
    make_images(root / "val", 12, seed=3)
    bundle = make_bundle(root / "cells", make_model(root / "model.onnx", "normed"))
    assert main(["sample", str(bundle), "--images", str(root / "train"), "--count", "8"]) == 0
    return root


@pytest.fixture
def world(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "world"))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_tensorrt.install(monkeypatch)


def data(world: Path, folder: str) -> list[str]:
    images = world / folder
    return ["--images", str(images), "--annotations", str(images / "instances.json"), "--threads", "1"]


def judged(world: Path, **changes: Any) -> dict[str, Any]:
    settings = {"backend": "tensorrt", "max_time_ratio": 1000.0, "threads": 1, **changes}
    return verify(
        world / "cells",
        images=world / "val",
        annotations=world / "val" / "instances.json",
        options=VerifyOptions(**settings),
    )


def quantised(world: Path) -> Path:
    assert main(["quantize", str(world / "cells"), "--backend", "tensorrt", "--threads", "1"]) == 0
    return world / "cells"


# Verify


@pytest.mark.usefixtures("stand_in")
def test_int8_is_judged_on_its_own_engine(world: Path) -> None:
    bundle = quantised(world)
    report = judged(world)
    assert report["verdict"] == {"passed": True, "best": "int8", "reasons": []}
    assert (report["backend"], report["device"]) == ("tensorrt", stand_in_tensorrt.DEVICE)
    assert report["models"]["int8"]["file"] == "model.tensorrt.int8.onnx"
    assert report["ap"]["fp32"]["AP"] > 0.9
    assert (report["execution"]["int8"], report["execution"]["weighted"]) == (1, 3)
    assert report["execution"]["time_share"] is None
    assert report["float_reference"]["matched"] == 1.0
    assert [batch["where"] for batch in report["batches"]] == ["engine", "graph"]
    names = [check["name"] for check in report["checks"]]
    assert "float engine against its ONNX file" in names
    assert ("int8", "throughput", "") in StandIn.opened, "batches are for the engine that takes some"
    assert load_model_json(bundle)["best"] == {"tensorrt": "int8"}
    assert check_report(bundle, "tensorrt").passed
    assert not check_report(bundle, "openvino").passed
    assert "int8 kernels run 1 of 3 layers\n" in summary(report)
    page = (bundle / "report.html").read_text()
    assert "cells: INT8 passed" in page
    assert "CaskConvolution" in page
    assert json.loads((bundle / "report.json").read_text()) == report


@pytest.mark.usefixtures("stand_in")
def test_half_precision_is_judged_as_the_file_with_types(world: Path) -> None:
    bundle = world / "cells"
    assert main(["half", str(bundle), "--threads", "1"]) == 0
    report = judged(world, precision="fp16")
    assert report["verdict"]["passed"]
    assert report["models"]["fp16"]["file"] == "model.tensorrt.fp16.onnx"
    assert 0 < report["execution"]["fp16"] <= report["execution"]["weighted"]
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["calibrated for this bundle"]["found"] == "yes"
    assert report["batches"][1]["matched"] == 1.0, "run in onnxruntime by emulation"
    assert report["notes"] == []


@pytest.mark.usefixtures("stand_in")
def test_half_precision_of_another_float_model_is_refused(world: Path, tmp_path: Path) -> None:
    bundle = world / "cells"
    assert main(["half", str(bundle), "--threads", "1"]) == 0
    model = onnx.load(str(bundle / "model.onnx"))
    model.doc_string = "another"
    onnx.save(model, str(tmp_path / "other.onnx"))
    add_model(bundle, "fp32", "*", tmp_path / "other.onnx")
    report = judged(world, precision="fp16")
    assert "the float model was replaced since the fp16 model was made from it" in report["verdict"]["reasons"][0]


@pytest.mark.usefixtures("stand_in")
def test_a_half_type_without_a_file_says_how_to_make_one(world: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected a model in fp16 for tensorrt, got fp32; run `half` first"):
        judged(world, precision="fp16")


@pytest.mark.usefixtures("stand_in")
def test_a_float_engine_that_is_compiled_wrong_is_refused(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As GridSample on some versions: float and candidate are wrong alike, so no AP is lost between them."""
    bundle = quantised(world)
    real = StandIn.detect_timed

    def moved(self: StandIn, images: Any, **options: Any) -> Any:
        found, times = real(self, images, **options)
        return [Detections(one.boxes + 2.0, one.scores, one.labels, one.names) for one in found], times

    monkeypatch.setattr(StandIn, "detect_timed", moved)
    report = judged(world)
    assert report["float_reference"]["moved_px"] > 1.0
    assert any(
        "the float engine gives other detections than its ONNX file" in reason
        for reason in report["verdict"]["reasons"]
    )
    assert load_model_json(bundle)["best"] == {"tensorrt": "fp32"}


@pytest.mark.usefixtures("stand_in")
def test_what_is_known_of_the_combination_is_a_note(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {**stand_in_tensorrt.ENTRY, "detail": "TensorRT 11.1.0 on a stand-in"}
    monkeypatch.setattr("calibration.gate.evidence.backends", lambda: [entry])
    bundle = make_bundle(world / "sampled", make_model(world / "sampled.onnx", "sampled"))
    shutil.rmtree(world / "cells")
    bundle.rename(world / "cells")
    assert main(["sample", str(world / "cells"), "--images", str(world / "train"), "--count", "8"]) == 0
    quantised(world)
    report = judged(world)
    assert report["notes"][-1].startswith("known of this combination: GridSample in the decoder of a DETR")
    assert report["notes"][-1].endswith("(https://github.com/NVIDIA/TensorRT/issues/4813)")


def test_an_engine_that_says_nothing_of_its_layers(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_tensorrt.install(monkeypatch)
    quantised(world)
    monkeypatch.setattr(stand_in_tensorrt, "engine_layers", lambda file: [])
    report = judged(world)
    layers = next(check for check in report["checks"] if check["name"] == "layers on int8 kernels")
    assert (layers["found"], layers["passed"]) == ("the engine does not say", True)


# Layers in TensorRT's words


def layer(kind: str, precision: str, *, primitive: str = "", original: str = "x") -> dict[str, str]:
    return {"name": "n", "type": kind, "primitive": primitive, "precision": precision, "original": original}


def test_layers_of_several_versions() -> None:
    nodes = [
        layer("CaskConvolution", "s8", primitive="sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32"),
        layer("CaskConvolution", "f32", primitive="ampere_scudnn_128x64_relu"),
        layer("CaskGemmConvolution", "f16"),
        layer("MatrixMultiply", "f16"),
        layer("gemm", "s8"),
        layer("kgen", "f32", primitive="__myl_AddMulResMean"),
        layer("Reformat", "s8"),
        layer("PointWiseV2", "f16"),
    ]
    shares = {kind: kernel_share(nodes, kind, backend="tensorrt") for kind in ("int8", "fp16")}  # type: ignore[arg-type]
    assert (shares["int8"].layers, shares["int8"].weighted) == (2, 5)
    assert (shares["fp16"].layers, shares["fp16"].share) == (2, 0.4)
    assert kernel_share(nodes, "int8").weighted == 0, "OpenVINO's names are others"


def test_norms_in_int8_on_tensorrt() -> None:
    nodes = [
        layer("Normalization", "s8", original="enc/norm"),
        layer("SoftMax", "f32", original="enc/Softmax"),
        layer("kgen", "s8", original="enc/LayerNormalization"),
        layer("gemm", "s8", original="enc/MatMul,enc/Softmax"),
        layer("CaskConvolution", "s8", original="backbone/normalization/Conv"),
    ]
    assert int8_norms(nodes, backend="tensorrt") == ["enc/norm", "enc/LayerNormalization"]


def test_a_graph_that_onnxruntime_does_not_open_is_noted(world: Path, tmp_path: Path) -> None:
    model = onnx.load(str(world / "model.onnx"))
    model.opset_import.append(onnx.helper.make_opsetid("a.plugin", 1))
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type, node.domain = "Mine", "a.plugin"
    onnx.save(model, str(tmp_path / "plugin.onnx"))
    spec = load_model_json(world / "cells")
    images = [read_image(world / "val" / f"{number:03d}.png") for number in range(1, 9)]
    found = graph_batches(tmp_path / "plugin.onnx", images, spec)
    assert found.note.startswith("onnxruntime does not open the ONNX file")
    assert not found.reason


def test_the_float_reference_sees_another_network(world: Path, tmp_path: Path) -> None:
    bundle = world / "cells"
    detector = Detector(bundle, backend="openvino", precision="fp32", threads=1)
    images = [read_image(world / "val" / f"{number:03d}.png") for number in range(1, 9)]
    spec = load_model_json(bundle)
    assert not float_reference(bundle / "model.onnx", detector, images, spec).reason
    model = onnx.load(str(bundle / "model.onnx"))
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    weights.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(-numpy_helper.to_array(weights)), "w2"))
    onnx.save(model, str(tmp_path / "other.onnx"))
    assert (
        "other detections than its ONNX file" in float_reference(tmp_path / "other.onnx", detector, images, spec).reason
    )


# Search


def searched(world: Path) -> None:
    """A search with next to no timing: what it finds to be fast is chance."""
    search(
        world / "cells",
        images=world / "select",
        annotations=world / "select" / "instances.json",
        options=SearchOptions(backend="tensorrt", threads=1, probe=4, seconds=0.001, max_drop=0.2),
    )


@pytest.mark.usefixtures("stand_in")
def test_a_search_makes_the_half_precision_file_and_measures_it(world: Path) -> None:
    bundle = world / "cells"
    searched(world)
    models = load_model_json(bundle)["models"]
    assert models["fp16"] == {"tensorrt": "model.tensorrt.fp16.onnx"}
    assert "openvino" not in models.get("int8", {})
    document = json.loads((world / "cells.calibration" / "search-tensorrt" / "search.json").read_text())
    assert document["about"]["backend"] == "tensorrt"
    assert document["about"]["device"] == stand_in_tensorrt.DEVICE
    tried = document["candidates"]
    assert tried[0]["choice"]["precision"] == "fp16"
    assert all(entry["divergence"] is not None for entry in tried)
    assert document["layer_losses"] is None, "there are no counters"
    assert {cache for _, _, cache in StandIn.opened} == {"engines"}, "candidates' engines go with the search"
    # The bundle's own model is used the second time, and nothing is measured again.
    StandIn.opened.clear()
    before = (bundle / "model.tensorrt.fp16.onnx").stat().st_mtime_ns
    searched(world)
    assert (bundle / "model.tensorrt.fp16.onnx").stat().st_mtime_ns == before


@pytest.mark.usefixtures("stand_in")
def test_int8_found_by_the_clock_alone_is_verified(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Times are made up, for the stand-in is not faster in int8; detections and AP are real.

    The first convolution is slower in int8, the second faster.
    """

    def times(bench: Bench, engines: list[Detector], *, seconds: float) -> list[Time]:
        found = []
        for engine in engines:
            integers = [
                node["precision"] == "s8" for node in engine.execution_graph() if node["type"] == "CaskConvolution"
            ]
            ratio = 1.0 + 0.1 * integers[0] - 0.3 * integers[1]
            found.append(Time(ratio, 10.0 * ratio, 10.0))
        return found

    def one_by_one(graph: Graph, placement: Placement) -> list[Group]:
        return [Group(f"layer {number}", (layer.node,)) for number, layer in enumerate(placement.layers)]

    monkeypatch.setattr("calibration.search.search.groups", one_by_one)
    monkeypatch.setattr(Bench, "times", times)
    shutil.rmtree(world / "cells")
    bundle = make_bundle(world / "cells", make_model(world / "plain.onnx"))
    assert main(["sample", str(bundle), "--images", str(world / "train"), "--count", "8"]) == 0
    assert main(["search", str(bundle), "--backend", "tensorrt", *data(world, "select"), "--max-drop", "0.2"]) == 0
    said = capsys.readouterr().out
    assert f"next: python -m calibration verify {bundle} --backend tensorrt --precision int8" in said
    assert load_model_json(bundle)["models"]["int8"] == {"tensorrt": "model.tensorrt.int8.onnx"}
    document = json.loads((world / "cells.calibration" / "search-tensorrt" / "search.json").read_text())
    assert {"layer 0 in float", "layer 1 in float"} & {entry["why"] for entry in document["candidates"]}
    assert document["answer"]["choice"]["keep_float"] == ["Conv_0"], "what the clock says is slower"
    arguments = ["verify", str(bundle), "--backend", "tensorrt", *data(world, "val"), "--max-time-ratio", "1000"]
    assert main([*arguments, "--max-drop", "0.2"]) == 0
    assert load_model_json(bundle)["best"] == {"tensorrt": "int8"}
    assert (bundle / "report.html").is_file()


def test_files_of_half_types(world: Path) -> None:
    spec = load_model_json(world / "cells")
    assert half_files(spec, "openvino") == {"bf16": "model.onnx", "fp16": "model.onnx"}
    assert half_files(spec, "tensorrt") == {}
    spec["models"]["fp16"] = {"*": "model.onnx"}
    assert half_files(spec, "tensorrt") == {}, "a float file is no half precision"
    spec["models"]["fp16"]["tensorrt"] = "model.tensorrt.fp16.onnx"
    assert half_files(spec, "tensorrt") == {"fp16": "model.tensorrt.fp16.onnx"}


# On a real TensorRT


@pytest.mark.tensorrt
@pytest.mark.slow
def test_the_whole_flow_on_tensorrt(world: Path) -> None:
    bundle = world / "cells"
    command = ["search", str(bundle), "--backend", "tensorrt", *data(world, "select"), "--budget-minutes", "5"]
    assert main([*command, "--max-drop", "0.2"]) == 0
    assert "tensorrt" in load_model_json(bundle)["models"]["fp16"]
    quantised(world)
    for precision in ("fp16", "int8"):
        report = judged(world, precision=precision, max_drop=0.2)
        assert report["float_reference"]["reason"] == ""
        assert report["ap_drop"] < 0.2
        assert report["deterministic"]

"""The whole chain on a detector made by hand: sample, quantize, verify, and faults that the gate must refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cell_world import SIDE, make_bundle, make_images, make_model
from onnx import numpy_helper
from PIL import Image

from calibration.cli import main
from calibration.execution import kernel_share
from calibration.sampling import read_sample
from calibration.verify import VerifyOptions, check_report, summary, verify
from edgedet import Detections, Detector, InvalidInputError, backends
from edgedet.bundle import Precision, add_model, load_model_json, name_model
from edgedet.labels import COCO80
from edgedet.matching import drift, pairwise_iou
from edgedet.onnx_import import import_model
from edgedet.verdict import Candidate


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images to calibrate on, images to evaluate on, and a bundle that is quantised."""
    root = tmp_path_factory.mktemp("world")
    make_images(root / "train", 24, seed=1)
    make_images(root / "val", 16, seed=2)
    make_bundle(root / "float", make_model(root / "model.onnx"))
    shutil.copytree(root / "float", root / "int8")
    arguments = ["sample", str(root / "int8"), "--images", str(root / "train"), "--count", "12", "--seed", "3"]
    assert main([*arguments, "--exclude", str(root / "val"), "--contact-sheet", str(root / "sheet.png")]) == 0
    assert main(["quantize", str(root / "int8"), "--threads", "1"]) == 0
    return root


@pytest.fixture
def bundle(world: Path, tmp_path: Path) -> Path:
    """A copy of the quantised bundle that a test may spoil."""
    return Path(shutil.copytree(world / "int8", tmp_path / "bundle"))


def verified(world: Path, bundle: Path, **changes: object) -> dict:
    settings = {"max_time_ratio": 1000.0, "threads": 1, **changes}
    return verify(
        bundle,
        images=world / "val",
        annotations=world / "val" / "instances.json",
        options=VerifyOptions(**settings),  # type: ignore[arg-type]
    )


def sabotage(bundle: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], source: str = "") -> None:
    """Change the INT8 model of a bundle by the front door, so that only the gate can notice."""
    file = source or load_model_json(bundle)["models"]["int8"]["openvino"]
    model = onnx.load(str(bundle / file))
    change(model)
    onnx.save(model, str(tmp_path / "changed.onnx"))
    add_model(bundle, "int8", "openvino", tmp_path / "changed.onnx")


def edit(model: onnx.ModelProto, ending: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(ending))
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), tensor.name))


# The gate


def test_the_honest_model_passes_and_becomes_the_best(world: Path, bundle: Path) -> None:
    report = verified(world, bundle)
    assert report["verdict"] == {"passed": True, "best": "int8", "reasons": []}
    assert report["ap"]["fp32"]["AP"] > 0.95
    assert report["ap_drop"] <= 0.01
    assert report["execution"]["int8"] == 2
    assert report["deterministic"]
    assert [batch["matched"] for batch in report["batches"]] == [1.0, 1.0]
    assert all(check["passed"] for check in report["checks"])
    assert report["notes"] == []
    assert report["drift"]["matched"] == 1.0
    assert load_model_json(bundle)["best"] == {"openvino": "int8"}
    assert Detector(bundle, backend="openvino").info.precision == "int8"
    assert json.loads((bundle / "report.json").read_text()) == report
    assert check_report(bundle).passed
    assert Detector(bundle, backend="openvino").info.verified.passed


def test_a_refusal_leaves_the_float_model_and_its_reasons(world: Path, bundle: Path, tmp_path: Path) -> None:
    sabotage(bundle, tmp_path, swap_classes)
    report = verified(world, bundle)
    assert report["verdict"]["best"] == "fp32"
    assert report["verdict"]["reasons"][0].startswith("AP falls by")
    assert load_model_json(bundle)["best"] == {"openvino": "fp32"}
    detector = Detector(bundle, backend="openvino")
    assert detector.info.precision == "fp32"
    assert detector.info.verified.text.startswith("refused: int8, because AP falls by")
    assert not check_report(bundle).passed


def swap_classes(model: onnx.ModelProto) -> None:
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    for name in last.input[1:]:
        edit(model, name, lambda values: values[::-1])


def test_a_float_model_in_disguise_is_refused(world: Path, bundle: Path, tmp_path: Path) -> None:
    sabotage(bundle, tmp_path, lambda model: None, source="model.onnx")
    report = verified(world, bundle)
    assert report["ap_drop"] == 0.0
    assert report["drift"]["box_p95_px"] == 0.0
    assert report["verdict"]["reasons"] == ["the engine runs no layer in int8"]


def test_int8_that_is_not_faster_is_refused(world: Path, bundle: Path) -> None:
    report = verified(world, bundle, max_time_ratio=1e-6)
    assert not report["verdict"]["passed"]
    assert "not fast enough" in report["verdict"]["reasons"][0]
    assert load_model_json(bundle)["best"] == {"openvino": "fp32"}


def name_half(bundle: Path, half: Precision) -> None:
    """Make the float model the one of a half type, where this CPU computes in it."""
    here = next(entry["precisions"] for entry in backends() if entry["name"] == "openvino")
    if half not in here:
        pytest.skip(f"this CPU does not compute in {half}")
    name_model(bundle, half, "openvino", "model.onnx")


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_the_float_model_in_a_half_type_passes(half: Candidate, world: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(world / "float", tmp_path / "bundle"))
    name_half(bundle, half)
    report = verified(world, bundle)
    assert report["candidate"] == half
    assert report["verdict"] == {"passed": True, "best": half, "reasons": []}
    for key in ("models", "ap", "latency_ms"):
        assert list(report[key]) == ["fp32", half]
    assert report["models"][half] == report["models"]["fp32"]
    assert all(half in entry for entry in report["classes"])
    assert 0 < report["execution"][half] <= report["execution"]["weighted"] == 3
    assert 0.0 < report["execution"]["time_share"] <= 1.0
    names = [check["name"] for check in report["checks"]]
    assert f"layers on {half} kernels" in names
    assert not {"calibrated for this bundle", "LayerNorm and softmax on int8 kernels"} & set(names)
    assert [batch["where"] for batch in report["batches"]] == ["engine", "graph"]
    page = (bundle / "report.html").read_text()
    assert f"cells: {half.upper()} passed" in page
    assert "int8" not in page.lower()
    assert f"PASSED: {half} is recorded as best" in summary(report)
    assert load_model_json(bundle)["best"] == {"openvino": half}
    detector = Detector(bundle, backend="openvino", threads=1)
    assert detector.info.precision == half
    assert detector.info.verified.text.startswith(f"passed: {half}, AP ")


def test_a_half_type_that_is_not_faster_is_refused(world: Path, bundle: Path) -> None:
    name_half(bundle, "bf16")
    report = verified(world, bundle, precision="bf16", max_time_ratio=1e-6)
    assert report["verdict"]["best"] == "fp32"
    assert "REFUSED: fp32 stays best, not bf16, because it is not fast enough" in summary(report)
    assert check_report(bundle).text.startswith("refused: bf16, because it is not fast enough")


def test_which_precision_is_judged(world: Path, bundle: Path) -> None:
    name_half(bundle, "bf16")
    assert verified(world, bundle, limit=6)["candidate"] == "int8"
    data = ["--images", str(world / "val"), "--annotations", str(world / "val" / "instances.json"), "--threads", "1"]
    arguments = ["verify", str(bundle), *data, "--max-time-ratio", "1000", "--limit", "6"]
    assert main([*arguments, "--precision", "bf16"]) == 0
    assert load_model_json(bundle)["best"] == {"openvino": "bf16"}
    assert check_report(bundle).passed


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("fp16", "expected a model in fp16 for openvino, got fp32, int8; run `search` first"),
        ("fp32", "expected a precision among int8, bf16, fp16, got 'fp32'"),
    ],
)
def test_a_precision_that_cannot_be_judged_is_refused(precision: str, message: str, world: Path, bundle: Path) -> None:
    with pytest.raises(InvalidInputError, match=message):
        verified(world, bundle, precision=precision)
    assert load_model_json(bundle)["best"] == {}


def test_data_on_which_the_float_model_finds_nothing_proves_nothing(world: Path, bundle: Path, tmp_path: Path) -> None:
    document = json.loads((world / "val" / "instances.json").read_text())
    for entry in document["annotations"]:
        entry["bbox"] = [1, 1, 3, 3]
    (tmp_path / "elsewhere.json").write_text(json.dumps(document))
    options = VerifyOptions(max_time_ratio=1000.0, threads=1)
    report = verify(bundle, images=world / "val", annotations=tmp_path / "elsewhere.json", options=options)
    assert report["ap_drop"] <= 0.0
    assert [reason[:26] for reason in report["verdict"]["reasons"]] == ["the float model has AP 0.0"]
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] > 3]
    (tmp_path / "late.json").write_text(json.dumps(document))
    with pytest.raises(InvalidInputError, match="expected objects in the first 3 images"):
        verify(bundle, images=world / "val", annotations=tmp_path / "late.json", options=VerifyOptions(limit=3))


def test_a_report_for_another_model_is_stale(
    world: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verified(world, bundle)
    assert main(["verify", str(bundle), "--report-only"]) == 0
    sabotage(bundle, tmp_path, swap_classes)
    assert "best" not in json.loads((bundle / "model.json").read_text()) or not load_model_json(bundle)["best"]
    assert main(["verify", str(bundle), "--report-only"]) == 1
    assert "stale: the int8 model" in capsys.readouterr().out


def test_verify_by_command(world: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--images", str(world / "val"), "--annotations", str(world / "val" / "instances.json"), "--threads", "1"]
    assert main(["verify", str(bundle), *data, "--max-time-ratio", "1000", "--limit", "9"]) == 0
    printed = capsys.readouterr().out
    assert "PASSED" in printed
    assert "9 images" in printed
    assert main(["verify", str(bundle), *data, "--max-time-ratio", "0.000001"]) == 1
    assert "REFUSED: fp32 stays best" in capsys.readouterr().out


def test_calibration_images_cannot_be_evaluated_on(
    world: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--images", str(world / "train"), "--annotations", str(world / "train" / "instances.json")]
    assert main(["verify", str(bundle), *data]) == 2
    assert "were not calibrated on, got 12 that were" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "{float}", "--images", "{val}", "--annotations", "{val}/instances.json"], "run `quantize` or"),
        (["verify", "{int8}"], "expected --images and --annotations"),
        (["verify", "{int8}", "--report-only"], "expected report.json"),
        (["quantize", "{float}"], "run `sample` first"),
        (["quantize", "{int8}", "--scope", "linear"], "expected layers to quantise, got none (scope is linear)"),
        (["quantize", "{int8}", "--alpha", "3"], "expected alpha in [0, 1]"),
        (["quantize", "{int8}", "--percentile", "3"], "expected a percentile in (50, 100]"),
        (["quantize", "{int8}", "--images", "{val}/nothing"], "expected a readable file"),
        (["sample", "{float}", "--images", "{val}/nothing"], "no such file or folder"),
        (["sample", "{float}", "--images", "{val}", "--count", "99"], "expected 99 usable images"),
        (["sample", "{float}", "--images", "{val}", "--count", "0"], "expected a count >= 1"),
        (["sample", "{val}", "--images", "{val}"], "model.json"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(
    arguments: list[str], message: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {name: str(world / name) for name in ("float", "int8", "val")}
    before = (world / "int8" / "model.json").read_bytes()
    assert main([argument.format(**places) for argument in arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert [line for line in printed.splitlines() if line.startswith("error: ")]
    assert (world / "int8" / "model.json").read_bytes() == before


# Quantising


def test_the_record_holds_ranges_layers_and_versions(bundle: Path) -> None:
    record = json.loads((bundle / "calibration.json").read_text())
    quantization = record["quantization"]["openvino"]
    assert [layer["op"] for layer in quantization["layers"]] == ["Conv", "Conv"]
    assert [kept["reason"] for kept in quantization["kept_float"]] == ["feeds the result"]
    assert quantization["observer"] == "percentile"
    files = load_model_json(bundle)["files"]
    assert quantization["int8_sha256"] == files["model.openvino.int8.onnx"]["sha256"]
    assert quantization["float_sha256"] == files["model.onnx"]["sha256"]
    model = onnx.load(str(bundle / "model.openvino.int8.onnx"))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(quantization["ranges"]) == {"images", "r0"}
    for name, extent in quantization["ranges"].items():
        assert extent["minimum"] <= extent["low"] <= 0.0 or extent["low"] == 0.0
        assert extent["high"] <= extent["maximum"]
        assert constants[f"{name}/scale"] == np.float32(extent["scale"])
        assert constants[f"{name}/zero_point"] == extent["zero_point"]
        assert extent["scale"] == pytest.approx((extent["high"] - extent["low"]) / 255)


@pytest.mark.parametrize("observer", ["minmax", "entropy", "mse"])
def test_every_observer_gives_a_good_model_here(observer: str, world: Path, bundle: Path) -> None:
    assert main(["quantize", str(bundle), "--observer", observer, "--threads", "1"]) == 0
    assert verified(world, bundle)["verdict"]["passed"]


def test_quantising_twice_gives_the_same_file(bundle: Path) -> None:
    before = (bundle / "model.openvino.int8.onnx").read_bytes()
    assert main(["quantize", str(bundle), "--threads", "1"]) == 0
    assert (bundle / "model.openvino.int8.onnx").read_bytes() == before


def test_a_changed_calibration_image_is_refused(
    world: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copytree(world / "train", tmp_path / "moved"))
    assert main(["quantize", str(bundle), "--images", str(moved), "--threads", "1"]) == 0
    victim = moved / read_sample(bundle).images[4].file
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(victim)
    before = (bundle / "model.json").read_bytes()
    assert main(["quantize", str(bundle), "--images", str(moved), "--threads", "1"]) == 2
    printed = capsys.readouterr().err
    assert "the calibration image was changed" in printed
    assert str(victim) in printed
    assert (bundle / "model.json").read_bytes() == before


def test_nan_weights_are_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(str(world / "model.onnx"))
    edit(model, "w1", lambda values: np.where(values == values.max(), np.float32(np.nan), values))
    onnx.save(model, str(tmp_path / "nan.onnx"))
    make_bundle(tmp_path / "nan", tmp_path / "nan.onnx", name="nan")
    assert main(["sample", str(tmp_path / "nan"), "--images", str(world / "train"), "--count", "4"]) == 0
    assert main(["quantize", str(tmp_path / "nan")]) == 2
    assert "NaN or infinity in 'w1'" in capsys.readouterr().err


def test_a_damaged_record_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "calibration.json").write_text('{"format": "edgedet.calibration"')
    assert main(["quantize", str(bundle)]) == 2
    assert "calibration.json" in capsys.readouterr().err


# Figures


def test_iou_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 10, size=(2, 7, 2))
    sizes = rng.uniform(0, 6, size=(2, 7, 2))
    first, second = np.concatenate((corners, corners + sizes), axis=2).astype(np.float32)
    found = pairwise_iou(first, second)
    for row, a in enumerate(first.astype(float)):
        for column, b in enumerate(second.astype(float)):
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
            assert found[row, column] == pytest.approx(width * height / union)
    assert pairwise_iou(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32))[0, 0] == 0.0
    assert pairwise_iou(np.zeros((0, 4), np.float32), first).shape == (0, 7)


def detections(*rows: tuple[list[float], float, int]) -> Detections:
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row[1] for row in rows], np.float32)
    labels = np.array([row[2] for row in rows], np.int32)
    return Detections(boxes, scores, labels, [str(label) for label in labels])


def test_drift_matches_class_overlap_and_score() -> None:
    reference = detections(
        ([0, 0, 10, 10], 0.9, 0),
        ([20, 0, 30, 10], 0.8, 1),
        ([40, 0, 50, 10], 0.7, 0),
        ([60, 0, 70, 10], 0.6, 0),
        ([80, 0, 90, 10], 0.2, 0),  # below the score that is looked at
    )
    other = detections(
        ([0, 1, 10, 12], 0.8, 0),  # moved by 2 px
        ([0, 0, 10, 11], 0.85, 0),  # a better partner of the same box, by 1 px
        ([20, 0, 30, 10], 0.8, 0),  # right place, wrong class
        ([40, 0, 50, 10], 0.3, 0),  # less than half the score
        ([60, 8, 70, 18], 0.6, 0),  # too little overlap
    )
    found = drift([reference], [other])
    assert found.detections == 4
    assert found.matched == 0.25
    assert found.box_mean_px == pytest.approx(1.0)
    assert found.score_mean == pytest.approx(0.05)
    assert drift([reference], [reference]).matched == 1.0
    assert drift([detections()], [detections()]).matched == 1.0


def test_the_share_of_layers_goes_by_the_kernel() -> None:
    nodes = [
        {"type": "Convolution", "primitive": "brgconv_avx512_I8", "precision": "f32"},
        {"type": "Convolution", "primitive": "brgconv_avx512_f32", "precision": "u8"},
        {"type": "FullyConnected", "primitive": "brgemm_avx512_I8", "precision": "u8"},
        {"type": "Pooling", "primitive": "jit_avx512_I8", "precision": "u8"},
        {"type": "Convolution", "primitive": "brgconv_avx512_amx_bf16", "precision": "bf16"},
        {"type": "MatMul", "primitive": "brgemm_avx512_f16", "precision": "f16"},
        {"type": "MatMul", "primitive": "brgemm_avx512_f16", "precision": "f16"},
    ]
    found = kernel_share(nodes, "int8")
    assert (found.layers, found.weighted) == (2, 6)
    assert found.share == pytest.approx(2 / 6)
    assert [kernel_share(nodes, half).layers for half in ("bf16", "fp16")] == [1, 2]
    assert kernel_share([], "int8").share == 0.0


# Real models


@pytest.mark.slow
def test_the_published_model_runs_in_int8_and_stays_close(shared: Path, tmp_path: Path) -> None:
    bundle = import_model(
        shared / "models" / "deimv2_hgnetv2_atto_coco.onnx", tmp_path / "atto", labels=COCO80, name="atto"
    )
    data = shared / "data" / "coco_val2017_subset"
    train = shared / "data" / "coco_train2017_subset" / "images"
    arguments = ["--images", str(train), "--count", "16", "--exclude", str(data / "images")]
    assert main(["sample", str(bundle), *arguments]) == 0
    assert main(["quantize", str(bundle), "--threads", "2"]) == 0
    options = VerifyOptions(limit=24, threads=2, max_drop=0.05, max_time_ratio=1000.0)
    report = verify(bundle, images=data / "images", annotations=data / "instances.json", options=options)
    assert report["verdict"]["passed"], report["verdict"]["reasons"]
    assert report["execution"]["int8"] == 49
    assert report["drift"]["matched"] > 0.9
    assert report["drift"]["box_mean_px"] < 6.0

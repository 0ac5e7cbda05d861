"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from PIL import Image

import edgedet
from edgedet.bundle import load_model_json
from edgedet.cli import build_parser, main

COMMANDS = (
    "import", "pull", "export", "predict", "eval", "compare", "build", "bench", "sweep", "serve", "info", "doctor",
    "completion",
)  # fmt: skip
Output = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    def call(*arguments: str | Path) -> Output:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(tiny_onnx.CLASSES))
    return path


@pytest.fixture
def bundle(tmp_path: Path, labels: Path, run: Callable[..., Output]) -> Path:
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx")
    code, _, err = run("import", model, "--labels", labels, "--out", tmp_path / "bundle")
    assert (code, err) == (0, "")
    return tmp_path / "bundle"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
        Image.new("RGB", (80, 48), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """What the tiny model finds first: query 0 in the colour of the picture; ids that are not the model's."""
    path = tmp_path / "annotations.json"
    box = [20, 12, 40, 24]
    document = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 11, "name": "Blue"}, {"id": 12, "name": "red"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 12, "bbox": box},
            {"id": 2, "image_id": 2, "category_id": 11, "bbox": box},
        ],
    }
    path.write_text(json.dumps(document))
    return path


def test_help_of_everything(run: Callable[..., Output]) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in COMMANDS:
        assert f"\n    {command} " in out
        code, text, _ = run(command, "--help")
        assert code == 0
        assert text.startswith(f"usage: edgedet {command}")
        assert len(max(text.splitlines(), key=len)) <= 110
    assert run("--version")[1] == f"edgedet {edgedet.__version__}\n"
    assert run()[0] == 2


def test_every_option_has_a_help_text() -> None:
    parsers = next(action.choices for action in build_parser()._actions if hasattr(action.choices, "values"))
    assert tuple(parsers) == COMMANDS
    for name, parser in parsers.items():
        for action in parser._actions:
            assert action.help, f"{name} {action.dest}"


def test_import_says_what_it_found(tmp_path: Path, labels: Path, run: Callable[..., Output]) -> None:
    model = tiny_onnx.scored_model(tmp_path / "tiny.onnx")
    options = "--resize letterbox --filter antialias --colour bgr --mean 0.4 0.5 0.6 --std 0.2 0.3 0.4 --pad-value 0"
    named = ["--name", "traffic", "--licence", "MIT", "--data-licence", "CC0-1.0"]
    code, out, err = run("import", model, "--labels", labels, "--out", tmp_path / "bundle", *options.split(), *named)
    assert (code, err) == (0, "")
    assert "images 32x32, letterbox, antialias, bgr" in out
    assert "labels, boxes, scores; 3 rows" in out
    spec = load_model_json(tmp_path / "bundle")
    assert spec["name"] == "traffic"
    assert spec["licence"] == {"weights": "MIT", "data": "CC0-1.0"}
    assert spec["input"]["pad_value"] == 0
    assert spec["input"]["mean"] == pytest.approx([0.4, 0.5, 0.6])
    assert spec["input"]["std"] == pytest.approx([0.2, 0.3, 0.4])
    code, _, err = run("import", model, "--labels", labels, "--out", tmp_path / "bundle")
    assert code == 2
    assert "exists" in err
    assert run("import", model, "--labels", labels, "--out", tmp_path / "bundle", "--force")[0] == 0
    assert load_model_json(tmp_path / "bundle")["name"] == "tiny"


def test_import_with_a_size(tmp_path: Path, labels: Path, run: Callable[..., Output]) -> None:
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx", side="S")
    assert run("import", model, "--labels", labels, "--out", tmp_path / "b")[0] == 2
    assert run("import", model, "--labels", labels, "--out", tmp_path / "b", "--size", "64x64")[0] == 0
    assert load_model_json(tmp_path / "b")["input"]["width"] == 64


def test_predict(tmp_path: Path, bundle: Path, pictures: Path, run: Callable[..., Output]) -> None:
    code, out, err = run("predict", bundle, pictures, "--out", tmp_path / "drawn", "--json", tmp_path / "p.json")
    assert (code, err) == (0, "")
    # Red at 4, 2, 0 and the rest far below: three rows above 0.3.
    assert "a.png (80x48): 3 objects" in out
    assert "red      0.98  20.0  12.0  60.0  36.0" in out
    document = json.loads((tmp_path / "p.json").read_text())
    assert [entry["image"] for entry in document] == [str(pictures / "a.png"), str(pictures / "b.png")]
    assert (document[0]["width"], document[0]["height"]) == (80, 48)
    best = document[1]["detections"][0]
    assert (best["name"], best["label"]) == ("blue", 2)
    assert best["box"] == pytest.approx([20, 12, 60, 36], abs=1e-3)
    drawn = np.asarray(Image.open(tmp_path / "drawn" / "a.jpg")).astype(int)
    assert drawn.shape == (48, 80, 3)
    assert np.abs(drawn - (255, 0, 0)).max() > 100  # boxes are on it


def test_predict_goes_on_after_a_damaged_file(
    tmp_path: Path, bundle: Path, pictures: Path, run: Callable[..., Output]
) -> None:
    (pictures / "aa.png").write_bytes((pictures / "a.png").read_bytes()[:40])
    code, out, err = run("predict", bundle, pictures, pictures / "b.png", "--out", tmp_path / "drawn", "--score", "0.9")
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "aa.png" in err
    assert out.count("1 object,") == 3
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a.jpg", "b.jpg", "b_2.jpg"]


def test_eval(tmp_path: Path, bundle: Path, pictures: Path, annotations: Path, run: Callable[..., Output]) -> None:
    report, results = tmp_path / "ap.json", tmp_path / "results.json"
    code, out, err = run(
        "eval", bundle, "--images", pictures, "--annotations", annotations, "--json", report, "--results", results
    )
    assert code == 0
    assert "eval 2/2" in err
    assert "AP         1.0000" in out
    figures = json.loads(report.read_text())
    assert [figures[name] for name in ("AP", "AP50", "AP75", "AP_small")] == pytest.approx([1.0] * 4)
    assert figures["AP_large"] == -1
    assert (figures["images"], figures["backend"], figures["precision"]) == (2, "openvino", "fp32")
    rows = json.loads(results.read_text())
    assert rows[0]["category_id"] == 12
    assert {row["category_id"] for row in rows} == {11, 12}
    from edgedet.coco_eval import evaluate

    assert evaluate(rows, annotations)["AP"] == figures["AP"]


def test_bench(tmp_path: Path, bundle: Path, pictures: Path, run: Callable[..., Output]) -> None:
    report = tmp_path / "bench.json"
    for options in (["--images", pictures], ["--synthetic", "70x50"], ["--mode", "throughput"]):
        code, out, _ = run(
            "bench", bundle, *options, "--frames", "12", "--warmup", "2", "--threads", "1", "--json", report
        )
        assert code == 0
        assert "throughput" in out
        figures = json.loads(report.read_text())
        latency = figures["latency_ms"]
        assert list(latency) == ["p50", "p90", "p95", "p99", "max", "mean"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"] <= latency["max"]
        assert list(figures["stages_ms"]) == ["upload", "preprocess", "inference", "decode", "download"]
        assert 0 < sum(figures["stages_ms"].values()) <= latency["mean"]
        assert figures["command"].startswith("edgedet")
        assert figures["fps"] == pytest.approx(figures["frames_per_call"] * 1000 / latency["mean"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # of this process, other tests included
        assert 20 < figures["rss_mb"] <= 1.01 * peak
        assert figures["threads"] == 1
        assert figures["frame_size"] == {"--images": "80x48", "--synthetic": "70x50"}.get(str(options[0]), "640x480")


def test_info(bundle: Path, run: Callable[..., Output]) -> None:
    code, out, _ = run("info", bundle)
    assert code == 0
    assert "fp32 for every backend" in out
    assert "3: red, green, blue" in out
    assert load_model_json(bundle)["files"]["model.onnx"]["sha256"] in out
    assert out.splitlines()[-1].startswith("valid")
    (bundle / "model.onnx").write_bytes(b"tampered")
    code, _, err = run("info", bundle)
    assert code == 2
    assert err.startswith("error: ")


def test_doctor(run: Callable[..., Output]) -> None:
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    for word in ("python", "numpy", "openvino   ready", "tensorrt", "cuda", "pycocotools", edgedet.__version__):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nowhere"], "error: "),
        (["predict", "nowhere", "x.png"], "x.png: no such file"),
        (["predict", "BUNDLE", "PICTURES", "--score", "2"], "a number from 0 to 1"),
        (["predict", "BUNDLE", "PICTURES", "--json", "no/such/folder.json"], "'no/such' does not exist"),
        (["predict", "BUNDLE", "PICTURES", "--backend", "npu"], "invalid choice: 'npu'"),
        (["predict", "BUNDLE", "PICTURES", "--precision", "int8"], "int8"),
        (["predict", "BUNDLE", "PICTURES", "--threads", "-1"], "expected 0, 1, 2"),
        (["predict", "BUNDLE", "PICTURES", "--out", "BUNDLE/model.json"], "cannot be made"),
        (["eval", "BUNDLE", "--images", "PICTURES", "--annotations", "missing.json"], "missing.json"),
        (["eval", "BUNDLE", "--images", "PICTURES", "--annotations", "LABELS"], "not JSON"),
        (["eval", "BUNDLE", "--images", "BUNDLE", "--annotations", "ANNOTATIONS"], "2 of the 2 images"),
        (
            ["eval", "BUNDLE", "--images", "PICTURES", "--annotations", "ANNOTATIONS", "--match", "id"],
            "no class of the",
        ),
        (["bench", "BUNDLE", "--images", "BUNDLE"], "no image in this folder"),
        (["bench", "BUNDLE", "--frames", "0"], "expected 1, 2, 3"),
        (["bench", "BUNDLE", "--synthetic", "640"], "such as 640x480"),
        (["bench", "BUNDLE", "--synthetic", "6x4", "--images", "PICTURES"], "not allowed with"),
        (["bench", "BUNDLE", "--batch", "0"], "expected 1, 2, 3"),
        (["bench", "BUNDLE", "--frames", "1", "--plot", "x.nothing"], "cannot be drawn"),
        (["import", "missing.onnx", "--labels", "coco80", "--out", "x"], "missing.onnx"),
        (["import", "LABELS", "--labels", "coco80", "--out", "x"], "labels.txt"),
        (["import", "MODEL", "--labels", "coco80", "--out", "x"], "has 3 classes"),
        (["import", "MODEL", "--labels", "LABELS", "--out", "x", "--size", "big"], "such as 640x480"),
        (["import", "MODEL", "--labels", "LABELS", "--out", "x", "--pad-value", "300"], "0..255"),
        (["import", "MODEL", "--labels", "LABELS", "--out", "x", "--mean", "nan", "0", "0"], "finite"),
        (["import", "MODEL", "--labels", "LABELS", "--out", "x", "--std", "0", "1", "1"], "std"),
    ],
)
def test_errors_are_one_message_and_exit_status_2(
    tmp_path: Path,
    bundle: Path,
    pictures: Path,
    labels: Path,
    annotations: Path,
    run: Callable[..., Output],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {
        "BUNDLE": bundle,
        "PICTURES": pictures,
        "LABELS": labels,
        "ANNOTATIONS": annotations,
        "MODEL": tmp_path / "tiny.onnx",
        "BUNDLE/model.json": bundle / "model.json",
    }
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(*(places.get(argument, argument) for argument in arguments))
    assert code == 2
    assert message in err
    assert "error: " in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgedet", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_ctrl_c_ends_cleanly(bundle: Path) -> None:
    # A shell that runs the tests in the background has them ignore Ctrl-C, and a child inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = start("bench", bundle, "--frames", "100000000", "--warmup", "0", "--threads", "1")
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("bench 1/")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_reader_that_leaves_is_no_error(bundle: Path, pictures: Path) -> None:
    process = start("predict", bundle, *[pictures] * 50, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()

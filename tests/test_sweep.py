"""`edgedet sweep`: who is compared, what is measured of whom, what is kept of it, and what it says in the end."""

from __future__ import annotations

import builtins
import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cell_world import make_bundle, make_images, make_model
from PIL import Image

from calibration.cli import main as calibration
from edgedet import BackendError, Detections, Detector, Error, InvalidInputError, coco_eval
from edgedet.bundle import load_model_json, set_best
from edgedet.cli import main
from edgedet.coco_compare import compare, match_run
from edgedet.sweep import child, measure
from edgedet.sweep.contenders import Contender, choose_backend, contenders
from edgedet.sweep.journal import Journal
from edgedet.sweep.rows import Row, advice, front, recommended
from edgedet.sweep.run import SweepOptions, sweep
from edgedet.turns import ratio_of_medians, take_turns

OPENVINO = {"name": "openvino", "precisions": ["fp32", "int8"], "available": True, "detail": "a CPU"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    make_images(root / "train", 8, seed=1)
    make_images(root / "val", 10, seed=2)
    bundle = make_bundle(root / "cells", make_model(root / "model.onnx"))
    assert calibration(["sample", str(bundle), "--images", str(root / "train"), "--count", "8"]) == 0
    assert calibration(["quantize", str(bundle), "--threads", "1"]) == 0
    return root


@pytest.fixture
def world(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "world"))


def swept(world: Path, **changes: Any) -> Any:
    settings = {"backend": "openvino", "threads": 1, "turns": 20, **changes}
    return sweep(
        world / "cells",
        images=world / "val",
        annotations=world / "val" / "instances.json",
        out=world / "out",
        options=SweepOptions(**settings),
    )


@pytest.fixture(autouse=True)
def no_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without half types, on any machine."""
    real = choose_backend("openvino")
    monkeypatch.setattr("edgedet.sweep.run.choose_backend", lambda name: {**real, "precisions": ["fp32", "int8"]})


# Who is compared


def test_every_precision_has_a_row_or_a_reason(world: Path) -> None:
    rows = contenders(world / "cells", OPENVINO)
    assert [row.name for row in rows] == ["FP32", "BF16", "FP16", "INT8 (Q/DQ)", "best mixed"]
    reasons = {row.name: row.reason for row in rows}
    assert reasons["FP32"] == reasons["INT8 (Q/DQ)"] == ""
    assert reasons["BF16"] == "this device does not compute in bf16, but in fp32, int8"
    assert "python -m calibration search" in reasons["best mixed"]
    set_best(world / "cells", "openvino", "int8")
    best = contenders(world / "cells", OPENVINO)[-1]
    assert (best.same_as, best.file, best.reason) == ("INT8 (Q/DQ)", "model.openvino.int8.onnx", "")


def test_half_types_run_the_float_file_on_openvino_only(world: Path) -> None:
    backend = {**OPENVINO, "precisions": ["fp32", "bf16", "fp16", "int8"]}
    files = {row.name: row.file for row in contenders(world / "cells", backend)}
    assert files["BF16"] == files["FP16"] == "model.onnx"
    rows = {row.name: row for row in contenders(world / "cells", {**backend, "name": "tensorrt"})}
    assert list(rows) == ["FP32", "FP16", "INT8 (calibrator)", "INT8 (Q/DQ)", "best mixed"]
    assert "python -m calibration half" in rows["FP16"].reason
    assert "quantize --backend tensorrt" in rows["INT8 (Q/DQ)"].reason
    assert rows["INT8 (calibrator)"].calibrator
    assert not rows["INT8 (calibrator)"].reason
    newer = {**backend, "name": "tensorrt", "detail": "TensorRT 11.1.0 on a GPU"}
    rows = {row.name: row for row in contenders(world / "cells", newer)}
    assert rows["INT8 (calibrator)"].reason.startswith("TensorRT 11.1 has no calibrators")


def test_further_bundles_are_of_the_same_network(world: Path) -> None:
    cells = world / "cells"
    with pytest.raises(InvalidInputError, match="different names"):
        contenders(cells, OPENVINO, [cells, cells])
    document = json.loads((cells / "model.json").read_text())
    shutil.copytree(cells, world / "other")
    (world / "other" / "model.json").write_text(json.dumps({**document, "classes": ["a", "b"]}))
    with pytest.raises(InvalidInputError, match="expected the classes of"):
        contenders(cells, OPENVINO, [world / "other"])


def test_what_libraries_print_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen
    code = 'print("hello"); print("[1]"); print(\'{"facts": {"x": 1}}\')'
    monkeypatch.setattr(
        measure.subprocess, "Popen", lambda command, **options: real([sys.executable, "-c", code], **options)
    )
    assert measure.run_child({}, lambda done: None) == {"facts": {"x": 1}}


def test_a_backend_that_is_not_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    away = {**OPENVINO, "available": False, "detail": "it is on holiday"}
    monkeypatch.setattr("edgedet._core.backends", lambda: [away])
    for name in ("auto", "openvino"):
        with pytest.raises(BackendError, match="openvino: it is on holiday"):
            choose_backend(name)


# What is measured


def test_figures_are_those_of_the_evaluator(world: Path) -> None:
    set_best(world / "cells", "openvino", "int8")
    found = swept(world)
    rows = {row.contender.name: row for row in found.rows}
    dataset = coco_eval.load_annotations(world / "val" / "instances.json")
    matched = {}
    for precision in ("fp32", "int8"):
        detector = Detector(world / "cells", backend="openvino", precision=precision, threads=1)
        runs = [detector(world / "val" / image.file_name) for image in dataset.images]
        matched[precision] = match_run(runs, dataset, dataset.images, detector.info.category_ids)
    oracle = compare({name: subsets for name, (subsets, _) in matched.items()}, dataset.categories)
    int8 = rows["INT8 (Q/DQ)"]
    assert int8.ap == matched["int8"][1]
    assert (int8.drop, int8.drop_se) == (oracle.drop, oracle.drop_se)
    assert rows["FP32"].ap == matched["fp32"][1]
    assert (rows["FP32"].drop, rows["FP32"].ratio) == (0.0, 1.0)
    assert int8.latency_ms["p50"] <= int8.latency_ms["p99"]
    assert int8.facts["model_mb"] == (world / "cells" / "model.openvino.int8.onnx").stat().st_size / 1e6
    assert 20.0 < int8.facts["rss_mb"] < 2000.0
    assert int8.facts["vram_mb"] is None
    assert int8.verified == "unverified"
    assert rows["best mixed"].ap == int8.ap
    assert rows["BF16"].reason
    assert not rows["BF16"].measured


def test_files_that_are_written(world: Path) -> None:
    found = swept(world, limit=6)
    lines = list(csv.DictReader((world / "out" / "sweep.csv").read_text().splitlines()))
    document = json.loads((world / "out" / "sweep.json").read_text())
    names = [row.contender.name for row in found.rows]
    assert [line["name"] for line in lines] == [row["name"] for row in document["rows"]] == names
    assert float(lines[3]["AP"]) == document["rows"][3]["AP"]
    assert lines[1]["AP"] == ""
    assert (document["images"], document["images_in_all"], document["advice"]) == (6, 10, found.advice)
    page = (world / "out" / "sweep.md").read_text()
    assert "AP on 6 of 10 images" in page
    assert "- BF16: this device does not compute in bf16" in page
    with Image.open(world / "out" / "sweep.png") as picture:
        assert picture.size[0] > 600


def test_what_is_known_is_not_measured_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = swept(world)
    asked: list[str] = []
    real = measure.run_child

    def counted(request: Any, progress: Any) -> dict[str, Any]:
        asked.append(request["precision"])
        return real(request, progress)

    monkeypatch.setattr(measure, "run_child", counted)
    second = swept(world)
    assert asked == []
    assert [row.flat() for row in second.rows] == [row.flat() for row in first.rows]
    assert calibration(["quantize", str(world / "cells"), "--observer", "minmax", "--threads", "1"]) == 0
    swept(world)
    assert asked == ["int8"]
    swept(world, limit=9)
    assert asked == ["int8", "fp32", "int8"]


def test_a_damaged_journal_is_measured_again(world: Path) -> None:
    first = swept(world)
    for file in (world / "out" / "journal").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    again = swept(world)
    assert [row.ap for row in again.rows] == [row.ap for row in first.rows]


def test_interrupted_it_goes_on(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = measure.run_child, []

    def interrupted(request: Any, progress: Any) -> dict[str, Any]:
        asked.append(request["precision"])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(request, progress)

    monkeypatch.setattr(measure, "run_child", interrupted)
    with pytest.raises(KeyboardInterrupt):
        swept(world)
    assert not (world / "out" / "sweep.csv").exists()
    swept(world)
    assert asked == ["fp32", "int8", "int8"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "want of memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        ("raise SystemExit('no such thing')", "failed: no such thing"),
        ("", "failed: exit status 0"),
    ],
)
def test_a_process_that_dies_is_a_reason(code: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def dying(command: list[str], **options: Any) -> Any:
        return real([sys.executable, "-c", code], **options)

    monkeypatch.setattr(measure.subprocess, "Popen", dying)
    assert reason in measure.run_child({"bundle": "b" * 200_000}, lambda done: None)["error"]


def test_one_that_does_not_run_leaves_the_others(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = measure.run_child

    def failing(request: Any, progress: Any) -> dict[str, Any]:
        return {"error": "it broke"} if request["precision"] == "int8" else real(request, progress)

    monkeypatch.setattr(measure, "run_child", failing)
    found = swept(world)
    assert {row.contender.name: row.reason for row in found.rows}["INT8 (Q/DQ)"] == "it broke"
    assert found.advice == "fp32: nothing is faster within --max-drop 0.01"
    monkeypatch.setattr(measure, "run_child", lambda request, progress: {"error": "all broke"})
    shutil.rmtree(world / "out")
    with pytest.raises(Error, match="the float model does not run, so there is nothing to compare: all broke"):
        swept(world)


def test_memory_is_that_of_the_process_and_not_of_its_parent() -> None:
    """ru_maxrss of a process starts with what its parent had."""
    ballast = np.ones(400_000_000, np.uint8)
    script = "from edgedet.sweep.child import peak_memory; print(peak_memory())"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert ballast.nbytes / 1e6 > float(said) > 10.0


def test_detections_survive_the_journal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = [
        Detections(
            rng.random((n, 4), np.float32), rng.random(n, np.float32), np.arange(n, dtype=np.int32), list("abc")[:n]
        )
        for n in (0, 3, 1, 0)
    ]
    (tmp_path / "x.npz").write_bytes(child.pack(found))
    for before, after in zip(found, child.unpack(tmp_path / "x.npz", ["a", "b", "c"]), strict=True):
        assert np.array_equal(before.boxes, after.boxes)
        assert np.array_equal(before.scores, after.scores)
        assert before.names == after.names


def test_a_journal_answers_its_own_key_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert journal.read({"a": 1}) is None
    journal.write({"a": 1}, {"x": 2})
    assert journal.read({"a": 1}) == {"x": 2}
    assert journal.read({"a": 2}) is None


# Turns


def test_turns_alternate() -> None:
    seen: list[tuple[str, int]] = []
    runs = [lambda frame, name=name: seen.append((name, frame)) for name in "ab"]
    taken = take_turns(runs, [7, 8], turns=3)
    assert seen == [("a", 7), ("b", 7), ("b", 7), ("a", 7), ("a", 8), ("b", 8), ("b", 7), ("a", 7)]
    assert taken.shape == (2, 3)
    assert (taken >= 0.0).all()


def test_ratio_of_medians_and_its_error() -> None:
    rng = np.random.default_rng(0)
    ratios, errors = [], []
    for _ in range(200):
        reference = rng.normal(10.0, 0.5, 200)
        ratio, error = ratio_of_medians(0.5 * rng.normal(10.0, 0.5, 200), reference)
        ratios.append(ratio)
        errors.append(error)
    assert np.mean(ratios) == pytest.approx(0.5, abs=0.002)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(ratios), rel=0.5)
    assert np.isnan(ratio_of_medians(np.ones(1), np.ones(1))[1])


# What it says


def row(name: str, ratio: float, drop: float, *, drop_se: float = 0.001, state: str = "unverified", **more: Any) -> Row:
    precision = {"FP32": "fp32", "BF16": "bf16"}.get(name, "int8")
    return Row(
        contender=Contender(name=name, bundle=Path("b"), precision=precision, **more),
        ap={"AP": 0.4 - drop},
        drop=drop,
        drop_se=drop_se,
        latency_ms={"p50": 10 * ratio},
        ratio=ratio,
        ratio_se=0.01,
        facts={"verified": "" if name == "FP32" else state},
    )


FLOAT = row("FP32", 1.0, 0.0)


def test_the_fastest_that_keeps_the_accuracy_is_recommended() -> None:
    rows = [FLOAT, row("BF16", 0.7, 0.002), row("INT8 (Q/DQ)", 0.6, 0.0104, state="passed"), row("INT8 (x)", 0.4, 0.02)]
    assert recommended(rows, 0.01) is rows[2]
    assert advice(rows, 0.01) == "best here: int8, 0.60x of fp32's time, -0.010 AP, verified"
    assert recommended(rows, 0.005) is rows[1]
    assert advice(rows, 0.005).endswith("-0.002 AP, unverified: run python -m calibration verify")
    assert advice(rows, 0.5).startswith("best here: INT8 (x), 0.40x")
    assert advice([FLOAT, row("BF16", 0.985, 0.0)], 0.01) == "fp32: nothing is faster within --max-drop 0.01"


def test_the_front() -> None:
    better = row("BF16", 1.2, -0.01)
    rows = [FLOAT, row("INT8 (a)", 0.5, 0.01), row("INT8 (b)", 0.6, 0.02), better]
    same = replace(rows[1], contender=replace(rows[1].contender, name="best mixed", same_as="INT8 (a)"))
    broken = Row(contender=Contender(name="FP16", bundle=Path("b"), precision="fp16"), reason="no")
    assert [entry.contender.name for entry in front([*rows, same, broken])] == ["INT8 (a)", "FP32", "BF16"]


# The command


def test_by_command(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    naive = shutil.copytree(world / "cells", world / "naive")
    data = ["--images", str(world / "val"), "--annotations", str(world / "val" / "instances.json"), "--threads", "1"]
    more = ["--also", str(naive), "--limit", "4", "--frames", "20", "--backend", "openvino"]
    assert main(["sweep", str(world / "cells"), *data, *more, "--out", str(world / "out")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[:3] == ["contender", "AP", "AP50"]
    assert any(line.startswith("INT8 (naive)") for line in said)
    assert said[-1].startswith(("best here: ", "fp32: "))
    assert load_model_json(world / "cells")["best"] == {}


def test_without_matplotlib(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("no", name="matplotlib")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    found = swept(world, limit=4)
    assert found.note == "no sweep.png, because matplotlib is not installed; run: pip install matplotlib"
    assert (world / "out" / "sweep.json").exists()
    assert not (world / "out" / "sweep.png").exists()


@pytest.mark.parametrize(
    "wrong", [{"threads": -1}, {"limit": -1}, {"turns": 5}, {"max_drop": 2.0}, {"max_drop": float("nan")}]
)
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        SweepOptions(**wrong)


def test_images_that_are_missing(world: Path) -> None:
    (world / "val" / "003.png").unlink()
    with pytest.raises(InvalidInputError, match=r"003\.png: not there"):
        swept(world)


@pytest.mark.tensorrt
@pytest.mark.slow
def test_on_tensorrt(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert calibration(["quantize", str(world / "cells"), "--backend", "tensorrt", "--threads", "1"]) == 0
    assert calibration(["half", str(world / "cells"), "--threads", "1"]) == 0
    rows = {row.contender.name: row for row in swept(world, backend="tensorrt").rows}
    for name in ("FP32", "FP16", "INT8 (Q/DQ)"):
        assert rows[name].measured, rows[name].reason
        assert rows[name].ap["AP"] > 0.9
        assert rows[name].facts["vram_mb"] is not None

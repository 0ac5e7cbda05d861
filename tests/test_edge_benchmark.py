"""The benchmark of size, memory and start-up: a whole run on a tiny bundle, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_onnx

from benchmarks.edge import __main__ as edge
from benchmarks.edge import measure
from benchmarks.edge.report import render
from edgedet import Error

STEPS = ["interpreter", "import numpy", "import edgedet", "Detector", "a frame", "first detection", "20 more"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge")
    return tiny_onnx.logits_bundle(folder)


def test_a_whole_run(bundle: Path) -> None:
    figures = {**edge.measure(bundle, backend="auto", runs=1), "command": "the command"}
    for kind in ("Python", "Python, kept network"):
        steps = figures["steps"][kind]
        assert [step["step"] for step in steps] == STEPS
        times = [step["ms"] for step in steps]
        assert 0 < times[0] < times[-1] < 60_000
        assert times == sorted(times)
        # Both count resident pages; the peak was at some time, and pages that nobody shares count alike.
        resident = sum(figures["memory_mib"][kind].values())
        assert 10 < resident <= figures["start_up"][kind]["peak_mib"] * 1.05
        assert figures["start_up"][kind]["median_ms"] == times[-2]
    assert 0 < figures["start_up"]["edgedet-bench, kept network"]["median_ms"] < 60_000
    assert figures["size_bytes"]["kept network"] > 0
    assert figures["size_bytes"]["openvino"] > 10_000_000
    text = render(json.loads(json.dumps(figures)))
    assert "the command" in text
    assert all(step in text for step in STEPS)


def test_a_process_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"(?s)failed \(1\): .*model.json"):
        measure.python_start(tmp_path / "none", "auto", "")


@pytest.mark.parametrize("given", [["nowhere"], ["{bundle}", "--runs", "0"]])
def test_bad_arguments_are_refused(
    bundle: Path, given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["edge", *(text.format(bundle=bundle) for text in given)])
    assert edge.main() == 2
    assert "expected" in capsys.readouterr().err

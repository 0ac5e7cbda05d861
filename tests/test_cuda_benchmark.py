"""The benchmark of the CUDA device: sums and readers by hand-computed values, and its sections on a device of fakes."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import edgedet
from benchmarks.cuda_frames import (
    __main__ as command,
)
from benchmarks.cuda_frames import (
    contenders,
    environment,
    figures,
    frames,
    kernels,
    peers,
    record,
    report,
    timing,
    tools,
    torch_peer,
)
from benchmarks.cuda_frames.contenders import Contender, NotInstalled, Task, Ways

SMALL = record.Scale(
    samples=3,
    rounds=4,
    frames=30,
    seconds=5.0,
    compile=False,
    sanitizers=("memcheck",),
    pytest_seconds=5.0,
    sanitizer_seconds=5.0,
)


def test_summary_and_rates() -> None:
    assert figures.summary([4.0, 1.0, 3.0, 2.0, 101.0]) == {
        "p50": 3.0,
        "p99": pytest.approx(4 + 0.96 * 97),
        "minimum": 1.0,
        "count": 5,
    }
    assert figures.rates([0.0, 1.0, 2.0, 4.0, 6.0, 7.0], 2) == [1.0, 0.5]


def test_bytes() -> None:
    assert figures.image_bytes(3840, 2160, "bgr") == 24883200
    assert figures.image_bytes(3840, 2160, "nv12") == 12441600
    assert figures.linear_rows(6, 2) == {1, 2, 4, 5}  # centres at 1 and 4
    assert figures.linear_rows(4, 4) == {0, 1, 2, 3}
    assert figures.linear_rows(2, 4) == {0, 1}  # enlarged
    assert figures.linear_bytes(10, 6, "bgr", 2) == 4 * 30
    assert figures.linear_bytes(10, 6, "nv12", 2) == 4 * 10 + 3 * 10  # rows 0, 1 and 2 of the chroma
    assert figures.output_bytes(640, "float16") == 2457600
    assert figures.distinct_images(24883200, 50 * 2**20, 1) == 9
    assert figures.distinct_images(24883200, 50 * 2**20, 8) == 16
    assert figures.distinct_images(10**9, 50 * 2**20, 8) == 8
    assert figures.gigabytes_a_second(2e9, 1e6) == 2.0


def preprocess_row(**changes: Any) -> dict[str, Any]:
    named = {"source": "3840x2160", "format": "bgr", "filter": "antialias", "side": 640, "batch": 8, "dtype": "float16"}
    return {**named, "of_copy": 0.7, **changes}


def test_goals() -> None:
    sections = {
        "preprocess": {
            "result": {
                "rows": [
                    preprocess_row(),
                    preprocess_row(format="nv12", of_copy=0.69),
                    preprocess_row(batch=1),
                    preprocess_row(filter="bilinear"),
                    {**preprocess_row(), "error": "failed"},
                ]
            }
        },
        "decode": {
            "result": {
                "rows": [
                    {"rows": 300, "classes": 80, "batch": 1, "dtype": "float32", "microseconds": {"p50": 15.1}},
                    {"rows": 300, "classes": 80, "batch": 8, "dtype": "float32", "microseconds": {"p50": 25.0}},
                    {"rows": 1000, "classes": 1203, "batch": 1, "dtype": "float32", "microseconds": {"p50": 99.0}},
                ]
            }
        },
        "peers": {
            "result": {
                "rows": [
                    {"name": "torch eager", "filter": "antialias", "end_to_end": {"ratio_of_medians": 5.5}},
                    {"name": "CuPy", "filter": "bilinear", "skipped": "not installed"},
                ]
            }
        },
        "frame": {"error": "failed"},
    }
    assert [(goal["got"], goal["met"]) for goal in figures.goals(sections)] == [
        (0.7, True),
        (0.69, False),
        (15.1, False),
        (25.0, True),
        (5.5, True),
    ]
    assert figures.goals({}) == []


def test_pytest_output() -> None:
    output = "..F\n=== short test summary info ===\nFAILED tests/a.py::b - assert 1\n1 failed, 2 passed in 0.1s\n\n"
    assert tools.closing_line(output) == "1 failed, 2 passed in 0.1s"
    assert tools.closing_line("===== 3 passed in 2.0s =====\n") == "3 passed in 2.0s"
    assert tools.closing_line("") == ""
    assert tools.failed_tests(output) == ["FAILED tests/a.py::b - assert 1"]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("ok\n========= ERROR SUMMARY: 0 errors\n", ("ERROR SUMMARY: 0 errors", 0)),
        ("========= ERROR SUMMARY: 1 error\n", ("ERROR SUMMARY: 1 error", 1)),
        (
            "========= RACECHECK SUMMARY: 12 hazards displayed (10 errors, 2 warnings) \n",
            ("RACECHECK SUMMARY: 12 hazards displayed (10 errors, 2 warnings)", 12),
        ),
        ("========= ERROR SUMMARY: 0 errors\n========= ERROR SUMMARY: 3 errors\n", ("ERROR SUMMARY: 3 errors", 3)),
        ("Error: no device\n", ("", None)),
    ],
)
def test_sanitizer_output(output: str, expected: tuple[str, int | None]) -> None:
    assert tools.sanitizer_errors(output) == expected


NCU = """==PROF== Connected to process 7
"warning": not a table
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","7","void run_body<TiledKernel<unsigned short>>(T1)","dram__bytes_read.sum","byte","24,883,200"
"0","7","void run_body<TiledKernel<unsigned short>>(T1)","gpu__time_duration.sum","ns","10,240.5"
"1","7","void run_body<A, B>(T1)","dram__bytes_read.sum","byte","n/a"
==PROF== Disconnected
"""


def test_ncu_output() -> None:
    assert tools.profiled_kernels(NCU) == [
        {
            "kernel": "void run_body<TiledKernel<unsigned short>>(T1)",
            "dram__bytes_read.sum": {"value": 24883200.0, "unit": "byte"},
            "gpu__time_duration.sum": {"value": 10240.5, "unit": "ns"},
        },
        {"kernel": "void run_body<A, B>(T1)", "dram__bytes_read.sum": {"value": "n/a", "unit": "byte"}},
    ]
    refused = "==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM - The user does not have permission\nother\n"
    assert tools.profiled_kernels(refused) == []
    assert tools.tool_complaints(refused) == ["==ERROR== ERR_NVGPUCTRPERM - The user does not have permission"]


def test_environment_readers(tmp_path: Path) -> None:
    assert environment.cuda_version(12040) == "12.4"
    assert environment.cuda_version(13000) == "13.0"
    assert environment.cuda_version(0) == ""
    versions = environment.package_versions()
    assert versions["torch"] == torch.__version__
    assert set(versions) == set(environment.PACKAGES)
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A CPU: fast\n")
    assert environment.cpu_name(tmp_path / "cpuinfo") == "A CPU: fast"
    rows = "".join(f"GPU-{uuid}, name {uuid}" + ", 1" * 10 + "\n" for uuid in ("aa", "bb"))
    assert environment.smi_row(rows, "bb")["name"] == "name bb"
    assert environment.smi_row(rows, "")["name"] == "name aa"
    assert environment.smi_row("No devices were found\n", "aa") == {"message": "No devices were found"}


def test_a_tool_that_hangs_is_ended() -> None:
    child = "import subprocess, sys; print('started', flush=True); subprocess.run(['sleep', '60'])"
    start = time.perf_counter()
    outcome = tools.run_tool([sys.executable, "-c", child], 0.3)
    assert time.perf_counter() - start < 5
    assert outcome.told() == {"timed_out": True, "seconds": pytest.approx(outcome.seconds, abs=0.1)}
    script = "import os; print(os.environ['A']); raise SystemExit(3)"
    outcome = tools.run_tool([sys.executable, "-c", script], 30, {"A": "given"})
    assert (outcome.output, outcome.status) == ("given\n", 3)


def test_the_sanitizers_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = {
        "pytest": tools.Outcome("5 passed in 1s\n", 0, 1.0),
        "memcheck": tools.Outcome("========= ERROR SUMMARY: 0 errors\n", 0, 1.0),
    }
    monkeypatch.setattr(tools, "ROOT", tmp_path)
    monkeypatch.setattr(tools, "cuda_tool", lambda name: f"/cuda/{name}")
    monkeypatch.setattr(tools, "run_tool", lambda command, *_: said["memcheck" if "memcheck" in command else "pytest"])
    assert "no build/" in tools.sanitize(SMALL)["skipped"]
    assert tools.tests(SMALL)["passed"]
    binary = tmp_path / "build" / "venv" / "tests" / "cpp" / "edgedet_cuda_tests"
    binary.parent.mkdir(parents=True)
    binary.touch()
    result = tools.tests(SMALL)
    assert result["passed"]
    assert result["sanitizer"]["memcheck"]["errors"] == 0
    for output, status in [("========= ERROR SUMMARY: 2 errors\n", 9), ("", 0), ("", None)]:
        said["memcheck"] = tools.Outcome(output, status, 1.0)
        assert not tools.tests(SMALL)["passed"]
    del said["memcheck"]
    monkeypatch.setattr(tools, "cuda_tool", lambda name: None)
    assert "no compute-sanitizer" in tools.sanitize(SMALL)["skipped"]
    said["pytest"] = tools.Outcome("FAILED tests/a.py::b\n1 failed in 1s\n", 1, 1.0)
    result = tools.tests(SMALL)
    assert not result["passed"]
    assert result["pytest"]["failures"] == ["FAILED tests/a.py::b"]


def test_ncu_rows_have_the_names_of_their_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "cuda_tool", lambda name: name)
    monkeypatch.setattr(tools, "run_tool", lambda command, seconds: tools.Outcome(NCU, 0, 1.0))
    result = tools.nsight({"decode": ["first", "second"], "preprocess": ["only"]})
    names = [row["case"] for row in result["rows"]]
    assert names == ["decode first", "decode second", "preprocess launch 0", "preprocess launch 1"]
    assert result["preprocess"]["error"] == "expected 1 launches, got 2"
    monkeypatch.setattr(tools, "cuda_tool", lambda name: None)
    assert "no ncu" in tools.nsight({})["skipped"]


def test_a_failing_section_stops_no_other_and_all_is_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "results.json"
    seen: list[list[str]] = []

    def fails(done: Any) -> dict[str, Any]:
        raise ValueError("broken")

    def works(done: Any) -> dict[str, Any]:
        seen.append(list(done))
        return {"rows": []}

    def interrupted(done: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    said: list[str] = []
    kept: dict[str, Any] = {"started": "now"}
    with pytest.raises(KeyboardInterrupt):
        record.run_sections(
            {"decode": fails, "copy": works, "peers": interrupted}, kept, lambda r: record.save(file, r), said.append
        )
    written = json.loads(file.read_text())
    assert written == kept
    assert list(written["sections"]) == ["decode", "copy"]
    assert written["sections"]["decode"]["error"] == "ValueError: broken"
    assert "in fails" in written["sections"]["decode"]["traceback"]
    assert written["sections"]["copy"]["result"] == {"rows": []}
    assert seen == [["decode"]]
    assert any("ValueError: broken" in line for line in said)
    assert [path.name for path in file.parent.iterdir()] == ["results.json"]  # nothing half-written beside it


def test_writing_that_fails_leaves_the_file_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.json"
    record.save(file, {"sections": {"copy": 1}})

    def full(self: Path, content: bytes) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        record.save(file, {"sections": {}})
    assert json.loads(file.read_text()) == {"sections": {"copy": 1}}


def test_a_failing_row_stops_no_other() -> None:
    rows = record.measure_rows([1, 0, 2], lambda case: {"case": case}, lambda case: {"inverse": 1 / case})
    assert rows == [
        {"case": 1, "inverse": 1.0},
        {"case": 0, "error": "ZeroDivisionError: division by zero"},
        {"case": 2, "inverse": 0.5},
    ]


def test_tests_failed() -> None:
    assert not record.tests_failed({"copy": {"error": "x"}})
    assert not record.tests_failed({"tests": {"result": {"passed": True}}})
    assert record.tests_failed({"tests": {"result": {"passed": False}}})
    assert record.tests_failed({"tests": {"error": "x"}})


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cuda_frames", *arguments])
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # which the command sets; put back after
    return command.main()


def test_without_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(edgedet._core, "cuda_devices", lambda: ([], "no driver"))
    file = tmp_path / "results.json"
    for arguments in (["--out", str(file)], ["--child", "decode"]):
        assert run_command(monkeypatch, *arguments) == 2
        assert capsys.readouterr().err == "error: expected a CUDA device, got none: no driver\n"
    assert not file.exists()


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passed = True

    def sections(scale: record.Scale) -> dict[str, Any]:
        ran = {"closing_line": "done", "status": 0}
        return {
            "tests": lambda done: {"pytest": ran, "sanitizer": {"skipped": "none"}, "passed": passed},
            "copy": lambda done: {"gigabytes_a_second": 2.0},
            "decode": lambda done: 1 / 0,
            "nsight": lambda done: {"rows": []},
        }

    monkeypatch.setattr(edgedet.cuda, "devices", list)
    monkeypatch.setattr(environment, "environment", lambda: {"device": {"name": "Fake"}})
    monkeypatch.setattr(command, "_sections", sections)
    file = tmp_path / "results.json"
    assert run_command(monkeypatch, "--out", str(file), "--quick") == 0
    written = json.loads(file.read_text())
    assert list(written["sections"]) == ["tests", "copy", "decode"]
    assert written["finished"] is not None
    assert written["command"] == f"python -m benchmarks.cuda_frames --out {file} --quick"
    assert "ZeroDivisionError" in capsys.readouterr().out
    passed = False
    assert run_command(monkeypatch, "--out", str(file)) == 1
    assert run_command(monkeypatch, "--out", str(file), "--only", "copy") == 0
    assert list(json.loads(file.read_text())["sections"]) == ["copy"]
    assert command.choose(["nsight", "copy"], quick=True) == ("copy", "nsight")


def test_sections_are_all_there() -> None:
    assert tuple(command._sections(SMALL)) == command.SECTIONS
    assert set(report._SECTIONS) == set(command.SECTIONS)
    assert set(kernels.child_names()) == {"preprocess", "decode"}


def test_turns_rotate() -> None:
    calls: list[tuple[str, int]] = []

    def call(name: str) -> Callable[[int], None]:
        return lambda turn: calls.append((name, turn))

    names = ("a", "b", "c")
    pauses: list[int] = []
    taken = timing.round_robin(
        {name: call(name) for name in names}, rounds=2, warmup=1, between=lambda: pauses.append(1)
    )
    assert calls == [(name, turn) for turn, order in enumerate(("abc", "bca", "cab")) for name in order]
    assert {name: len(times) for name, times in taken.items()} == dict.fromkeys(names, 2)
    assert len(pauses) == 9


def test_host_times() -> None:
    times = timing.host_times(lambda index: time.sleep(0.002), samples=3, seconds=60, warmup=1)
    assert len(times.wall) == len(times.thread) == len(times.process) == 3
    assert min(times.wall) >= 2000
    assert min(times.thread) < 2000  # asleep
    assert len(timing.host_times(lambda index: None, samples=100, seconds=0, warmup=0).wall) == 1


class Pool:
    """Frames that are done at once; counts those in flight."""

    def __init__(self) -> None:
        self.flying = self.most = self.submitted = 0

    def submit(self, images: Any, format: str, timeout: float) -> Any:
        self.submitted += 1
        self.flying += 1
        self.most = max(self.most, self.flying)
        return SimpleNamespace(result=self.land)

    def land(self) -> None:
        self.flying -= 1


@pytest.mark.parametrize("paths", [1, 2, 4])
def test_the_pipeline_keeps_every_path_busy(paths: int) -> None:
    pool = Pool()
    stamps = frames.pipeline(pool, ["image"], paths=paths, frames=50, scale=SMALL)
    assert pool.most == paths
    assert pool.flying == 0
    assert len(stamps) == 51
    assert stamps == sorted(stamps)
    assert len(figures.rates(stamps, 25)) == 2


def small_task() -> Task:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((1, 30, 7), generator=generator) * 2 - 4
    return Task(96, 54, 32, 20, logits, torch.rand((1, 30, 4), generator=generator))


@pytest.mark.parametrize("filter", contenders.FILTERS)
def test_what_torch_makes_is_what_edgedet_makes(filter: kernels.Filter) -> None:
    task = small_task()
    ways = contenders.torch_ways(contenders.torch_functions(task, antialias=filter == "antialias"))
    found = peers.agreement(ways, filter, task, peers.make_frame(task, 1))
    assert found["largest_levels"] < 1.1  # edgedet rounds each of two passes to whole levels, torch none
    assert 0 < found["mean_levels"] < 0.5
    assert found["detections"] == 20
    assert found["same_labels"] == 1.0
    assert found["largest_score_difference"] < 1e-6
    assert found["largest_box_difference_px"] < 1e-4


def test_another_filter_shows() -> None:
    task = small_task()
    ways = contenders.torch_ways(contenders.torch_functions(task, antialias=False))
    assert peers.agreement(ways, "antialias", task, peers.make_frame(task, 1))["largest_levels"] > 10


def test_opencv_makes_the_same_levels() -> None:
    task = small_task()
    found = peers.agreement(contenders.opencv_ways(task), "bilinear", task, peers.make_frame(task, 1))
    assert found["largest_levels"] < 1e-3
    assert found["same_labels"] == 1.0


def test_decode_of_half_types_and_few_values() -> None:
    logits, boxes = (
        torch.tensor([[[1.0, -1.0], [0.5, 3.0]]]),
        torch.tensor([[[0.5, 0.5, 1.0, 0.5], [0.0, 0.5, 0.5, 2.0]]]),
    )
    size = torch.tensor([100.0, 50.0, 100.0, 50.0])
    for dtype in (torch.float32, torch.float16):
        rows = torch_peer.decode(logits.to(dtype), boxes.to(dtype), size, 300)
        assert rows.dtype == torch.float32
        assert rows.shape == (1, 4, 6)
        assert rows[0, :, 5].tolist() == [1, 0, 0, 1]
        assert rows[0, 0, :4].tolist() == [0, 0, 25, 50]
        assert rows[0, 1, :4].tolist() == [0, 12.5, 100, 37.5]
        assert rows[0, :2, 4].tolist() == pytest.approx([0.95257, 0.73106], abs=1e-3)


def test_agreement_of_detections() -> None:
    right = (np.zeros((2, 4), np.float32), np.array([0.9, 0.5], np.float32), np.array([1, 2], np.int32))
    rows = torch_peer.as_rows(right)
    rows[1] = [9, 9, 9, 9, 0.25, 3]
    assert torch_peer.detection_agreement(rows, right) == {
        "detections": 2,
        "same_labels": 0.5,
        "largest_score_difference": 0.25,
        "largest_box_difference_px": 0.0,
    }
    assert torch_peer.detection_agreement(rows[:1], right) == {"detections": 1, "expected": 2}


def test_contenders_that_do_not_work() -> None:
    task = small_task()
    frame = peers.make_frame(task, 0)

    def missing() -> Ways:
        contenders.package("no_such_package.of_mine")
        raise AssertionError

    def broken() -> Ways:
        raise RuntimeError("no compiler")

    good = contenders.torch_functions(task, antialias=True)
    every = [
        Contender("edgedet", "antialias", "edgedet", lambda: contenders.torch_ways(good)),
        Contender("missing", "antialias", "edgedet", missing),
        Contender("broken", "antialias", "edgedet", broken),
    ]
    made, told_of = peers.make_all(every, task, frame)
    assert list(made) == [("edgedet", "antialias")]
    assert told_of["missing", "antialias"] == {"skipped": "not installed"}
    assert told_of["broken", "antialias"] == {"error": "RuntimeError: no compiler"}
    rows = peers.compare(every, {"end_to_end": {("edgedet", "antialias"): [1.0, 3.0, 2.0]}}, told_of)
    assert rows[0]["end_to_end"]["ratio_of_medians"] == 1.0
    assert rows[1] == {"name": "missing", "filter": "antialias", "against": "edgedet", "skipped": "not installed"}
    with pytest.raises(NotInstalled):
        missing()


def test_ratios_are_of_medians() -> None:
    def unused() -> Ways:
        raise AssertionError

    every = [
        Contender(name, "bilinear", base, unused)
        for name, base in (("edgedet", "edgedet"), ("a", "edgedet"), ("b", "c"))
    ]
    times = {
        "end_to_end": {
            ("edgedet", "bilinear"): [2.0, 2.0, 50.0],
            ("a", "bilinear"): [9.0, 10.0, 11.0],
            ("b", "bilinear"): [1.0],
        }
    }
    rows = peers.compare(every, times, {contender.key: {} for contender in every})
    assert [row["end_to_end"].get("ratio_of_medians") for row in rows] == [1.0, 5.0, None]


class Stream:
    cuda_stream = 0

    def wait_stream(self, other: Stream) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Stream) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 0.5


class Graph:
    """Runs what was captured again, into the tensors of the first time."""

    def __init__(self) -> None:
        self.replays = 0

    def capture(self, queue: Callable[[], Any], stream: Stream) -> Any:
        self.queue, self.result = queue, queue()
        return self.result

    def replay(self) -> None:
        self.replays += 1
        again = self.queue()
        if isinstance(again, torch.Tensor):
            self.result.copy_(again)
        elif again is not None:
            for old, new in zip(self.result, again, strict=True):
                old.copy_(new)


class Preprocessor:
    """cuda.Preprocessor by edgedet.preprocess."""

    def __init__(self, *, max_batch: int = 1, max_width: int, max_height: int, **options: Any) -> None:
        self.most, self.options = (max_batch, max_width, max_height), options

    def run(self, images: Any, out: torch.Tensor, *, format: Any, stream: int) -> None:
        assert 1 <= len(images) == len(out) <= self.most[0]
        for image, place in zip(images, out, strict=True):
            place.copy_(torch.from_numpy(edgedet.preprocess(image.numpy(), format=format, **self.options)))


class Decoder:
    """cuda.Decoder by edgedet.decode_logits."""

    result_bytes = 16

    def __init__(self, *, max_batch: int, rows: int, classes: int, dtype: str, **options: Any) -> None:
        self.shape, self.dtype, self.options = (rows, classes), dtype, options

    def run(self, outputs: dict[str, torch.Tensor], sizes: Any, results: torch.Tensor, *, stream: int) -> None:
        assert results.shape == (len(sizes), self.result_bytes)
        assert outputs["logits"].shape == (len(sizes), *self.shape)
        assert outputs["logits"].dtype == outputs["boxes"].dtype == getattr(torch, self.dtype)
        self.outputs, self.sizes = outputs, sizes

    def read(self, results: Any) -> list[torch_peer.Detected]:
        logits, boxes = (self.outputs[name].float().numpy() for name in ("logits", "boxes"))
        return [
            edgedet.decode_logits(*pair, image_width=width, image_height=height, **self.options)
            for *pair, (width, height) in zip(logits, boxes, self.sizes, strict=True)
        ]


class View(np.ndarray[Any, Any]):
    @property
    def pointer(self) -> int:
        return self.ctypes.data


class FramePool:
    """cuda.FramePool on the CPU: calls its network twice before the first frame, the second time for a graph."""

    made: list[FramePool]

    def __init__(self, network: Any, *, rows: int, classes: int, width: int, height: int, **options: Any) -> None:
        self.made.append(self)
        self.network, self.options, self.calls = network, options, 0
        self.sides: Any = {"width": width, "height": height}
        self.buffers = {"logits": np.zeros((1, rows, classes), np.float32), "boxes": np.zeros((1, rows, 4), np.float32)}
        self.memory = {"device": 2**20, "pinned": 2**19}

    def submit(self, images: Any, format: str, timeout: float) -> Any:
        views = {name: buffer.view(View) for name, buffer in self.buffers.items()}
        for _ in range(0 if self.network is None else 2 if self.calls == 0 else 1):
            self.network(views, len(images), 0)
        self.calls += 1
        height, width, _ = images[0].shape
        assert (width, height) == (self.options["max_width"], self.options["max_height"])
        found = edgedet.decode_logits(
            *(buffer[0] for buffer in self.buffers.values()),
            image_width=width,
            image_height=height,
            top_k=self.options.get("top_k", 300),
            **self.sides,
        )
        return SimpleNamespace(result=lambda: [found])

    def detect(self, images: Any, format: str) -> Any:
        return self.submit(images, format, 0.0).result()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's and edgedet's CUDA on the CPU."""
    FramePool.made = []
    for name, fake in {
        "is_available": lambda: True,
        "mem_get_info": lambda: (4096, 4096),
        "get_device_properties": lambda index: SimpleNamespace(L2_cache_size=4096),
        "synchronize": lambda: None,
        "current_stream": Stream,
        "Stream": Stream,
        "ExternalStream": lambda pointer: Stream(),
        "stream": contextlib.nullcontext,
        "graph": lambda graph, stream, capture_error_mode: contextlib.nullcontext(),
        "Event": Event,
        "CUDAGraph": Graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(timing, "DEVICE", "cpu")
    monkeypatch.setattr(kernels, "InPlace", lambda tensor: tensor)
    monkeypatch.setattr(timing, "capture", Graph.capture)
    monkeypatch.setattr(contenders, "capture", Graph.capture)
    for name, twin in {"Preprocessor": Preprocessor, "Decoder": Decoder, "FramePool": FramePool}.items():
        monkeypatch.setattr(edgedet.cuda, name, twin)


def shown(name: str, result: dict[str, Any]) -> str:
    """The section as the file has it, as a table."""
    sections = json.loads(json.dumps({name: {"result": result, "seconds": 1.0}}))
    return report.report({"environment": {}, "sections": sections, "goals": figures.goals(sections)})


@pytest.mark.usefixtures("device")
def test_kernels_on_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        kernels.PreprocessCase(64, 48, "bgr", "antialias", 32, 1, "float16"),
        kernels.PreprocessCase(64, 48, "bgr", "bilinear", 32, 8, "float16"),
        kernels.PreprocessCase(64, 48, "nv12", "antialias", 32, 8, "float32"),
        kernels.PreprocessCase(64, 48, "bgr", "antialias", 0, 1, "float32"),
    ]
    monkeypatch.setattr(kernels, "preprocess_cases", lambda: cases)
    found = kernels.copy(SMALL)
    assert found["bytes_read_and_written"] == 2048
    assert found["gigabytes_a_second"] == pytest.approx(2048 / 250 / 1e3)  # a replay of two copies is 500 us
    result = kernels.preprocess(SMALL, {"copy": {"result": {"gigabytes_a_second": 4.0}}})
    rows = result["rows"]
    assert [row["images"] for row in rows[:3]] == [2, 8, 8]  # of 9216, 9216 and 4608 bytes, to 16384
    assert all(row["equal_to_cpu"] for row in rows[:3])
    assert rows[0]["touched_bytes"] == 64 * 48 * 3 + 3 * 32 * 32 * 2
    assert rows[0]["of_copy"] == pytest.approx(rows[0]["gigabytes_a_second"] / 4)
    assert rows[0]["calls_a_sample"] == 32
    assert rows[0]["timed"] == timing.GRAPH
    assert "needed_of_copy" in rows[1]
    assert "network input" in rows[3]["error"] or "width" in rows[3]["error"]
    assert "64x48" in shown("preprocess", result)
    heads = [kernels.DecodeCase(30, 7, 2, "float32"), kernels.DecodeCase(30, 7, 2, "float16")]
    monkeypatch.setattr(kernels, "decode_cases", lambda: heads)
    result = kernels.decode(SMALL)
    for row in result["rows"]:
        assert row["agreement"]["same_labels"] == 1.0
        assert row["torch_agreement"]["detections"] == 210
        assert row["torch_ratio_of_medians"] == 1.0
        assert row["microseconds"]["p50"] == pytest.approx(500 / 64)
    assert result["rows"][0]["torch_agreement"]["same_labels"] == 1.0
    assert "30" in shown("decode", result)


@pytest.mark.usefixtures("device")
def test_a_call_that_cannot_be_captured_is_timed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def refuse(graph: Graph, queue: Callable[[], Any], stream: Stream) -> Any:
        queue()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(timing, "capture", refuse)
    times = timing.gpu_times(calls.append, calls=2, samples=3)
    assert "not permitted" in times.timed
    assert times.microseconds == [250.0] * 3
    assert calls == [0, 1] * 7  # once before, in the attempt, twice to warm up, three samples


@pytest.mark.usefixtures("device")
def test_capturing_leaves_the_stream_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    entered: list[str] = []

    @contextlib.contextmanager
    def context(name: str) -> Iterator[None]:
        entered.append(name)
        yield
        entered.append(f"end of {name}")

    monkeypatch.setattr(torch.cuda, "stream", lambda stream: context("stream"))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream, capture_error_mode: context("graph"))

    def queue() -> int:
        entered.append("queue")
        return 7

    graph: Any = Graph()
    stream: Any = Stream()
    result = timing.capture(graph, queue, stream)
    assert result == 7
    assert entered == ["stream", "graph", "queue", "end of graph", "end of stream"]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("kind", ["preprocess", "decode"])
def test_children_on_fakes(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    launches: list[str] = []
    small = [kernels.PreprocessCase(64, 48, "bgr", "antialias", 32, 2, "float16")]
    monkeypatch.setattr(kernels, "CHILD_PREPROCESS", small)
    monkeypatch.setattr(kernels, "CHILD_DECODE", [kernels.DecodeCase(30, 7, 2, "float32")])
    for operation in (Preprocessor, Decoder):
        monkeypatch.setattr(operation, "run", lambda *_, **__: launches.append("launch"))
    monkeypatch.setattr(torch.cuda.profiler, "start", lambda: launches.append("start"))
    monkeypatch.setattr(torch.cuda.profiler, "stop", lambda: launches.append("stop"))
    kernels.child(kind)
    assert launches == ["launch", "start", "launch", "stop"]
    assert len(kernels.child_names()[kind]) == 1


@pytest.mark.usefixtures("device")
def test_frames_on_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "SIZES", ((64, 48),))
    monkeypatch.setattr(frames, "_IMAGES", 2)
    cases = frames.frame_cases()
    assert len(cases) == 4 * 6 + 2
    chosen = [case for case in cases if case.graph and case.paths in (0, 4)]
    monkeypatch.setattr(frames, "frame_cases", lambda: chosen)
    result = frames.frame(SMALL)
    assert [row.get("error") for row in result["rows"]] == [None] * len(chosen)
    written = [pool for pool in FramePool.made if pool.network is not None]
    assert len(written) == len(chosen) - 1
    assert all((pool.buffers["logits"][0] == pool.network.logits[0].numpy()).all() for pool in written)
    alone = [row for row in result["rows"] if row["paths"] == 0]
    assert all(row["microseconds"]["count"] == 30 and row["device_bytes"] == 2**20 for row in alone)
    assert {row["frames_a_second"]["count"] for row in result["rows"] if row["paths"] == 4} == {2}
    assert "pageable" in shown("frame", result)


def test_outputs_are_written_at_the_first_call_only(device: None) -> None:
    logits, boxes = torch.ones((1, 2, 3)), torch.ones((1, 2, 4))
    network = frames.OutputsOnce(logits, boxes)
    buffers: Any = {
        "logits": np.zeros((1, 2, 3), np.float32).view(View),
        "boxes": np.zeros((1, 2, 4), np.float32).view(View),
    }
    network(buffers, 1, 0)
    assert all(buffer.min() == 1 for buffer in buffers.values())
    for buffer in buffers.values():
        buffer[:] = 0
    network(buffers, 1, 0)
    assert all(buffer.max() == 0 for buffer in buffers.values())
    other = {name: buffer.copy() for name, buffer in buffers.items()}
    network(other, 1, 0)  # of another path
    assert all(buffer.min() == 1 for buffer in other.values())


@pytest.mark.usefixtures("device")
def test_peers_on_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise NotInstalled("not installed")

    monkeypatch.setattr(peers, "make_task", small_task)
    monkeypatch.setattr(contenders, "package", missing)
    result = peers.peers(SMALL)
    rows = {(row["name"], row["filter"]): row for row in result["rows"]}
    assert [name for name, row in rows.items() if "error" in row] == []
    working = {name: row for name, row in rows.items() if "skipped" not in row}
    assert {name for name, _ in working} >= {"edgedet", "torch eager", "torch CUDA graph"}
    for name, row in working.items():
        assert row["end_to_end"]["microseconds"]["count"] == 4
        assert row["preprocess"]["ratio_of_medians"] > 0
        assert row["agreement"]["largest_levels"] < (1e-3 if "edgedet" in name[0] else 1.1), name
        assert row["agreement"]["same_labels"] == 1.0
    assert rows["edgedet", "antialias"]["end_to_end"]["ratio_of_medians"] == 1.0
    text = shown("peers", result)
    assert "torch CUDA graph" in text
    assert "times faster than torch eager" in text

"""Building engines: options, the child process and how it can end, the command, and swapping bundles."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from PIL import Image

from edgedet import BackendError, BundleError, Detector, EngineOptions, Error, InvalidInputError, _core, engines
from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle
from edgedet.calibration_set import FORMAT, VERSION, CalibrationFeed
from edgedet.cli import main
from edgedet.cli.common import add_engine_options, engine_options
from edgedet.engines import build_engine
from edgedet.tensorrt_libraries import library_folders

RESULT = {
    "event": "result",
    "path": "/cache/x.engine",
    "built": True,
    "bytes": 12_300_000,
    "seconds": 61.5,
    "workspace_mb": 512,
    "backend": "tensorrt",
    "precision": "fp16",
    "device": "TensorRT 10.3.0 on GPU",
}


def worker(body: str) -> list[str]:
    """A stand-in for the child: `request` is what it was sent, `tell` sends an event."""
    start = """
    import json, os, signal, subprocess, sys, time
    request = json.load(sys.stdin)
    def tell(event, **values):
        print(json.dumps({"event": event, **values}), flush=True)
    """
    return [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(body)]


def ended(pid: int) -> bool:
    """Whether a process is gone, waiting a little for it."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_the_child_builds(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    notes: list[str] = []
    made = build_engine(
        tmp_path / "bundle",
        precision="fp16",
        cache_dir=tmp_path / "cache",
        engine=EngineOptions(batch=(1, 2, 8), calibrator="minmax", calibration_images="images"),
        progress=lambda *step: told.append(step),
        note=notes.append,
        command=worker(f"""
            tell("alive")
            tell("memory", free_mb=900, total_mb=4000)
            for step in (1, 2, 3):
                tell("progress", phase=request["engine"]["calibrator"], step=step, of=request["engine"]["batch"][2])
            tell("unheard of")
            sys.stderr.write("noise")
            tell(**{{**{RESULT!r}, "path": request["cache_dir"] + request["engine"]["calibration_images"]}})
        """),
    )
    assert told == [("minmax", 1, 8), ("minmax", 2, 8), ("minmax", 3, 8)]
    assert (made.backend, made.precision) == ("tensorrt", "fp16")
    assert made.engine is not None
    assert made.engine.path == f"{tmp_path / 'cache'}{Path('images').absolute()}"
    assert made.engine.built
    assert (made.engine.bytes, made.engine.seconds) == (12_300_000, 61.5)
    assert any("512 MiB of workspace, not 1024" in note for note in notes)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", ["killed", "memory runs out", "MiB", "--workspace-mb", "swap"]),
        (
            "tell('memory', free_mb=321, total_mb=4000); os.kill(os.getpid(), signal.SIGKILL)",
            ["of the GPU's 4000 MiB 321 were free"],
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", ["SIGSEGV", "driver", "TensorRT", "edgedet doctor"]),
        ("os.kill(os.getpid(), signal.SIGABRT)", ["SIGABRT"]),
        ("os.kill(os.getpid(), signal.SIGHUP)", ["signal SIGHUP"]),
        ("print('the reason', file=sys.stderr); sys.exit(3)", ["exit status 3", "it printed: the reason"]),
        ("sys.exit(0)", ["ended without one", "exit status 0"]),
        ("tell('progress', phase='x', step=1, of=2); raise ValueError('bug')", ["exit status 1", "ValueError: bug"]),
        ("print('Hello', flush=True); time.sleep(60)", ["expected events", "Hello"]),
        ("print('[1]', flush=True); time.sleep(60)", ["expected events"]),
        ("print('9' * 5_000_000, flush=True); time.sleep(60)", ["expected events"]),
        ("sys.stdout.buffer.write(b'\\xff' * 3_000_000); sys.stdout.flush(); time.sleep(60)", ["expected events"]),
        ("tell('result', path='x'); time.sleep(60)", ["expected events", "'path': 'x'"]),
        ("tell('progress', phase='x', step='1', of=None); time.sleep(60)", ["expected events"]),
        ("time.sleep(60)", ["sign of life", "none for 1 s"]),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", ["sign of life"]),
    ],
)
def test_the_child_dies(tmp_path: Path, body: str, parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_GRACE_S", 0.5)
    pid = tmp_path / "pid"
    write_pid = f"open({str(pid)!r}, 'w').write(str(os.getpid()))"
    with pytest.raises(BackendError) as caught:
        build_engine(tmp_path, command=worker(f"{write_pid}\n{body}"), silence_s=1.0)
    assert [part for part in parts if part not in str(caught.value)] == [], str(caught.value)
    assert ended(int(pid.read_text(encoding="ascii")))


def test_a_closed_pipe_and_an_open_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_GRACE_S", 0.5)
    with pytest.raises(BackendError, match="SIGTERM"):
        build_engine(tmp_path, command=worker("os.close(1); time.sleep(60)"))
    # A process of the child's own holds the pipe open after it is gone.
    left = tmp_path / "left"
    body = f"child = subprocess.Popen(['sleep', '60']); open({str(left)!r}, 'w').write(str(child.pid)); os._exit(4)"
    begin = time.monotonic()
    with pytest.raises(BackendError, match="exit status 4"):
        build_engine(tmp_path, command=worker(body))
    assert time.monotonic() - begin < 30
    os.kill(int(left.read_text(encoding="ascii")), signal.SIGKILL)


@pytest.mark.parametrize("kind", ["BackendError", "BundleError", "InvalidInputError", "ModelError", "Unknown"])
def test_errors_of_the_child_are_ours(tmp_path: Path, kind: str) -> None:
    with pytest.raises(Error, match="what, why") as caught:
        build_engine(tmp_path, command=worker(f"tell('error', kind={kind!r}, message='what, why')"))
    assert type(caught.value).__name__ == (kind if kind != "Unknown" else "BackendError")


def test_a_crash_after_the_result_is_none(tmp_path: Path) -> None:
    made = build_engine(
        tmp_path, command=worker(f"tell(**{RESULT!r}); os.kill(os.getpid(), signal.SIGSEGV)"), note=lambda _: None
    )
    assert made.engine is not None


def test_what_progress_raises_ends_the_child(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    body = f"open({str(pid)!r}, 'w').write(str(os.getpid())); tell('progress', phase='x', step=1, of=2); time.sleep(60)"

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(tmp_path, command=worker(body), progress=interrupted)
    assert ended(int(pid.read_text(encoding="ascii")))


def test_ctrl_c_stops_the_command_and_its_child(tmp_path: Path) -> None:
    """The signal goes to the parent alone, as of a terminal whose foreground group the child is not in."""
    pid = tmp_path / "pid"
    body = f"open({str(pid)!r}, 'w').write(str(os.getpid())); tell('alive'); time.sleep(60)"
    script = f"""
        import signal
        from edgedet import engines
        from edgedet.cli import main
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored in the background
        engines._command = lambda: {worker(body)!r}
        raise SystemExit(main(["build", {str(tmp_path)!r}]))
    """
    command = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(200):
            if pid.exists() and pid.read_text(encoding="ascii"):
                break
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=30)
    finally:
        command.kill()
        command.communicate()
    assert command.returncode == 130
    assert "interrupted" in said
    assert ended(int(pid.read_text(encoding="ascii")))


def test_a_killed_parent_leaves_no_child(tiny: Path, tmp_path: Path) -> None:
    """The child's next sign of life finds nobody who reads it."""
    script = f"""
        import os, time
        from edgedet import _core, engine_worker
        def slow(*_, **__):
            open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
            time.sleep(60)
        class Stub:
            prepare, cuda_devices = staticmethod(slow), staticmethod(lambda: ([], ""))
        engine_worker._core = Stub
        engine_worker.core_options = lambda *_: None
        engine_worker.main()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps({"bundle": str(tiny), "engine": {}}).encode())
    child.stdin.close()
    assert json.loads(child.stdout.readline())["event"] == "alive"
    child.stdout.close()
    child.wait(timeout=10)
    assert (tmp_path / "pid").exists()


def test_the_child_stops_in_an_orderly_way() -> None:
    """On SIGTERM progress says stop, and what the builder then raises is reported."""
    script = """
        import time
        from edgedet import BackendError, engine_worker
        def build(bundle, engine, progress):
            while progress("tactics", 1, 2):
                time.sleep(0.05)
            raise BackendError("stopped, and nothing half written")
        class Stub:
            prepare, cuda_devices = staticmethod(build), staticmethod(lambda: ([], ""))
        engine_worker._core = Stub
        engine_worker.core_options = lambda *_: None
        engine_worker.main()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b'{"bundle": "x", "engine": {"batch": [1, 2, 4]}}')
    child.stdin.close()
    assert json.loads(child.stdout.readline())["event"] in ("alive", "progress")
    child.terminate()
    events = [json.loads(line) for line in child.stdout]
    child.stdout.close()
    assert child.wait(timeout=10) == 0
    assert events[-1] == {"event": "error", "kind": "BackendError", "message": "stopped, and nothing half written"}


def test_the_real_child_where_nothing_is_built(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the current folder was imported')")
    notes: list[str] = []
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        made = build_engine(tiny, backend="openvino", cache_dir="cache", note=notes.append)
    finally:
        os.chdir(before)
    assert made.engine is None
    assert (made.backend, made.precision) == ("openvino", "fp32")
    assert not (tmp_path / "cache").exists()
    with pytest.raises(BundleError, match="nowhere"):
        build_engine(tmp_path / "nowhere", backend="openvino")


def test_a_program_that_embeds_python_builds_by_itself(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/camera/bin/camera")
    monkeypatch.setattr(subprocess, "Popen", None)
    assert build_engine(tiny, backend="openvino").backend == "openvino"
    monkeypatch.setattr(sys, "executable", "")
    assert build_engine(tiny, backend="openvino").backend == "openvino"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return wrap(tmp_path / "tiny", "tiny", tiny_onnx.logits_model(tmp_path / "tiny.onnx"), tiny_onnx.CLASSES)


def wrap(folder: Path, name: str, model: Path, classes: Sequence[str]) -> Path:
    side = tiny_onnx.SIZE
    return write_bundle(
        folder, model, name=name, input=InputSpec(width=side, height=side), output=LogitsBoxes(), classes=classes
    )


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"device": -1}, "device: expected a whole number from 0"),
        ({"device": True}, "device"),
        ({"workspace_mb": 0}, "workspace_mb: expected a whole number from 1"),
        ({"workspace_mb": 1.5}, "workspace_mb"),
        ({"dla_core": -1}, "dla_core"),
        ({"memory_limit_mb": 0}, "memory_limit_mb"),
        ({"batch": (2, 4, 8)}, r"batch: expected \(1, opt, max\)"),
        ({"batch": (1, 8, 4)}, "batch"),
        ({"batch": (1, 4, 5000)}, "batch"),
        ({"batch": [1, 4, 8]}, "batch"),
        ({"batch": (1, 8)}, "batch"),
        ({"calibrator": "mean"}, "calibrator: expected entropy, minmax"),
        ({"calibration_images": "folder"}, "calibration_images: expected a calibrator"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidInputError, match=part):
        EngineOptions(**options)


def test_options_are_values() -> None:
    assert EngineOptions() == EngineOptions(workspace_mb=1024)
    with pytest.raises(dataclasses.FrozenInstanceError):
        EngineOptions().device = 1  # type: ignore[misc]


def test_detectors_take_engine_options(tiny: Path) -> None:
    detector = Detector(tiny, backend="openvino", engine=EngineOptions(workspace_mb=64, batch=(1, 2, 4)))
    assert detector.info.engine is None
    with pytest.raises(InvalidInputError, match="device: expected a backend that builds engines"):
        Detector(tiny, backend="openvino", engine=EngineOptions(device=1))


def test_a_detector_has_its_engine_built_first(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def is_prepared(bundle: str, **options: Any) -> bool:
        asked.append(options["cache_dir"])
        return False

    monkeypatch.setattr(_core, "is_prepared", is_prepared)
    monkeypatch.setattr(engines, "_command", lambda: worker(f"tell(**{RESULT!r})"))
    info = Detector(tiny, backend="openvino", cache_dir=tmp_path / "cache").info
    assert asked == [str(tmp_path / "cache")]
    assert info.engine is not None
    assert info.engine.built
    assert info.engine.path == "/cache/x.engine"
    monkeypatch.setattr(engines, "_command", lambda: worker("os.kill(os.getpid(), signal.SIGKILL)"))
    with pytest.raises(BackendError, match="killed"):
        Detector(tiny, backend="openvino")


def test_the_command(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(
        engines,
        "_command",
        lambda: worker(f"""
        assert request["engine"] == {{
            "device": 1, "workspace_mb": 2048, "batch": [1, 2, 4], "dla_core": 0, "memory_limit_mb": 4096,
            "calibrator": "entropy", "calibration_images": None}}
        assert request["precision"] == "int8" and request["cache_dir"] == {str(tmp_path)!r}
        tell("progress", phase="parse", step=1, of=2)
        tell("progress", phase="parse", step=2, of=2)
        tell("progress", phase="within", step=1, of=0)
        tell(**{RESULT!r})
    """),
    )
    report = tmp_path / "report.json"
    words = "--precision int8 --calibrator entropy --workspace-mb 2048 --batch 1:2:4 --dla 0 --device 1"
    more = ["--memory-limit-mb", "4096", "--cache-dir", str(tmp_path), "--json", str(report)]
    assert main(["build", str(tiny), *words.split(), *more]) == 0
    out, err = capsys.readouterr()
    for part in (
        "tensorrt fp16, TensorRT 10.3.0 on GPU",
        "/cache/x.engine",
        "12.3 MB",
        "61.5 s",
        "next: edgedet bench",
    ):
        assert part in out
    assert "parse 1/2" in err
    assert "parse 2/2" in err
    assert "within 1" not in err
    written = json.loads(report.read_text(encoding="utf-8"))
    assert written["engine"]["path"] == "/cache/x.engine"
    assert written["backend"] == "tensorrt"


@pytest.mark.parametrize("words", ["--batch 1:2", "--batch 1:x:3", "--workspace-mb 0", "--dla -1", "--precision int4"])
def test_the_command_refuses_words(tiny: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["build", str(tiny), *words.split()])
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--batch 2:4:8", "batch: expected (1, opt, max)"),
        ("--backend openvino --dla 0", "dla_core: expected a backend that builds engines"),
        ("--backend openvino --calibrator entropy", "expected a recorded sample"),
        ("--calibration-images x", "calibration_images: expected a calibrator"),
    ],
)
def test_the_command_reports_errors(tiny: Path, words: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tiny), *words.split()]) == 2
    assert f"error: {part}" in (err := capsys.readouterr().err) or part in err


def test_the_command_where_nothing_is_built(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tiny), "--backend", "openvino"]) == 0
    assert "openvino builds nothing ahead" in capsys.readouterr().out


def test_calibration_images_are_fed(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    entries = []
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 30, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        (folder / f"{index}.png").write_bytes(buffer.getvalue())
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        entries.append({"file": f"{index}.png", "sha256": digest, "width": 30, "height": 20})
    sample = {"directory": "moved", "strategy": "x", "seed": 0, "candidates": 5, "images": entries, "refused": []}
    record = {"format": FORMAT, "version": VERSION, "sample": sample}
    (tiny / "calibration.json").write_text(json.dumps(record), encoding="utf-8")
    spec = _core.load_spec(str(tiny))
    width, height = spec["input"]["width"], spec["input"]["height"]
    feed = CalibrationFeed(tiny, spec, folder)
    assert feed.count == 5
    values = 2 * 3 * width * height
    first, second = feed(values), feed(values)
    assert first is not None
    assert second is not None
    assert feed(values) is None  # one image is left, which fills no batch
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    how = {key: spec["input"][key] for key in ("resize", "filter", "channels", "mean", "std", "pad_value")}
    assert np.array_equal(first[1], _core.preprocess(pixels, width=width, height=height, **how))
    with pytest.raises(InvalidInputError, match="whose input has"):
        CalibrationFeed(tiny, spec, folder)(values + 1)

    digest = feed.digest
    assert CalibrationFeed(tiny, spec, folder).digest == digest
    other = {**spec, "input": {**spec["input"], "mean": (0.5, 0.5, 0.5)}}
    assert CalibrationFeed(tiny, other, folder).digest != digest
    (folder / "0.png").write_bytes(b"changed")
    with pytest.raises(InvalidInputError, match="was changed"):
        CalibrationFeed(tiny, spec, folder)(values)
    record["sample"]["images"] = entries[1:]  # type: ignore[index]
    (tiny / "calibration.json").write_text(json.dumps(record), encoding="utf-8")
    assert CalibrationFeed(tiny, spec, folder).digest != digest


def test_libraries_of_wheels_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt_libs", "tensorrt"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert library_folders() == ["", str(tmp_path / "tensorrt_libs"), str(tmp_path / "tensorrt")]


def other_bundle(folder: Path) -> Path:
    """Like the tiny bundle, with other boxes and names."""
    boxes = tiny_onnx.BOXES[::-1].copy()
    model = tiny_onnx.logits_model(folder.parent / "other.onnx", boxes=boxes)
    return wrap(folder, "other", model, [f"other {name}" for name in tiny_onnx.CLASSES])


def test_swap(tiny: Path, tmp_path: Path) -> None:
    other = other_bundle(tmp_path / "other")
    detector = Detector(tiny, backend="openvino", max_detections=3)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    before, info = detector(image), detector.info
    for wrong in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BundleError):
            detector.swap(wrong)
    assert detector.info is info
    assert list(detector(image).names) == list(before.names)
    detector.swap(other)
    after = detector(image)
    assert detector.info.name == "other"
    assert detector.info.spec["name"] == "other"
    assert len(after) == 3  # with the options of before
    assert list(after.names) == [f"other {name}" for name in before.names]
    assert info.name != "other"


def test_swap_under_traffic(tiny: Path, tmp_path: Path) -> None:
    """Names and info of every call are those of one bundle, whole."""
    bundles = [tiny, other_bundle(tmp_path / "other")]
    detector = Detector(tiny, backend="openvino", threads=1)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    boxes = [Detector(bundle, backend="openvino", threads=1)(image).boxes for bundle in bundles]
    assert not np.array_equal(*boxes)
    done = threading.Event()
    seen = {True: 0, False: 0}
    torn: list[object] = []

    def traffic(check: Callable[[], None]) -> None:
        while not done.is_set():
            check()

    def call() -> None:
        found = detector(image)
        kinds = {name.startswith("other") for name in found.names}
        kind = kinds.pop()
        if kinds or not np.array_equal(found.boxes, boxes[kind]):
            torn.append(found)
        seen[kind] += 1

    def read() -> None:
        info = detector.info
        others = {info.name == "other", info.spec["name"] == "other", info.classes[0].startswith("other")}
        if len(others) != 1:
            torn.append(info)

    threads = [threading.Thread(target=traffic, args=(check,)) for check in (call, call, call, read)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(1, 11):
            with pytest.raises(BundleError):
                detector.swap(tmp_path / "nowhere")
            count = seen[bool(turn % 2)]
            detector.swap(bundles[turn % 2])
            deadline = time.monotonic() + 20
            while seen[bool(turn % 2)] == count:
                assert time.monotonic() < deadline
                time.sleep(0.001)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not torn


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], (1024, None)),
        (["--low-memory"], (256, 2048)),
        (["--low-memory", "--workspace-mb", "64", "--memory-limit-mb", "900"], (64, 900)),
        (["--low-memory", "--workspace-mb", "4096", "--memory-limit-mb", "9000"], (256, 2048)),
    ],
)
def test_low_memory_lowers_what_was_asked_for(given: list[str], expected: tuple[int, int | None]) -> None:
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    options = engine_options(parser.parse_args(given))
    assert (options.workspace_mb, options.memory_limit_mb) == expected

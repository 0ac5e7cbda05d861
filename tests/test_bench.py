"""What a benchmark reports: the same from `edgedet bench` and `edgedet-bench`, and energy from recorded trees."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from test_benchmark_binary import run as run_binary

import edgedet
from edgedet import _core, tegrastats
from edgedet.cli import main
from edgedet.cli.bench import synthetic_frame

GPU = "00000000:3b:00.0"


@pytest.fixture
def bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(tiny_onnx.CLASSES))
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx")
    assert main(["import", str(model), "--labels", str(labels), "--out", str(tmp_path / "bundle")]) == 0
    capsys.readouterr()
    return tmp_path / "bundle"


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Writes files of a machine and returns its root."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # By renaming, so that a sampler sees no file that is half written.
            whole = path.with_name(path.name + ".new")
            whole.write_text(text + "\n")
            whole.replace(path)
        return tmp_path / "root"

    return write


def report(
    bundle: Path, root: Path, *, latency: list[float], batch: int = 1, gpu: str = "", meanwhile: Callable[[], object]
) -> tuple[dict[str, Any], str]:
    """Of calls that took `latency` ms, on the machine whose files are under `root`."""
    detector = edgedet.Detector(bundle)
    sampler = _core.Sampler(root=str(root), gpu=gpu, nvml="libnothing.so")
    sampler.start()
    meanwhile()
    record = sampler.stop()
    stages = [(value / 4, value / 2, value / 8) for value in latency]
    text, lines = detector.core.bench_report(
        _core.BenchRun(
            latency=latency,
            stages=stages,
            parts=detector.core.time_parts([synthetic_frame(64, 48)] * batch, "rgb", 3),
            telemetry=record,
            frames_per_call=batch,
            frame_size="64x48",
            mode="latency",
            bundle=str(bundle),
            command='edgedet bench "a\nb"',
            root=str(root),
        )
    )
    figures: dict[str, Any] = json.loads(text)
    return figures, lines


def keys(value: object, path: str = "") -> set[str]:
    """Paths of all keys; what is null may be an object elsewhere, so it counts as one without keys."""
    if not isinstance(value, dict):
        return {path}
    free = ("not_available", "rails_w")  # their keys are data
    inside = [keys(item, f"{path}.{key}") for key, item in value.items() if key not in free]
    return {path}.union(*inside) | {f"{path}.{key}" for key in value if key in free}


def test_python_and_cpp_report_the_same_keys(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python, binary = tmp_path / "python.json", tmp_path / "binary.json"
    common = [str(bundle), "--batch", "2", "--warmup", "1", "--threads", "1"]
    assert main(["bench", *common, "--frames", "9", "--json", str(python)]) == 0
    done = run_binary(*common, "--iterations", "9", "--json", binary)
    assert (done.returncode, done.stderr) == (0, "")
    ours, theirs = (json.loads(path.read_text()) for path in (python, binary))
    assert list(ours) == list(theirs)
    assert keys(ours) == keys(theirs)
    assert ours["not_available"] == theirs["not_available"]
    for same in ("frames_per_call", "calls", "frame_size", "backend", "device", "machine", "version", "built_with"):
        assert ours[same] == theirs[same]
    assert (ours["frames_per_call"], ours["calls"]) == (2, 9)
    # The lines of text have the same names, too.
    out = capsys.readouterr().out.split("ms per call")[1]
    assert [line.split()[:1] for line in out.splitlines()] == [
        line.split()[:1] for line in done.stdout.split("ms per call")[1].splitlines()
    ]


def test_times(tmp_path: Path, bundle: Path) -> None:
    latency = np.random.default_rng(0).lognormal(1.0, 0.5, 101).tolist()
    figures, lines = report(bundle, tmp_path, latency=latency, batch=3, meanwhile=lambda: None)
    wanted = dict(zip(("p50", "p90", "p95", "p99"), np.percentile(latency, (50, 90, 95, 99)), strict=True))
    wanted |= {"max": max(latency), "mean": float(np.mean(latency))}
    assert figures["latency_ms"] == pytest.approx(wanted)
    assert list(figures["latency_ms"]) == list(wanted)
    assert figures["stages_ms"]["preprocess"] == pytest.approx(wanted["mean"] / 4)
    assert figures["stage_percentiles_ms"]["decode"]["p99"] == pytest.approx(wanted["p99"] / 8)
    assert figures["fps"] == pytest.approx(3000 * 101 / sum(latency))
    ratio = figures["latency_ms"]["p50"] / figures["network_ms"]["p50"]
    assert figures["end_to_end_over_network"] == pytest.approx(ratio)
    assert figures["command"] == 'edgedet bench "a\nb"'
    age = datetime.now(timezone.utc) - datetime.fromisoformat(figures["date"].replace("Z", "+00:00"))
    assert -5 < age.total_seconds() < 60
    for word in ("end to end", "network alone", "frames/s", "MB"):
        assert word in lines


def test_the_network_alone_is_a_part_of_the_whole(bundle: Path) -> None:
    detector = edgedet.Detector(bundle, threads=1)
    frame = synthetic_frame(1920, 1080)  # preprocessing is much of the whole for a network as small as this
    latency, stages = [], []
    for _ in range(40):
        _, times = detector.detect_timed([frame])
        stages.append(tuple(times))
        latency.append(sum(times))
    sampler = _core.Sampler()
    sampler.start()
    record = sampler.stop()
    text, _ = detector.core.bench_report(
        _core.BenchRun(
            latency=latency, stages=stages, parts=detector.core.time_parts([frame], "rgb", 40), telemetry=record,
            frames_per_call=1, frame_size="", mode="latency", bundle="", command="",
        )
    )  # fmt: skip
    figures = json.loads(text)
    assert 0 < figures["network_ms"]["p50"] <= 1.5 * figures["latency_ms"]["p50"]
    assert sum(figures["stages_ms"].values()) == pytest.approx(figures["latency_ms"]["mean"])


def test_a_machine_without_counters_says_why(tmp_path: Path, bundle: Path) -> None:
    figures, lines = report(bundle, tmp_path / "nothing", latency=[1.0, 2.0], meanwhile=lambda: None)
    missing = figures["not_available"]
    assert figures["joules_per_frame"] == {"board": None, "gpu": None, "cpu": None, "dram": None}
    for name in figures["joules_per_frame"]:
        assert missing[f"joules_per_frame.{name}"]
        assert f"joules_per_frame.{name}" in lines
    assert figures["machine"]["power_mode"] is None
    assert "nvpmodel/status: No such file" in missing["machine.power_mode"]
    assert figures["throttling"] is None
    assert "not available" in lines
    assert figures["warnings"] == []

    def paths(value: object, path: str) -> list[str]:
        if isinstance(value, dict):
            return [found for key, item in value.items() for found in paths(item, f"{path}.{key}".lstrip("."))]
        return [path] if value is None else []

    nulls = {path for path in paths(figures, "") if not path.startswith("energy_source.")}
    assert nulls == set(missing)  # each null has its reason, and nothing else has one


def test_joules_per_frame_of_counters(bundle: Path, tree: Callable[[dict[str, str]], Path]) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    root = tree(
        {
            f"{zone}/name": "package-0",
            f"{zone}/max_energy_range_uj": "1000000",
            f"{zone}/energy_uj": "900000",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
        }
    )
    figures, lines = report(
        bundle,
        root,
        latency=[1.0] * 5,
        batch=2,
        meanwhile=lambda: tree(
            {
                f"{zone}/energy_uj": "400000",  # 0.5 J, by way of 0
                "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4",
            }
        ),
    )
    assert figures["joules_per_frame"]["cpu"] == pytest.approx(0.05)
    assert figures["power_w"]["cpu"] == pytest.approx(0.5 / figures["interval_s"])
    assert figures["energy_source"]["cpu"] == "RAPL counter"
    assert "joules_per_frame.cpu" not in figures["not_available"]
    assert "energy       cpu 0.05 J a frame" in lines
    assert figures["throttling"] == ["CPU: temperature of a core"]
    throttled, rough = sorted(figures["warnings"], reverse=True)
    assert throttled == "throttled: CPU: temperature of a core"
    assert "rough" in rough
    assert f"warning      {throttled}" in lines


def test_joules_per_frame_of_a_jetson(bundle: Path, tree: Callable[[dict[str, str]], Path]) -> None:
    sensor = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    rails = {"VDD_IN": (5000, 1600), "VDD_CPU_GPU_CV": (5000, 600), "VDD_SOC": (5000, 300)}
    files = {
        "etc/nvpmodel.conf": "< POWER_MODEL ID=3 NAME=25W >",
        "var/lib/nvpmodel/status": "pmode:0003",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
        "sys/class/devfreq/17000000.gpu/cur_freq": "624750000",
        "sys/devices/platform/gpu.0/load": "990",
    }
    for channel, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        files[f"{sensor}/in{channel}_label"] = label
        files[f"{sensor}/in{channel}_input"] = str(millivolts)
        files[f"{sensor}/curr{channel}_input"] = str(milliamperes)
    figures, lines = report(bundle, tree(files), latency=[1.0] * 4, gpu=GPU, meanwhile=lambda: None)
    assert figures["power_w"]["board"] == pytest.approx(8.0)
    assert figures["joules_per_frame"]["board"] == pytest.approx(8.0 * figures["interval_s"] / 4)
    assert figures["energy_source"]["board"] == "VDD_IN, integrated power"
    assert figures["rails_w"] == pytest.approx({"VDD_IN": 8.0, "VDD_CPU_GPU_CV": 3.0, "VDD_SOC": 1.5})
    assert figures["machine"]["power_mode"] == "25W"
    assert figures["machine"]["board"] == "NVIDIA Jetson Orin Nano"
    assert figures["clocks_mhz"]["gpu"] == {"min": 624.75, "mean": 624.75, "max": 624.75}
    assert figures["utilisation_percent"]["gpu"]["max"] == 99.0
    assert "power mode   25W" in lines


def test_tegrastats() -> None:
    log = "VDD_IN 4000mW/4000mW VDD_SOC 1000mW/1000mW\nVDD_IN 6000mW/5000mW VDD_SOC 1000mW/1000mW\n"
    assert _core.read_tegrastats(log, 0.2) == {
        "samples": 2,
        "seconds": 0.2,
        "board": pytest.approx(1.0),
        "board_is": "VDD_IN",
        "rails": {"VDD_IN": pytest.approx(1.0), "VDD_SOC": pytest.approx(0.2)},
    }
    assert _core.read_tegrastats("X 1/1\nX 1/1", 1.0)["board"] is None
    with pytest.raises(edgedet.InvalidInputError, match="two lines or more"):
        _core.read_tegrastats("RAM 1/2MB", 1.0)


def test_plot(tmp_path: Path, bundle: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "times.png"
    assert main(["bench", str(bundle), "--frames", "5", "--warmup", "0", "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")


def test_nothing_measured_is_refused(bundle: Path) -> None:
    detector = edgedet.Detector(bundle)
    sampler = _core.Sampler()
    with pytest.raises(edgedet.InvalidInputError, match="start it first"):
        sampler.stop()
    sampler.start()
    record = sampler.stop()
    assert record.samples >= 2
    assert record.seconds > 0
    parts = detector.core.time_parts([synthetic_frame(8, 8)], "rgb", 1)
    assert len(parts.network) == 1
    assert parts.network_device == parts.resident == []
    empty = _core.BenchRun(
        latency=[], stages=[], parts=parts, telemetry=record,
        frames_per_call=1, frame_size="", mode="", bundle="", command="",
    )  # fmt: skip
    with pytest.raises(edgedet.InvalidInputError, match="got none"):
        detector.core.bench_report(empty)
    with pytest.raises(edgedet.InvalidInputError, match="got 1 and 0"):
        detector.core.time_parts([synthetic_frame(8, 8)], "rgb", 0)


def test_tegrastats_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "power.log"
    log.write_text("VDD_IN 4000mW/4000mW\nVDD_IN 6000mW/5000mW\nVDD_IN 6000mW/5333mW\n")
    assert tegrastats.main([str(log), "--interval", "500", "--frames", "11"]) == 0
    assert "board (VDD_IN)  5.500 W  5.500 J  0.5 J a frame" in capsys.readouterr().out
    log.write_text("A 1/1\nA 1/1\n")
    assert tegrastats.main([str(log)]) == 0
    assert "no known total among the rails of the log): not available" in capsys.readouterr().out
    for wrong in (["nowhere"], [str(log), "--interval", "nan"], [str(log), "--frames", "0"], [str(tmp_path)]):
        assert tegrastats.main(wrong) == 2
        assert capsys.readouterr().err.startswith("error: ")

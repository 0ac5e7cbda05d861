"""One cold process at a time, and what is installed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgedet import Error

_PROBE = Path(__file__).with_name("probe.py")
_SIZE = (640, 480)
_SECONDS = 300.0
#: What `pip install edgedet` brings.
_PACKAGES = ("edgedet", "numpy", "openvino", "pillow")


def python_start(bundle: Path, backend: str, cache_dir: str) -> dict[str, Any]:
    """A Python process up to its first detection, and 20 frames more.

    Returns:
        steps (step, ms since the process was started, memory_mib by owner), first_detection_ms, peak_mib, backend,
        device.
    """
    width, height = _SIZE
    command = [sys.executable, str(_PROBE), str(time.monotonic_ns()), str(bundle), backend, cache_dir]
    done, peak = _run([*command, str(width), str(height)])
    found: dict[str, Any] = json.loads(done)
    first = next(step["ms"] for step in found["steps"] if step["step"] == "first detection")
    return {**found, "first_detection_ms": first, "peak_mib": peak}


def native_start(bundle: Path, backend: str, cache_dir: str) -> dict[str, Any]:
    """An `edgedet-bench` that measures one frame: from its start to its end."""
    width, height = _SIZE
    command = [_bench(), str(bundle), "--backend", backend, "--warmup", "0", "--iterations", "1"]
    start = time.monotonic()
    _, peak = _run([*command, "--synthetic", f"{width}x{height}", "--cache-dir", cache_dir])
    return {"first_detection_ms": (time.monotonic() - start) * 1e3, "peak_mib": peak}


def installed_sizes() -> dict[str, int]:
    """Bytes on the disk of every package that detecting needs."""
    sizes = {}
    for package in _PACKAGES:
        files = importlib.metadata.files(package) or []
        paths = [Path(str(file.locate())) for file in files]
        sizes[package] = sum(path.stat().st_size for path in paths if path.is_file())
    sizes["edgedet-bench"] = Path(_bench()).stat().st_size
    return sizes


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "cpu": names[0] if names else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
    }


def _bench() -> str:
    beside = Path(sys.executable).with_name("edgedet-bench")
    found = str(beside) if beside.is_file() else shutil.which("edgedet-bench")
    if not found:
        raise Error("expected edgedet-bench beside this Python, got none; install edgedet again")
    return found


def _run(command: list[str]) -> tuple[str, float]:
    """Stdout of a process and its largest resident set in MiB.

    Raises:
        Error: it failed.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        # Small outputs: neither pipe fills up. wait4 is the only way to this child's own peak.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output, errors = process.communicate(timeout=_SECONDS)
    if process.returncode != 0:
        raise Error(f"{command[0]} failed ({process.returncode}): {errors.strip()[-400:]}")
    return output, _mebibytes(usage)


def _mebibytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)

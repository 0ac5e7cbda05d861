"""Other programs: pytest, compute-sanitizer and Nsight Compute, and what is read from their output."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cuda_frames.record import Scale

ROOT = Path(__file__).resolve().parents[2]
METRICS = (
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "gpu__time_duration.sum",
    "launch__registers_per_thread",
)
_NSIGHT_SECONDS = 60.0
_LINES_KEPT = 20


@dataclass(frozen=True)
class Outcome:
    """How a program ended; status is None if it ran out of time."""

    output: str
    status: int | None
    seconds: float

    def told(self) -> dict[str, Any]:
        ended: dict[str, Any] = {"status": self.status} if self.status is not None else {"timed_out": True}
        return {**ended, "seconds": round(self.seconds, 1)}


def run_tool(command: Sequence[str], seconds: float, changes: Mapping[str, str] | None = None) -> Outcome:
    """Runs it in the repository; all that it started is ended with it. Output is both of its streams."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(changes or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    status: int | None = None
    try:
        output, _ = process.communicate(timeout=seconds)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return Outcome(output, status, time.perf_counter() - start)


def cuda_tool(name: str) -> str | None:
    """Path of a program of the CUDA toolkit."""
    folders = [os.environ.get(variable) for variable in ("CUDA_HOME", "CUDA_PATH")]
    places = [str(Path(folder) / "bin") for folder in folders if folder] + ["/usr/local/cuda/bin"]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))


def closing_line(output: str) -> str:
    """The last line that says something: pytest's count of tests."""
    lines = [line.strip("= ") for line in output.splitlines() if line.strip("= ")]
    return lines[-1] if lines else ""


def failed_tests(output: str) -> list[str]:
    """pytest's lines about tests that failed."""
    return [line for line in output.splitlines() if re.match(r"(FAILED|ERROR) \S", line)]


def sanitizer_errors(output: str) -> tuple[str, int | None]:
    """The summary line of compute-sanitizer and its number of errors (hazards of racecheck); "" and None without one.

    The last one counts, should the program have started others.
    """
    line, errors = "", None
    for found in re.finditer(r"^=+ ((ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards?).*)$", output, re.MULTILINE):
        line, errors = found[1].strip(), int(found[3])
    return line, errors


def profiled_kernels(output: str) -> list[dict[str, Any]]:
    """Launches in `ncu --csv` output: {"kernel": name, metric: {"value", "unit"}, ...}, in order.

    Lines of the tool and of the program around the table are passed over.
    """
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID",')), None)
    if start is None:
        return []
    table = [line for line in lines[start:] if line.startswith('"')]
    launches: dict[str, dict[str, Any]] = {}
    for entry in csv.DictReader(io.StringIO("\n".join(table))):
        launch = launches.setdefault(entry["ID"], {"kernel": entry["Kernel Name"]})
        text = entry["Metric Value"].replace(",", "")
        try:
            value: float | str = float(text)
        except ValueError:  # "n/a" and the like
            value = text
        launch[entry["Metric Name"]] = {"value": value, "unit": entry["Metric Unit"]}
    return list(launches.values())


def tool_complaints(output: str) -> list[str]:
    """The errors and warnings of ncu."""
    return [line for line in output.splitlines() if re.match(r"==(ERROR|WARNING)==", line)][:_LINES_KEPT]


def tests(scale: Scale) -> dict[str, Any]:
    """The tests that need a device, all of them required; then those in C++ under compute-sanitizer."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q"]
    outcome = run_tool(command, scale.pytest_seconds, {"EDGEDET_REQUIRE": "cuda"})
    result: dict[str, Any] = {
        "pytest": {
            "command": "EDGEDET_REQUIRE=cuda python -m pytest -m cuda -q",
            **outcome.told(),
            "closing_line": closing_line(outcome.output),
        }
    }
    if outcome.status != 0:
        result["pytest"]["failures"] = failed_tests(outcome.output)[:_LINES_KEPT]
        result["pytest"]["output_tail"] = outcome.output.splitlines()[-_LINES_KEPT:]
    result["sanitizer"] = sanitize(scale)
    checks = [check for check in result["sanitizer"].values() if isinstance(check, dict)]
    result["passed"] = outcome.status == 0 and all(check["passed"] for check in checks)
    return result


def sanitize(scale: Scale) -> dict[str, Any]:
    """A check by each tool; or "skipped" with the reason. One that runs out of time has not passed."""
    if not scale.sanitizers:
        return {"skipped": "left out by --quick"}
    sanitizer = cuda_tool("compute-sanitizer")
    if sanitizer is None:
        return {"skipped": "no compute-sanitizer on PATH, in CUDA_HOME/bin or in /usr/local/cuda/bin"}
    binaries = sorted(ROOT.glob("build/*/tests/cpp/edgedet_cuda_tests"), key=lambda file: file.stat().st_mtime)
    if not binaries:
        return {"skipped": "no build/*/tests/cpp/edgedet_cuda_tests; build with EDGEDET_TESTS=ON where nvcc is found"}
    result: dict[str, Any] = {"binary": str(binaries[-1].relative_to(ROOT))}
    for tool in scale.sanitizers:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", str(binaries[-1])]
        outcome = run_tool(command, scale.sanitizer_seconds)
        line, errors = sanitizer_errors(outcome.output)
        passed = outcome.status == 0 and errors == 0
        result[tool] = {**outcome.told(), "summary": line, "errors": errors, "passed": passed}
        if not passed:
            result[tool]["output_tail"] = outcome.output.splitlines()[-_LINES_KEPT:]
    return result


def nsight(cases: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Counters of the kernels that `--child KIND` launches, for each kind; cases: what its launches are, in order.

    Clocks stay as they are (--clock-control none); caches are flushed before each launch, which is ncu's way.
    """
    profiler = cuda_tool("ncu")
    if profiler is None:
        return {"skipped": "no ncu on PATH, in CUDA_HOME/bin or in /usr/local/cuda/bin", "rows": []}
    result: dict[str, Any] = {"rows": []}
    for kind, names in cases.items():
        command = [
            *(profiler, "--csv", "--print-units", "base", "--clock-control", "none", "--profile-from-start", "off"),
            *("--metrics", ",".join(METRICS)),
            *(sys.executable, "-m", "benchmarks.cuda_frames", "--child", kind),
        ]
        outcome = run_tool(command, _NSIGHT_SECONDS)
        launches = profiled_kernels(outcome.output)
        result[kind] = {**outcome.told(), "messages": tool_complaints(outcome.output)}
        if len(launches) != len(names):
            tail = outcome.output.splitlines()[-_LINES_KEPT:]
            result[kind]["error"] = f"expected {len(names)} launches, got {len(launches)}"
            result[kind]["output_tail"] = tail
            names = [f"launch {i}" for i in range(len(launches))]
        result["rows"] += [{"case": f"{kind} {name}", **launch} for name, launch in zip(names, launches, strict=True)]
    return result

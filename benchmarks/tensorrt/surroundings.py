"""`environment` and `tests`: what the figures belong to, and pytest's word on the backend."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import Any

from benchmarks.cuda_frames.environment import environment
from benchmarks.cuda_frames.tools import closing_line, failed_tests, run_tool
from benchmarks.tensorrt.models import PREPARED
from benchmarks.tensorrt.record import Row, Step
from benchmarks.tensorrt.runtime import Scene, need_backend
from edgedet import _core, cuda

_DOCTOR_SECONDS = 30.0
_TEST_SECONDS = 300.0
_LINES_KEPT = 20
_VARIABLES = ("TensorRT_ROOT", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING")


def environment_steps(scene: Scene) -> dict[str, Step]:
    return {"machine": environment, "tensorrt": _tensorrt, "doctor": _doctor, "prepared": lambda: _prepared(scene)}


def test_steps(scene: Scene) -> dict[str, Step]:
    return {"pytest": _pytest}


def _tensorrt() -> Row:
    return {
        "backend": need_backend(),
        "build": _core.build_info(),
        "devices": [asdict(device) for device in cuda.devices()],
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _doctor() -> Row:
    outcome = run_tool([sys.executable, "-m", "edgedet", "doctor"], _DOCTOR_SECONDS)
    return {**outcome.told(), "output": outcome.output.splitlines()}


def _prepared(scene: Scene) -> Row:
    document: dict[str, Any] = scene.prepared.document
    return {"file": PREPARED, "models": document["models"], "versions": document.get("versions")}


def _pytest() -> Row:
    command = [sys.executable, "-m", "pytest", "-m", "tensorrt", "-q", "-p", "no:cacheprovider"]
    outcome = run_tool(command, _TEST_SECONDS, {"EDGEDET_REQUIRE": "tensorrt"})
    row: Row = {
        "command": "EDGEDET_REQUIRE=tensorrt python -m pytest -m tensorrt -q",
        **outcome.told(),
        "closing_line": closing_line(outcome.output),
        "passed": outcome.status == 0,
    }
    if outcome.status != 0:
        row["failures"] = failed_tests(outcome.output)[:_LINES_KEPT]
        row["output_tail"] = outcome.output.splitlines()[-_LINES_KEPT:]
    return row

"""What a figure was measured with."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from edgedet import __version__


def cores_here() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def machine(device: str, *, threads: int, cores: int) -> dict[str, Any]:
    """The machine of a run. cores: that the run was given, out of those that there are."""
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
    return {"cpu": cpu_name(), "gpu": gpu, "threads": threads, "cores": cores, "cores_in_all": cores_here()}


def versions() -> dict[str, str]:
    """Of what computes the figures."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "edgedet": __version__}


def cpu_name() -> str:
    """As Linux names it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

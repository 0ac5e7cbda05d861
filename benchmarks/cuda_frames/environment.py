"""The machine and the versions that figures belong to. What cannot be found out is left out."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import os
import platform
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cuda_frames.tools import run_tool
from edgedet import cuda

PACKAGES = {
    "edgedet": ("edgedet",),
    "torch": ("torch",),
    "triton": ("triton",),
    "numpy": ("numpy",),
    "opencv": ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "torchvision": ("torchvision",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "pycuda": ("pycuda",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
}
_SMI_FIELDS = (
    *("uuid", "name", "driver_version", "persistence_mode", "power.limit", "power.draw", "temperature.gpu"),
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "clocks.applications.graphics"),
)
_SMI_SECONDS = 20.0


def environment() -> dict[str, Any]:
    """Device, driver, versions, CPU.

    Raises:
        BackendError: there is no CUDA device; the message says why.
    """
    device = cuda.devices()[0]
    counted = cuda.versions()
    found: dict[str, Any] = {
        "device": asdict(device),
        "cuda_driver": cuda_version(counted["driver"]),
        "cuda_runtime": cuda_version(counted["runtime"]),
        "versions": {"python": platform.python_version(), **package_versions()},
        "cpu": {
            "name": cpu_name(Path("/proc/cpuinfo")),
            "count": os.cpu_count(),
            "usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        },
        "system": platform.platform(),
    }
    uuid = ""
    with contextlib.suppress(Exception):  # a torch without CUDA, or a broken one: its sections say so
        import torch

        properties = torch.cuda.get_device_properties(device.index)
        uuid = str(getattr(properties, "uuid", ""))
        found["device"] |= {"name": properties.name, "l2_bytes": properties.L2_cache_size}
        found["versions"]["torch_cuda"] = torch.version.cuda
    if shutil.which("nvidia-smi") is not None:
        query = ["nvidia-smi", f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"]
        found["nvidia_smi"] = smi_row(run_tool(query, _SMI_SECONDS).output, uuid)
    return found


def cuda_version(counted: int) -> str:
    """12040 is 12.4; "" for 0, which is none."""
    return f"{counted // 1000}.{counted % 1000 // 10}" if counted else ""


def package_versions() -> dict[str, str]:
    """The version of each package, or "not installed"."""
    versions = {}
    for name, distributions in PACKAGES.items():
        versions[name] = "not installed"
        for distribution in distributions:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(distribution)
                break
    return versions


def cpu_name(file: Path) -> str:
    """The model in a /proc/cpuinfo, or what Python calls the processor."""
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor()


def smi_row(output: str, uuid: str) -> dict[str, str]:
    """The fields of the GPU with this UUID (with or without "GPU-"), or of the first one; power in W, clocks in MHz.

    Of output that is no table, the message.
    """
    rows = [[field.strip() for field in row] for row in csv.reader(io.StringIO(output)) if row]
    tables = [dict(zip(_SMI_FIELDS, row, strict=True)) for row in rows if len(row) == len(_SMI_FIELDS)]
    if not tables:
        return {"message": output.strip()}
    return next((row for row in tables if uuid and uuid in row["uuid"]), tables[0])


def command_line(module: str) -> str:
    """As typed, whatever the interpreter's place is."""
    return " ".join([f"python -m {module}", *sys.argv[1:]])

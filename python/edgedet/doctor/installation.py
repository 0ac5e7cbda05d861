"""Versions, what the compiled module was built with, backends, devices and optional packages."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from typing import Any, Final

from edgedet import _core
from edgedet.doctor.finding import Finding

# Distribution names, what they are good for, and the extra that brings them.
_OPTIONAL: Final = (
    ("pycocotools", "edgedet eval", None),
    ("matplotlib", "the picture of edgedet sweep", None),
    ("torch", "python -m training", "train"),
    ("onnx", "python -m calibration", "calibrate"),
    ("supervision", "Detections.to_supervision", None),
)
_COMPATIBILITY: Final = "https://docs.nvidia.com/deploy/cuda-compatibility/"


def read_installation() -> dict[str, Any]:
    """Everything, as JSON values."""
    build = _core.build_info()
    devices, reason = _core.cuda_devices()
    driver, runtime = _core.cuda_versions()
    return {
        "edgedet": build["version"],
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": f"{platform.platform()}, {platform.machine()}",
        "packages": {package: _version(package) for package in ("numpy", "openvino", "pillow")},
        "build": {key: value for key, value in build.items() if key != "version"},
        "backends": _core.backends(),
        "cuda": {"devices": devices, "reason": reason, "driver": driver, "runtime": runtime},
        "optional": [
            {
                "package": package,
                "purpose": purpose,
                "version": _version(package),
                "remedy": f"pip install 'edgedet[{extra}]'" if extra else f"pip install {package}",
            }
            for package, purpose, extra in _OPTIONAL
        ],
    }


def installation_findings(facts: Mapping[str, Any]) -> list[Finding]:
    """What keeps a backend from running that could."""
    found = [
        Finding(name=f"no-{package}", text=f"{package} is not installed", remedy=f"pip install {package}")
        for package, version in facts["packages"].items()
        if version is None
    ]
    driver, runtime = facts["cuda"]["driver"], facts["cuda"]["runtime"]
    if driver and driver // 1000 < runtime // 1000:
        found.append(
            Finding(
                name="old-driver",
                text=f"the driver is for CUDA {_cuda(driver)}, edgedet was built with CUDA {_cuda(runtime)}",
                remedy=f"install a driver for CUDA {runtime // 1000}, or build edgedet with an older CUDA toolkit",
                sources=(_COMPATIBILITY,),
            )
        )
    if not any(entry["available"] for entry in facts["backends"]):
        reasons = "; ".join(f"{entry['name']}: {entry['detail']}" for entry in facts["backends"])
        found.append(Finding(name="no-backend", text=f"no backend can run ({reasons})", remedy="pip install openvino"))
    return found


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

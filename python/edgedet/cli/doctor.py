"""``edgedet doctor``: what this installation can do, and what the rest would need."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from typing import TYPE_CHECKING, Final

from edgedet import _core, board

if TYPE_CHECKING:
    from edgedet.cli.common import Commands

# Distribution names, and what they are good for.
_EXTRAS: Final = (
    ("pycocotools", "edgedet eval", None),
    ("torch", "python -m training", "train"),
    ("onnx", "python -m calibration", "calibrate"),
    ("supervision", "Detections.to_supervision", None),
)


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "doctor",
        help="show what this installation can do",
        description="Show versions, what the compiled module was built with, and which backends can run here.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints; a missing backend is a finding, not a failure."""
    build = _core.build_info()
    print(f"edgedet      {build['version']}")
    print(f"python       {platform.python_version()} ({sys.executable})")
    print(f"system       {platform.platform()}, {platform.machine()}")
    for package in ("numpy", "openvino", "pillow"):
        print(f"{package:<12} {_version(package) or 'not installed; run: pip install ' + package}")

    print("\ncompiled module")
    for key, value in build.items():
        if key != "version":
            print(f"  {key:<10} {value}")

    for line in board.report():
        print(line)
    print("\nbackends, in the order 'auto' tries them")
    for backend in _core.backends():
        print(f"  {backend['name']:<10} {'ready' if backend['available'] else 'not here'}: {backend['detail']}")

    print("\nCUDA devices")
    devices, reason = _core.cuda_devices()
    for device in devices:
        major, minor = device["compute_capability"]
        free, total = (device[key] / 2**30 for key in ("free_bytes", "total_bytes"))
        kind = "integrated, " if device["integrated"] else ""
        about = f"{device['name']}, {kind}compute capability {major}.{minor}"
        print(f"  {device['index']:<10} {about}, {free:.1f} of {total:.1f} GiB free")
    if not devices:
        print(f"  none: {reason}")

    print("\noptional")
    for package, purpose, extra in _EXTRAS:
        remedy = f"pip install 'edgedet[{extra}]'" if extra else f"pip install {package}"
        version = _version(package)
        print(f"  {package:<12} {version or 'not installed'} ({purpose}{'' if version else '; ' + remedy})")
    return 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

"""What several commands share: options of a detector, output files."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from edgedet import Detections, Detector, EngineOptions, InvalidInputError, _core

_LOW_WORKSPACE_MB = 256
_LOW_LIMIT_MB = 2048


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """The positional argument of nearly every command."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder made by 'edgedet import' or by training")


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Options that decide where and how the bundle runs."""
    add_where_options(parser).add_argument(
        "--threads", type=whole_number, default=0, metavar="N", help="CPU threads (default: all this process may use)"
    )
    add_engine_options(parser)


def add_where_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Those that decide which engine runs; the group, for more of them."""
    group = parser.add_argument_group("where and how it runs")
    names = [backend["name"] for backend in _core.backends()]
    group.add_argument(
        "--backend",
        default="auto",
        choices=["auto", *names],
        help="default: auto, the first one that is available (see 'edgedet doctor')",
    )
    group.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "fp32", "bf16", "fp16", "int8"],
        help="default: auto, what 'calibration verify' recorded as best for the backend, else fp32",
    )
    group.add_argument(
        "--mode",
        default="latency",
        choices=["latency", "throughput"],
        help="latency: one frame at a time, as fast as possible (default); throughput: several side by side",
    )
    return group


def add_engine_options(parser: argparse.ArgumentParser, *, batch: str = "--engine-batch") -> None:
    """Options of TensorRT engines, see :class:`edgedet.EngineOptions`. batch: what the one of batch sizes is called."""
    group = parser.add_argument_group("engines of TensorRT")
    group.add_argument(
        "--calibrator",
        choices=["entropy", "minmax"],
        help="int8 of the float model with ranges from the bundle's calibration images (TensorRT before 11)",
    )
    group.add_argument("--calibration-images", metavar="DIR", type=Path, help="those images, if they were moved")
    group.add_argument(
        "--workspace-mb",
        type=positive_number,
        default=EngineOptions.workspace_mb,
        metavar="N",
        help=f"MiB that layers may work in (default: {EngineOptions.workspace_mb}; less where less is free)",
    )
    group.add_argument(
        batch,
        dest="engine_batch",
        type=_batch,
        metavar="MIN:OPT:MAX",
        help="images in a call of the engine; MIN is 1 (default: by mode)",
    )
    group.add_argument("--dla", type=whole_number, metavar="N", help="DLA core of a Jetson (default: the GPU)")
    group.add_argument("--device", type=whole_number, default=0, metavar="N", help="index of the GPU (default: 0)")
    group.add_argument(
        "--memory-limit-mb",
        type=positive_number,
        metavar="N",
        help="MiB of device memory that build and detector may take (default: no limit)",
    )
    group.add_argument(
        "--low-memory",
        action="store_true",
        help=f"for boards of 4 GB: at most {_LOW_WORKSPACE_MB} MiB of workspace and {_LOW_LIMIT_MB} of device memory",
    )
    group.add_argument(
        "--cache-dir",
        metavar="DIR",
        type=Path,
        help="where networks are kept as they were compiled (default: the user's cache)",
    )


def engine_options(arguments: argparse.Namespace) -> EngineOptions:
    """What ``add_engine_options`` was given."""
    workspace, limit = arguments.workspace_mb, arguments.memory_limit_mb
    if arguments.low_memory:
        workspace, limit = min(workspace, _LOW_WORKSPACE_MB), min(limit or _LOW_LIMIT_MB, _LOW_LIMIT_MB)
    return EngineOptions(
        device=arguments.device,
        workspace_mb=workspace,
        batch=arguments.engine_batch,
        dla_core=arguments.dla,
        memory_limit_mb=limit,
        calibrator=arguments.calibrator,
        calibration_images=arguments.calibration_images,
    )


def open_detector(arguments: argparse.Namespace, *, score_threshold: float = 0.0) -> Detector:
    """The detector that the options describe."""
    return Detector(
        arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        mode=arguments.mode,
        threads=arguments.threads,
        score_threshold=score_threshold,
        cache_dir=arguments.cache_dir,
        engine=engine_options(arguments),
    )


def whole_number(text: str) -> int:
    """An integer that is not negative, for ``type=``."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected 0, 1, 2, ..., got {text!r}")
    return int(text)


def positive_number(text: str) -> int:
    """An integer above zero, for ``type=``."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected 1, 2, 3, ..., got {text!r}")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1, for ``type=``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def pixel_size(text: str) -> tuple[int, int]:
    """Width and height, for ``type=``."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected width x height such as 640x480, got {text!r}")
    return int(match[1]), int(match[2])


def output_file(text: str) -> Path:
    """A file that can be written later on, checked before the work starts, for ``type=``."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file name, got the folder {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {str(path.parent)!r} does not exist")
    return path


def make_folder(folder: Path) -> None:
    """Makes the folder, and those above it, where they are missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None


def objects_json(found: Detections) -> list[dict[str, Any]]:
    """Each object as reports have it."""
    return [{"name": row.name, "label": row.label, "score": row.score, "box": list(row.box)} for row in found]


def describe(detector: Detector) -> dict[str, Any]:
    """What ran where, for JSON reports."""
    info = detector.info
    return {
        "name": info.name,
        "backend": info.backend,
        "precision": info.precision,
        "device": info.device,
        "threads": info.threads,
        "requests": info.requests,
        "version": _core.build_info()["version"],
    }


def print_running(detector: Detector) -> None:
    """One line that says what runs where."""
    info = detector.info
    threads = f"{info.threads} thread{'s' if info.threads != 1 else ''}"
    print(f"{info.name} {info.width}x{info.height}, {info.backend} {info.precision}, {threads}, {info.device}")
    if info.precision != "fp32":
        print(f"verified   {info.verified}")


def _batch(text: str) -> tuple[int, int, int]:
    sizes = text.split(":")
    if len(sizes) != 3 or not all(size.isdecimal() for size in sizes):
        raise argparse.ArgumentTypeError(f"expected three numbers such as 1:4:8, got {text!r}")
    least, best, most = (int(size) for size in sizes)
    return least, best, most

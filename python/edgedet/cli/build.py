"""``edgedet build``: the engine that a bundle runs on this device, built ahead of its first use."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet import EngineOptions
from edgedet.cli.common import (
    add_bundle,
    add_where_options,
    output_file,
    positive_number,
    progress_bar,
    whole_number,
    write_json,
)
from edgedet.engines import PreparedEngine, build_engine

if TYPE_CHECKING:
    from edgedet.cli.common import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "build",
        help="build the engine of a bundle for this device",
        description="Build the engine that a bundle runs on this device and keep it, so that the first detector does "
        "not have to. It takes minutes, in a process of its own.",
        epilog="A detector finds the engine if it is made with the same options: in Python, engine=EngineOptions(...).",
    )
    add_bundle(parser)
    add_where_options(parser)
    add_engine_options(parser)
    parser.add_argument("--json", metavar="FILE", type=output_file, help="write what was built as JSON")
    parser.set_defaults(run=run)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Options of TensorRT engines, see :class:`edgedet.EngineOptions`."""
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
        "--batch",
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
        "--cache-dir", metavar="DIR", type=Path, help="where engines are kept (default: the user's cache)"
    )


def engine_options(arguments: argparse.Namespace) -> EngineOptions:
    """What ``add_engine_options`` was given."""
    return EngineOptions(
        device=arguments.device,
        workspace_mb=arguments.workspace_mb,
        batch=arguments.batch,
        dla_core=arguments.dla,
        memory_limit_mb=arguments.memory_limit_mb,
        calibrator=arguments.calibrator,
        calibration_images=arguments.calibration_images,
    )


def run(arguments: argparse.Namespace) -> int:
    """Builds, then says where the engine is and what to do next."""
    made = build_engine(
        arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        mode=arguments.mode,
        cache_dir=arguments.cache_dir,
        engine=engine_options(arguments),
        progress=_phases(),
        note=lambda text: print(f"note: {text}", file=sys.stderr),
    )
    _print(arguments.bundle, made)
    if arguments.json is not None:
        write_json(arguments.json, {"bundle": str(arguments.bundle), **asdict(made)})
    return 0


def _print(bundle: Path, made: PreparedEngine) -> None:
    engine = made.engine
    print(f"{bundle}: {made.backend} {made.precision}, {made.device}")
    if engine is None:
        print(f"  {made.backend} builds nothing ahead: detectors start at once")
    else:
        print(f"  engine    {engine.path or 'kept nowhere'}")
        print(f"  size      {engine.bytes / 1e6:.1f} MB")
        print(f"  {'built' if engine.built else 'was there'} {engine.seconds:8.1f} s")
    print(f"next: edgedet bench {bundle} --backend {made.backend} --precision {made.precision}")


def _phases() -> Callable[[str, int, int], None]:
    """A bar for each phase whose length is known."""
    current = ""
    show = progress_bar(current)

    def progress(phase: str, step: int, of: int) -> None:
        nonlocal current, show
        if phase != current:
            current, show = phase, progress_bar(phase)
        if of > 0:
            show(min(step, of), of)

    return progress


def _batch(text: str) -> tuple[int, int, int]:
    sizes = text.split(":")
    if len(sizes) != 3 or not all(size.isdecimal() for size in sizes):
        raise argparse.ArgumentTypeError(f"expected three numbers such as 1:4:8, got {text!r}")
    least, best, most = (int(size) for size in sizes)
    return least, best, most

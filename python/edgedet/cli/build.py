"""``edgedet build``: the engine that a bundle runs on this device, built ahead of its first use."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet.cli.common import (
    add_bundle,
    add_engine_options,
    add_where_options,
    engine_options,
    output_file,
    progress_bar,
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
    add_engine_options(parser, batch="--batch")
    parser.add_argument("--json", metavar="FILE", type=output_file, help="write what was built as JSON")
    parser.set_defaults(run=run)


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

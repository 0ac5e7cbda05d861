"""``edgedet build``: the engine that a bundle runs on this device, built ahead of its first use."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet.cli.common import add_bundle, add_engine_options, add_where_options, engine_options
from edgedet.engines import PreparedEngine, build_engine
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "build",
        help="build the engine of a bundle for this device",
        description="Build the engine that a bundle runs on this device and keep it, so that the first detector does "
        "not have to. It takes minutes, in a process of its own.",
        epilog="A detector finds the engine if it is made with the same options: in Python, engine=EngineOptions(...).",
        examples=(
            "edgedet build femto",
            "edgedet build femto --backend tensorrt --precision fp16 --batch 1:4:8",
            "edgedet build femto --backend tensorrt --low-memory --json build.json",
        ),
    )
    add_bundle(parser)
    add_where_options(parser)
    add_engine_options(parser, batch="--batch")
    add_json(parser, "what was built")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Builds, then says where the engine is and what to do next."""
    with progress() as tell:
        made = build_engine(
            arguments.bundle,
            backend=arguments.backend,
            precision=arguments.precision,
            mode=arguments.mode,
            cache_dir=arguments.cache_dir,
            engine=engine_options(arguments),
            progress=lambda phase, step, of: tell(phase, min(step, of), of) if of > 0 else None,
            note=lambda text: print(f"note: {text}", file=sys.stderr),
        )
    _print(arguments.bundle, made)
    if arguments.json is not None:
        arguments.json.write({"bundle": str(arguments.bundle), **asdict(made)})
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

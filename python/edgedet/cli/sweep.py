"""``edgedet sweep``: every precision that a bundle can run in, by accuracy, time and memory."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet import _core
from edgedet.cli.common import add_bundle, make_folder, positive_number, whole_number
from edgedet.sweep.report import table
from edgedet.sweep.run import SweepOptions, sweep
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress
from edgedet.terminal.table import print_table

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "sweep",
        help="compare every precision by accuracy, time and memory",
        description="Measure every engine that a bundle can become on one backend: AP and its loss, latency by turns, "
        "memory, size, build time. Writes sweep.csv, sweep.md, sweep.json and sweep.png.",
        epilog="Interrupted, it goes on where it was when it is started again with the same --out.",
        examples=(
            "edgedet sweep femto --images val/images --annotations val/instances.json --out sweep",
            "edgedet sweep femto --images val/images --annotations val/instances.json --limit 200 --out quick",
        ),
    )
    add_bundle(parser)
    parser.add_argument("--images", required=True, metavar="DIR", type=Path, help="folder of the images")
    parser.add_argument("--annotations", required=True, metavar="FILE", type=Path, help="COCO annotations, JSON")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="folder of the results")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="BUNDLE",
        type=Path,
        help="another bundle of the same network, whose INT8 model is compared too; may be repeated",
    )
    names = [backend["name"] for backend in _core.backends()]
    parser.add_argument("--backend", default="auto", choices=["auto", *names], help="default: the first available one")
    parser.add_argument("--limit", type=whole_number, default=0, metavar="N", help="first N images only (default: all)")
    parser.add_argument(
        "--frames", type=positive_number, default=200, metavar="N", help="that every engine is timed on (default: 200)"
    )
    parser.add_argument("--threads", type=whole_number, default=0, metavar="N", help="CPU threads (default: all)")
    parser.add_argument(
        "--max-drop", type=float, default=0.01, metavar="AP", help="accepted loss of AP, as of verify (default: 0.01)"
    )
    add_json(parser, "what sweep.json holds")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measures, writes and prints."""
    options = SweepOptions(
        backend=arguments.backend,
        threads=arguments.threads,
        limit=arguments.limit,
        turns=arguments.frames,
        max_drop=arguments.max_drop,
        also=tuple(arguments.also),
    )
    make_folder(arguments.out)
    with progress() as tell:
        found = sweep(
            arguments.bundle,
            images=arguments.images,
            annotations=arguments.annotations,
            out=arguments.out,
            options=options,
            progress=tell,
        )
    print_table(table(found.rows), left=("contender", "verified"))
    for row in found.rows:
        if row.reason:
            print(f"{row.contender.name}: {row.reason}")
    print(f"\nwritten to {arguments.out}")
    if found.note:
        print(found.note)
    print(found.advice)
    if arguments.json is not None:
        arguments.json.write(json.loads((arguments.out / "sweep.json").read_bytes()))
    return 0

"""`search`: find the fastest model that keeps the accuracy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.quantize import BACKENDS
from calibration.search.options import TARGETS, SearchOptions
from calibration.search.run import search
from edgedet import command
from edgedet.cli.common import add_bundle, whole_number
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "search",
        help="find the fastest precision that keeps the accuracy, by measurement",
        description="Find the fastest model that keeps the accuracy, by AP and milliseconds that are measured on this "
        "machine, and put it into the bundle. Interrupted, it goes on where it was.",
        examples=(
            "python -m calibration search bundle --images dev/images --annotations dev/instances.json",
            "python -m calibration search bundle --images dev/images --annotations dev/instances.json "
            "--budget-minutes 20",
        ),
    )
    add_bundle(parser)
    parser.add_argument(
        "--backend", choices=BACKENDS, default="openvino", help="the engine that is measured (default: openvino)"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="labelled images that decide; others than those that verify"
    )
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="COCO file of these images")
    parser.add_argument("--calibration-images", type=Path, metavar="DIR", help="calibration images, if they were moved")
    parser.add_argument(
        "--max-drop", type=float, default=0.005, metavar="AP", help="accepted loss of AP (default: 0.005)"
    )
    parser.add_argument("--target", choices=TARGETS, default="latency", help="what to be best at (default: latency)")
    parser.add_argument(
        "--budget-minutes", type=float, default=60.0, metavar="M", help="minutes it may take (default: 60)"
    )
    parser.add_argument("--threads", type=whole_number, default=0, metavar="N", help="CPU threads (default: all)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results (default: BUNDLE.calibration/search)"
    )
    add_json(parser, "the answer")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it found."""
    settings = SearchOptions(
        backend=options.backend,
        max_drop=options.max_drop,
        target=options.target,
        budget_minutes=options.budget_minutes,
        threads=options.threads,
    )
    with progress() as tell:
        answer = search(
            options.bundle,
            images=options.images,
            annotations=options.annotations,
            options=settings,
            calibration_images=options.calibration_images,
            out=options.out,
            progress=tell,
        )
    print(f"{answer.precision}: {answer.reason}")
    if answer.precision != "fp32":
        where = "" if options.backend == "openvino" else f" --backend {options.backend}"
        verify = f"python -m calibration verify {options.bundle}{where} --precision {answer.precision}"
        print(f"nothing is proven yet; next: {verify}")
    if options.json is not None:
        options.json.write({"backend": options.backend, "precision": answer.precision, "reason": answer.reason})
    return command.DONE

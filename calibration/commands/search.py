"""`search`: find the fastest model that keeps the accuracy."""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration.commands.progress import PASSED, progress_bar, stages
from calibration.quantize import BACKENDS
from calibration.search.options import TARGETS, SearchOptions
from calibration.search.run import search


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser("search", help="find the fastest precision that keeps the accuracy, by measurement")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--backend", choices=BACKENDS, default="openvino", help="the engine that is measured (default: openvino)"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="labelled images that decide; others than those that verify"
    )
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="COCO file of these images")
    parser.add_argument("--calibration-images", type=Path, metavar="DIR", help="calibration images, if they were moved")
    parser.add_argument("--max-drop", type=float, default=0.005, metavar="AP", help="accepted loss (default: 0.005)")
    parser.add_argument("--target", choices=TARGETS, default="latency", help="what to be best at (default: latency)")
    parser.add_argument("--budget-minutes", type=float, default=60.0, metavar="M", help="(default: 60)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads, 0 for all (default)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of results (default: BUNDLE.calibration/search)")
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
    with progress_bar() as bar:
        answer = search(
            options.bundle,
            images=options.images,
            annotations=options.annotations,
            options=settings,
            calibration_images=options.calibration_images,
            out=options.out,
            progress=stages(bar),
        )
    print(f"{answer.precision}: {answer.reason}")
    if answer.precision != "fp32":
        where = "" if options.backend == "openvino" else f" --backend {options.backend}"
        print(f"nothing is proven yet; next: python -m calibration verify{where} --precision {answer.precision}")
    return PASSED

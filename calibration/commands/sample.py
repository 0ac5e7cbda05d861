"""`sample`: choose the calibration images."""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration.commands.progress import PASSED, progress_bar
from calibration.quantize import record_sample
from calibration.sampling import STRATEGIES, contact_sheet, draw, evaluation_digests
from edgedet.bundle import load_model_json


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser("sample", help="choose the calibration images and record them in the bundle")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder to choose from")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="COCO file; choose among its images only")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="images wanted (default: 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the choice (default: 0)")
    parser.add_argument("--strategy", choices=STRATEGIES, default="random")
    parser.add_argument(
        "--exclude",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="folder or COCO file of evaluation images, which never enter the set; may be repeated",
    )
    parser.add_argument("--contact-sheet", type=Path, metavar="PNG", help="write a picture of the whole set")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    load_model_json(options.bundle)
    excluded = set().union(*(evaluation_digests(path) for path in options.exclude))
    with progress_bar() as bar:
        task = bar.add_task("checking images", total=options.count)
        sample = draw(
            options.images,
            count=options.count,
            seed=options.seed,
            strategy=options.strategy,
            annotations=options.annotations,
            exclude=sorted(excluded),
            advance=lambda images: bar.advance(task, images),
        )
    if options.contact_sheet is not None:
        contact_sheet(options.images, sample, options.contact_sheet)
    record_sample(options.bundle, sample)
    print(f"{len(sample.images)} of {sample.candidates} images, seed {sample.seed}, recorded in calibration.json")
    for image in sample.refused:
        print(f"  passed over {image.file}: {image.reason}")
    return PASSED

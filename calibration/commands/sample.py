"""`sample`: choose the calibration images."""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration.commands.progress import PASSED, progress_bar, stages
from calibration.contact_sheet import contact_sheet
from calibration.embedding import EncoderEmbedding
from calibration.quantize import record_sample
from calibration.sampling import STRATEGIES, draw, evaluation_images
from edgedet.bundle import load_model_json


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser("sample", help="choose the calibration images and record them in the bundle")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder to choose from")
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO file; choose among its images only, and balance the objects in them",
    )
    parser.add_argument("--count", type=int, default=100, metavar="N", help="images wanted (default: 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the choice (default: 0)")
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="random",
        help="random (default); stratified: balance brightness, blur and, with --annotations, class and size of "
        "objects; diverse: spread over what the bundle's encoder sees",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="folder or COCO file of evaluation images, which never enter the set, nor do copies of them that were "
        "encoded again or resized; may be repeated",
    )
    parser.add_argument("--contact-sheet", type=Path, metavar="PNG", help="write a picture of the whole set")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    load_model_json(options.bundle)
    with progress_bar() as bar:
        progress = stages(bar)
        sample = draw(
            options.images,
            count=options.count,
            seed=options.seed,
            strategy=options.strategy,
            annotations=options.annotations,
            exclude=evaluation_images(options.exclude, progress=progress),
            embedding=EncoderEmbedding(options.bundle) if options.strategy == "diverse" else None,
            progress=progress,
        )
    if options.contact_sheet is not None:
        contact_sheet(options.images, sample, options.contact_sheet)
    record_sample(options.bundle, sample)
    chosen = f"{len(sample.images)} of {sample.candidates} images, {sample.strategy}, seed {sample.seed}"
    print(f"{chosen}, recorded in calibration.json")
    for image in sample.refused:
        print(f"  passed over {image.file}: {image.reason}")
    return PASSED

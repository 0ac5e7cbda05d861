"""`sample`: choose the calibration images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.contact_sheet import contact_sheet
from calibration.embedding import EncoderEmbedding
from calibration.quantize import record_sample
from calibration.sampling import STRATEGIES, draw, evaluation_images
from edgedet import command
from edgedet.bundle import load_model_json
from edgedet.cli.common import add_bundle, whole_number
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "sample",
        help="choose the calibration images and record them in the bundle",
        description="Choose the images that ranges are measured on and record them, with their sha256, in the bundle.",
        examples=(
            "python -m calibration sample bundle --images train/images",
            "python -m calibration sample bundle --images train/images --annotations train/instances.json "
            "--strategy stratified",
            "python -m calibration sample bundle --images photos --exclude val/instances.json --contact-sheet set.png",
        ),
    )
    add_bundle(parser)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder to choose from")
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO file; choose among its images only, and balance the objects in them",
    )
    parser.add_argument("--count", type=int, default=100, metavar="N", help="images wanted (default: 100)")
    parser.add_argument("--seed", type=whole_number, default=0, metavar="N", help="of the choice (default: 0)")
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
    add_json(parser, "the choice")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    load_model_json(options.bundle)
    with progress() as tell:
        sample = draw(
            options.images,
            count=options.count,
            seed=options.seed,
            strategy=options.strategy,
            annotations=options.annotations,
            exclude=evaluation_images(options.exclude, progress=tell),
            embedding=EncoderEmbedding(options.bundle) if options.strategy == "diverse" else None,
            progress=tell,
        )
    if options.contact_sheet is not None:
        contact_sheet(options.images, sample, options.contact_sheet)
    record_sample(options.bundle, sample)
    chosen = f"{len(sample.images)} of {sample.candidates} images, {sample.strategy}, seed {sample.seed}"
    print(f"{chosen}, recorded in calibration.json")
    for image in sample.refused:
        print(f"  passed over {image.file}: {image.reason}")
    if options.json is not None:
        options.json.write(sample.to_json())
    return command.DONE

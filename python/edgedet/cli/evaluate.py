"""``edgedet eval``: average precision on a COCO dataset."""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet import coco_eval
from edgedet.cli.common import (
    add_bundle,
    add_detector_options,
    describe,
    open_detector,
    output_file,
    print_running,
)
from edgedet.terminal.json_output import add_json, write_text
from edgedet.terminal.progress import progress

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "eval",
        help="measure average precision on a COCO dataset",
        description="Measure COCO average precision (IoU 0.50:0.95, all detections of the model, pycocotools).",
        epilog="Figures are between 0 and 1; -1 means that the dataset has no object of that size.",
        examples=(
            "edgedet eval femto --images val/images --annotations val/instances.json",
            "edgedet eval femto --images val/images --annotations val/instances.json --precision int8 --json ap.json",
        ),
    )
    add_bundle(parser)
    parser.add_argument("--images", required=True, metavar="DIR", type=Path, help="folder of the images")
    parser.add_argument("--annotations", required=True, metavar="FILE", type=Path, help="COCO annotations, JSON")
    add_json(parser, "AP, AP50, AP75, AP_small, ...")
    parser.add_argument("--results", metavar="FILE", type=output_file, help="write all detections as COCO results JSON")
    parser.add_argument(
        "--match",
        default="auto",
        choices=["auto", "id", "name"],
        help="how classes find their category: by id, by name, or by id where the names agree, else by name (auto)",
    )
    add_detector_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Detects on every image of the dataset, then evaluates."""
    coco_eval.require_pycocotools()
    dataset = coco_eval.load_annotations(arguments.annotations)
    detector = open_detector(arguments)
    info = detector.info
    category_ids = coco_eval.match_categories(dataset, info.classes, info.category_ids, by=arguments.match)
    print_running(detector)
    start = time.perf_counter()
    with progress() as tell:
        results = coco_eval.collect_results(
            detector, dataset, arguments.images, category_ids, progress=partial(tell, "eval")
        )
    seconds = time.perf_counter() - start
    figures = coco_eval.evaluate(results, dataset)
    for name, value in figures.items():
        print(f"{name:<10} {value:.4f}")
    print(f"{len(dataset.images)} images in {seconds:.1f} s, {len(results)} detections")
    if arguments.results is not None:
        write_text(arguments.results, json.dumps(results) + "\n")
    if arguments.json is not None:
        arguments.json.write(
            {
                **figures,
                "images": len(dataset.images),
                "annotations": str(arguments.annotations),
                "bundle": str(arguments.bundle),
                **describe(detector),
            }
        )
    return 0

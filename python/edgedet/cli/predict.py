"""``edgedet predict``: detections of images as a table, as JSON and as pictures; of a video see predict_video."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedet import Detections, ImageError, InvalidInputError, read_image
from edgedet.cli import predict_video
from edgedet.cli.common import (
    add_bundle,
    add_detector_options,
    fraction,
    make_folder,
    objects_json,
    open_detector,
    print_running,
)
from edgedet.draw import draw_detections
from edgedet.images import find_images
from edgedet.terminal.json_output import add_json
from edgedet.terminal.table import print_table
from edgedet.video.kind import is_video

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "predict",
        help="detect objects in images, a video, a camera or a stream",
        description="Detect objects in images and print them, best first; or in a video, a camera or a stream.",
        epilog="Images that cannot be read are named and left out, videos end where they are damaged; the exit status "
        "is then 2. Ctrl-C ends a video properly, with 130. See docs/video.md.",
        examples=(
            "edgedet predict femto street.jpg --out drawn",
            "edgedet predict femto photos/ --score 0.5 --json found.json",
            "edgedet predict femto street.jpg --json | jq '.[0].detections[].name'",
            "edgedet predict femto rtsp://camera/stream --track --out seen.mp4",
        ),
    )
    add_bundle(parser)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="image files, or folders of them; or one video file, rtsp://..., /dev/video0, or pipeline of GStreamer",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        type=Path,
        help="write images with boxes drawn into this folder, or a video as PATH.mp4",
    )
    add_json(parser, "the detections (of a video, a line per frame)")
    parser.add_argument(
        "--score", type=fraction, default=0.3, metavar="S", help="leave detections below this score out (default: 0.3)"
    )
    add_detector_options(parser)
    predict_video.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Tells images from a video by what is in them."""
    videos = [entry for entry in arguments.inputs if arguments.reader == "gstreamer" or is_video(entry)]
    if not videos:
        return _run_images(arguments)
    if len(arguments.inputs) > 1:
        raise InvalidInputError(f"expected images, or one video alone, got {videos[0]} and other inputs")
    return predict_video.run(arguments, videos[0])


def _run_images(arguments: argparse.Namespace) -> int:
    """Reads, detects, prints; one damaged file does not stop the rest."""
    files = [file for entry in arguments.inputs for file in find_images(entry)]
    if arguments.out is not None:
        make_folder(arguments.out)
    detector = open_detector(arguments, score_threshold=arguments.score)
    print_running(detector)
    document: list[dict[str, Any]] = []
    drawn: set[str] = set()
    failed = 0
    for file in files:
        try:
            image = read_image(file)
        except ImageError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        (found,), times = detector.detect_timed([image])
        _print(file, image, found, sum(times))
        document.append(_as_json(file, image, found))
        if arguments.out is not None:
            target = arguments.out / _free_name(file.stem, drawn)
            draw_detections(image, found).save(target, quality=92)
            print(f"  drawn: {target}")
    if arguments.json is not None:
        arguments.json.write(document)
    return 2 if failed else 0


def _print(file: Path, image: NDArray[np.uint8], found: Detections, milliseconds: float) -> None:
    count = f"{len(found)} object{'s' if len(found) != 1 else ''}"
    print(f"\n{file} ({image.shape[1]}x{image.shape[0]}): {count}, {milliseconds:.1f} ms")
    rows = [
        {
            "object": row.name,
            "score": f"{row.score:.2f}",
            **{side: f"{value:.1f}" for side, value in zip(("x0", "y0", "x1", "y1"), row.box)},
        }
        for row in found
    ]
    print_table(rows, left=("object",))


def _as_json(file: Path, image: NDArray[np.uint8], found: Detections) -> dict[str, Any]:
    return {
        "image": str(file),
        "width": image.shape[1],
        "height": image.shape[0],
        "detections": objects_json(found),
    }


def _free_name(stem: str, taken: set[str]) -> str:
    """A file name that no earlier image of this run has."""
    name, count = f"{stem}.jpg", 1
    while name in taken:
        count += 1
        name = f"{stem}_{count}.jpg"
    taken.add(name)
    return name

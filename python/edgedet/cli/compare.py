"""``edgedet compare``: two bundles, or two ways to run one, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet import Detector, InvalidInputError, command
from edgedet.cli.common import (
    add_engine_options,
    engine_options,
    fraction,
    make_folder,
    positive_number,
    whole_number,
)
from edgedet.compare.report import as_json, differences, rows, sentences
from edgedet.compare.run import CompareOptions, Comparison, compare
from edgedet.compare.side import Side, read_side
from edgedet.files import write_atomically
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress
from edgedet.terminal.table import print_table

if TYPE_CHECKING:
    from edgedet.compare.run import ComparedImage
    from edgedet.terminal.parser import Commands

_MOST_PICTURES = 60


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "compare",
        help="run two bundles, or one in two ways, side by side",
        description="Run A and B on the same images: what they are, how fast by turns, how far their detections agree, "
        "AP of both where there are labels, and the images on which they disagree most. Each is a bundle, and may say "
        "how it runs: BUNDLE@int8, BUNDLE@openvino, BUNDLE@tensorrt:fp16. Classes are the same where their names are.",
        epilog="An object is agreed on if both found it under one name, boxes with an IoU of 0.5 or more and the lower "
        "score at least half the other. With --out: compare.html, compare.json, worst.png. Ends with 1 if a bound is "
        "missed, and with 2 if images were left out because they cannot be read.",
        examples=(
            "edgedet compare atto femto --images photos --out compared",
            "edgedet compare femto@fp32 femto@int8 --images val/images --annotations val/instances.json",
            "edgedet compare old new --images photos --min-agreement 0.95 --json compared.json",
        ),
    )
    for name in "AB":
        parser.add_argument(name.lower(), metavar=name, help="BUNDLE[@BACKEND][:PRECISION] or BUNDLE@PRECISION")
    parser.add_argument("--images", required=True, metavar="DIR", type=Path, help="folder of the images")
    parser.add_argument("--annotations", metavar="FILE", type=Path, help="COCO annotations, JSON, for AP")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder of the results, pictures among them")
    add_json(parser, "the comparison")
    parser.add_argument(
        "--score", type=fraction, default=0.3, metavar="S", help="detections below are not compared (default: 0.3)"
    )
    parser.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME", help="only these (default: all that both know)"
    )
    parser.add_argument("--limit", type=whole_number, default=0, metavar="N", help="first N images only (default: all)")
    parser.add_argument(
        "--frames", type=positive_number, default=100, metavar="N", help="that both are timed on (default: 100)"
    )
    parser.add_argument(
        "--worst", type=whole_number, default=12, metavar="N", help="images that are shown (default: 12)"
    )
    parser.add_argument("--threads", type=whole_number, default=0, metavar="N", help="CPU threads (default: all)")
    bounds = parser.add_argument_group("bounds, for scripts")
    bounds.add_argument("--min-agreement", type=fraction, metavar="X", help="share of objects agreed on, from 0 to 1")
    bounds.add_argument("--max-drop", type=fraction, metavar="AP", help="AP that B may lose against A")
    add_engine_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compares, prints, and writes."""
    sides = read_side(arguments.a), read_side(arguments.b)
    if arguments.max_drop is not None and arguments.annotations is None:
        raise InvalidInputError("--max-drop: expected --annotations too, because AP needs labels")
    if arguments.worst > _MOST_PICTURES:
        raise InvalidInputError(f"--worst: expected {_MOST_PICTURES} at the most, got {arguments.worst}")
    options = CompareOptions(
        score=arguments.score, limit=arguments.limit, turns=arguments.frames, classes=tuple(arguments.classes)
    )
    if arguments.out is not None:
        make_folder(arguments.out)
    with _open(sides[0], arguments) as a, _open(sides[1], arguments) as b, progress() as tell:
        found = compare(
            sides,
            (a, b),
            images=arguments.images,
            annotations=arguments.annotations,
            options=options,
            progress=tell,
        )
    worst = found.worst(arguments.worst)
    report = as_json(found, worst)
    _print(found, worst)
    if arguments.out is not None:
        _write(arguments.out, found, worst, report)
    if arguments.json is not None:
        arguments.json.write(report)
    return _code(arguments, found)


def _open(side: Side, arguments: argparse.Namespace) -> Detector:
    return Detector(
        side.bundle,
        backend=side.backend,
        precision=side.precision,
        threads=arguments.threads,
        score_threshold=0.0,
        cache_dir=arguments.cache_dir,
        engine=engine_options(arguments),
    )


def _print(found: Comparison, worst: list[ComparedImage]) -> None:
    print_table(rows(found), left=("", "A", "B"))
    print()
    print(*sentences(found), sep="\n")
    if worst:
        print("\nworst disagreements")
    for image in worst:
        print(f"  {image.path.name}: {'; '.join(differences(image))}")


def _write(out: Path, found: Comparison, worst: list[ComparedImage], report: dict[str, object]) -> None:
    from edgedet.compare.page import page
    from edgedet.compare.pictures import contact_sheet

    files = {
        "compare.json": (json.dumps(report, indent=2) + "\n").encode(),
        "compare.html": page(found, worst).encode(),
    }
    if worst:
        files["worst.png"] = contact_sheet(found, worst)
    for name, content in files.items():
        write_atomically(out / name, content)
    print(f"\nwritten to {out}: {', '.join(files)}")


def _code(arguments: argparse.Namespace, found: Comparison) -> int:
    for problem in found.unreadable:
        print(f"error: {problem}", file=sys.stderr)
    missed = []
    share, least = found.agreement.share, arguments.min_agreement
    if least is not None and share < least:
        missed.append(f"agreement: expected {least:.1%} or more, got {share:.1%}")
    if arguments.max_drop is not None and found.accuracy is not None and found.accuracy.drop > arguments.max_drop:
        missed.append(f"AP: expected a loss of {arguments.max_drop:g} at the most, got {found.accuracy.drop:.4f}")
    for text in missed:
        print(f"missed: {text}", file=sys.stderr)
    return command.ERROR if found.unreadable else command.NO if missed else command.DONE

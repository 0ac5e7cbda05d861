"""The command line of datasets: `python -m training data check` and `data coco2017`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet import command
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress
from edgedet.terminal.screen import rich_console
from training.data.download import BASE_URL

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_data_commands(commands: Commands) -> None:
    """Adds `data` and its sub-commands."""
    data = commands.add_parser(
        "data",
        help="check a dataset, or download COCO",
        description="Check a dataset, or download one.",
        examples=("python -m training data check data", "python -m training data coco2017 --root coco"),
    )
    actions = data.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = actions.add_parser(
        "check",
        help="report what is wrong with a dataset",
        description="Read all labels, decode all images and report. Ends with 1 if there are errors, else with 0.",
        examples=(
            "python -m training data check data",
            "python -m training data check data.yaml --pictures pictures --json report.json",
        ),
    )
    check.add_argument("path", metavar="DATA", type=Path, help="dataset folder, data.yaml or COCO json")
    check.add_argument(
        "--size",
        type=int,
        default=640,
        metavar="N",
        help="side of the network input, to judge small boxes (default: 640)",
    )
    check.add_argument("--pictures", type=Path, metavar="DIR", help="draw samples, class balance and box sizes there")
    add_json(check, "the report")
    check.set_defaults(run=_check)

    coco = actions.add_parser(
        "coco2017",
        help="download COCO 2017",
        description="Download, verify and unpack COCO 2017: 20 GB, and 20 GB more while it is unpacked. An "
        "interrupted download is continued by the same command.",
        examples=(
            "python -m training data coco2017 --root coco",
            "python -m training data coco2017 --root coco --splits val",
        ),
    )
    coco.add_argument("--root", type=Path, required=True, metavar="DIR", help="dataset folder to make")
    coco.add_argument(
        "--splits", nargs="+", choices=("train", "val"), default=("train", "val"), help="what to fetch (default: both)"
    )
    coco.add_argument(
        "--base-url", default=BASE_URL, metavar="URL", help=f"a mirror with the same paths (default: {BASE_URL})"
    )
    coco.set_defaults(run=_coco2017)


def _check(arguments: argparse.Namespace) -> int:
    from edgedet import InvalidInputError
    from training.data.check import check_dataset
    from training.data.check_report import report_lines

    if arguments.size < 1:
        raise InvalidInputError(f"--size: expected 1 or more pixels, got {arguments.size}")
    with progress() as tell:
        report, datasets = check_dataset(
            arguments.path, size=arguments.size, on_image=lambda done, total: tell("decoding images", done, total)
        )
    console = rich_console(sys.stdout)
    for text, style in report_lines(report):
        if console is None:
            print(text)
        else:
            console.print(text, style=style or None, markup=False, soft_wrap=True)
    if arguments.json is not None:
        arguments.json.write(report.to_json())
    if arguments.pictures is not None:
        from training.data.check_pictures import draw_pictures

        for file in draw_pictures(arguments.pictures, report, datasets):
            print(f"picture: {file}")
    return command.NO if report.count("error") else command.DONE


def _coco2017(arguments: argparse.Namespace) -> int:
    from training.data.download import download_coco2017

    with progress() as tell:
        download_coco2017(arguments.root, splits=arguments.splits, base_url=arguments.base_url, on_bytes=tell)
    print(f"dataset: {arguments.root}\nnext:    python -m training data check {arguments.root}")
    return 0

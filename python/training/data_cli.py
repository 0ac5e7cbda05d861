"""The command line of datasets: `python -m training data check` and `data coco2017`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.data.download import BASE_URL

_LINE_EVERY = 10.0  # seconds between lines of progress where there is no terminal


def add_data_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `data` and its sub-commands; each sets `command` to a function from its arguments to an exit code."""
    data = commands.add_parser("data", help="check a dataset, or download COCO", description="Datasets.")
    actions = data.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = actions.add_parser(
        "check",
        help="report what is wrong with a dataset",
        description="Reads all labels, decodes all images and reports. Ends with 1 if there are errors, else with 0.",
    )
    check.add_argument("path", type=Path, help="dataset folder, data.yaml or COCO json")
    check.add_argument(
        "--size", type=int, default=640, help="side of the network input, to judge small boxes (default: 640)"
    )
    check.add_argument("--pictures", type=Path, metavar="DIR", help="draw samples, class balance and box sizes there")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    check.set_defaults(command=_check)

    coco = actions.add_parser(
        "coco2017",
        help="download COCO 2017",
        description="Downloads, verifies and unpacks COCO 2017: 20 GB, and 20 GB more while it is unpacked. An "
        "interrupted download is continued by the same command.",
    )
    coco.add_argument("--root", type=Path, required=True, metavar="DIR", help="dataset folder to make")
    coco.add_argument(
        "--splits", nargs="+", choices=("train", "val"), default=("train", "val"), help="what to fetch (default: both)"
    )
    coco.add_argument("--base-url", default=BASE_URL, help=f"a mirror with the same paths (default: {BASE_URL})")
    coco.set_defaults(command=_coco2017)


def _check(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from edgedet import InvalidInputError
    from training.data.check import check_dataset
    from training.data.check_report import report_lines
    from training.files import write_json

    if arguments.size < 1:
        raise InvalidInputError(f"--size: expected 1 or more pixels, got {arguments.size}")
    with _progress() as tell:
        report, datasets = check_dataset(
            arguments.path, size=arguments.size, on_image=lambda done, total: tell("decoding images", done, total)
        )
    console = Console(highlight=False, soft_wrap=True)
    for text, style in report_lines(report):
        console.print(text, style=style or None, markup=False)
    if arguments.json is not None:
        write_json(arguments.json, report.to_json())
    if arguments.pictures is not None:
        from training.data.check_pictures import draw_pictures

        for file in draw_pictures(arguments.pictures, report, datasets):
            console.print(f"picture: {file}", markup=False)
    return 1 if report.count("error") else 0


def _coco2017(arguments: argparse.Namespace) -> int:
    from training.data.download import download_coco2017

    with _progress() as tell:
        download_coco2017(arguments.root, splits=arguments.splits, base_url=arguments.base_url, on_bytes=tell)
    print(f"dataset: {arguments.root}\nnext:    python -m training data check {arguments.root}")
    return 0


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Something to be told (step, done, all): a bar on stderr if that is a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    console = Console(stderr=True)
    tasks: dict[str, TaskID] = {}
    spoken = time.monotonic()

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:

        def tell(step: str, done: int, total: int) -> None:
            nonlocal spoken
            if console.is_terminal:
                if step not in tasks:
                    tasks[step] = bar.add_task(step)
                bar.update(tasks[step], completed=done, total=total)
            elif time.monotonic() - spoken > _LINE_EVERY:
                spoken = time.monotonic()
                print(f"{step}: {100 * done // max(total, 1)} %", file=sys.stderr, flush=True)

        yield tell

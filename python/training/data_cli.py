"""The command line of datasets: `python -m training data check` and `data coco2017`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


def _check(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from edgedet import InvalidInputError
    from training.data.check import check_dataset
    from training.data.check_report import report_lines
    from training.files import write_json

    if arguments.size < 1:
        raise InvalidInputError(f"--size: expected 1 or more pixels, got {arguments.size}")
    with _progress("decoding images") as on_image:
        report, datasets = check_dataset(arguments.path, size=arguments.size, on_image=on_image)
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


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal, that is told (done, all)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)

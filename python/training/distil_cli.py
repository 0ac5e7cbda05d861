"""The command line of distillation: methods, cache, calibrate-lambda, visualise."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedet import InvalidInputError
from edgedet.terminal.json_output import add_json

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands

Options = Callable[[argparse.ArgumentParser], None]
Given = Callable[[argparse.Namespace], dict[str, Any]]


def add_distil_commands(commands: Commands, add_options: Options, given: Given) -> None:
    """Adds them.

    add_options, given: the options of `train`, which some of them share.
    """
    methods = commands.add_parser(
        "methods",
        help="list the ways to distil",
        description="List what --distil takes, with options and defaults.",
        examples=("python -m training methods", "python -m training methods --json"),
    )
    add_json(methods, "the methods")
    methods.set_defaults(run=_methods)

    cache = commands.add_parser(
        "cache",
        help="have teachers answer in advance",
        description="Ask the teachers about every view that a run with these options will show, and keep the answers "
        "in --teacher-cache; the run then needs no teacher in memory. An interrupted filling is continued by the same "
        "command.",
        examples=("python -m training cache data --teacher runs/big --distil logit --teacher-cache answers --views 4",),
    )
    add_options(cache)
    cache.set_defaults(run=lambda arguments: _cache(given(arguments)))

    weigh = commands.add_parser(
        "calibrate-lambda",
        help="find weights with which methods are compared fairly",
        description="Measure each --distil method on batches from the whole schedule, and print it with the weight "
        "at which it is --ratio of the detection loss: the ratio of the medians.",
        examples=(
            "python -m training calibrate-lambda data --teacher runs/big --distil logit feature --json weights.json",
        ),
    )
    add_options(weigh)
    weigh.add_argument("--batches", type=int, default=20, metavar="N", help="how many to measure (default: 20)")
    weigh.add_argument(
        "--ratio", type=float, default=1.0, metavar="R", help="distillation to detection loss (default: 1)"
    )
    add_json(weigh, "the figures")
    weigh.set_defaults(run=lambda arguments: _weigh(arguments, given(arguments)))

    look = commands.add_parser(
        "visualise",
        help="draw what student and teacher see",
        description="Draw detections, encoder maps and attention of a student and its teachers side by side.",
        examples=("python -m training visualise runs/small street.jpg --teacher runs/big --out pictures",),
    )
    look.add_argument(
        "weights", metavar="WEIGHTS", type=Path, help="run folder (its best weights) or checkpoint of the student"
    )
    look.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="image files")
    look.add_argument("--teacher", metavar="TEACHER", nargs="+", default=(), help="as for `train`")
    look.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    look.add_argument(
        "--score",
        "--threshold",
        dest="threshold",
        type=float,
        default=0.4,
        metavar="S",
        help="leave detections below this score out (default: 0.4)",
    )
    look.set_defaults(run=_visualise)


def _methods(arguments: argparse.Namespace) -> int:
    from training.distillation.terms import method_options, method_table

    print(method_table())
    if arguments.json is not None:
        arguments.json.write(method_options())
    return 0


def _cache(given: dict[str, Any]) -> int:
    from training.config import TrainConfig
    from training.teachers.fill import fill_caches

    for line in fill_caches(TrainConfig(**given)):
        print(line)
    return 0


def _weigh(arguments: argparse.Namespace, given: dict[str, Any]) -> int:
    from training.config import TrainConfig
    from training.teachers.weigh import weigh_methods

    if arguments.batches < 1 or not arguments.ratio > 0:
        raise InvalidInputError(
            f"calibrate-lambda: expected --batches of 1 or more and a --ratio above 0, "
            f"got {arguments.batches} and {arguments.ratio}"
        )
    found = weigh_methods(TrainConfig(**given), batches=arguments.batches, ratio=arguments.ratio)
    for each in found:
        print(f"{each.text}: detection {each.detection:.4g}, distillation {each.distillation:.4g}")
        print(f"  --distil {' '.join(each.weighted)}")
    if arguments.json is not None:
        arguments.json.write({each.text: each.to_json() for each in found})
    return 0


def _visualise(arguments: argparse.Namespace) -> int:
    from training.teachers.visualise import draw_comparison

    for file in draw_comparison(
        arguments.weights, arguments.images, arguments.teacher, out=arguments.out, threshold=arguments.threshold
    ):
        print(file)
    return 0

"""The command line of studies: `python -m training ablate` and `aggregate`."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet import InvalidInputError, command
from edgedet.terminal.json_output import add_json

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands
    from training.study.executor import Executor
    from training.study.grid import Grid


def add_study_commands(commands: Commands) -> None:
    """Adds both."""
    ablate = commands.add_parser(
        "ablate",
        help="compare methods of training over seeds",
        description="Run every method, weight and seed of a grid, each in a process of its own. The same command goes "
        "on after an interruption, and tries again what failed. Ends with 1 if a run failed.",
        examples=(
            "python -m training ablate grid.yaml",
            "python -m training ablate grid.yaml --devices cuda:0,cuda:1",
            "python -m training ablate grid.yaml --ray auto",
        ),
    )
    ablate.add_argument("grid", type=Path, metavar="GRID.yaml", help="what to compare, see docs/distillation.md")
    ablate.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time, which share the cores (default: 1, or one for each of --devices)",
    )
    ablate.add_argument("--devices", metavar="LIST", help="devices that runs take turns on, such as cuda:0,cuda:1")
    ablate.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on this Ray cluster instead (auto: the one here; local: start one). The grid, the data and the "
        "study's folder must be on a file system that its machines share, under the same paths. Each run asks for as "
        "many CPUs as its options threads and workers say, at least one, and for a GPU if there are any",
    )
    ablate.set_defaults(run=_ablate)

    aggregate = commands.add_parser(
        "aggregate",
        help="sum a comparison up in a table and a plot",
        description="Sum up a study, finished or not: means over seeds, differences to the baseline of the same seed "
        "with 95 % intervals, cost. Also writes OUT/results.json.",
        examples=("python -m training aggregate studies/first",),
    )
    aggregate.add_argument("out", type=Path, metavar="OUT", help="folder of the study")
    aggregate.add_argument("--csv", type=Path, metavar="FILE", help="table for programs (default: OUT/results.csv)")
    aggregate.add_argument("--markdown", type=Path, metavar="FILE", help="for people (default: OUT/results.md)")
    aggregate.add_argument("--plot", type=Path, metavar="FILE", help="picture (default: OUT/results.png)")
    add_json(aggregate, "what results.json holds")
    aggregate.set_defaults(run=_aggregate)


def _ablate(arguments: argparse.Namespace) -> int:
    from training.study.grid import read_grid
    from training.study.study import run_study

    grid = read_grid(arguments.grid)
    outcome = run_study(grid, _executor(arguments, grid), _say)
    for name, why in outcome.failed.items():
        print(f"failed  {name}: {why}")
    if outcome.interrupted:
        print(f"stopped; continue with python -m training ablate {arguments.grid}")
        return command.INTERRUPTED
    if outcome.failed:
        print(f"{len(outcome.failed)} failed, see log.txt and failed.json of each; the same command tries them again")
    print(f"next:    python -m training aggregate {grid.out}")
    return command.NO if outcome.failed else command.DONE


def _say(text: str) -> None:
    """Prints, as long as anybody reads: a terminal that was closed is no reason to end a study."""
    with suppress(OSError):
        print(text, flush=True)


def _executor(arguments: argparse.Namespace, grid: Grid) -> Executor:
    """Raises InvalidInputError for options that do not go together."""
    from training.study.executor import LocalProcesses
    from training.study.ray_executor import RayTasks

    devices = tuple(filter(None, (arguments.devices or "").split(",")))
    if arguments.ray is not None:
        if devices or arguments.jobs is not None:
            raise InvalidInputError("--ray: expected neither --jobs nor --devices, because Ray places runs; got both")
        cpus = max(1, grid.options.get("threads", 0) + max(0, grid.options.get("workers", 0)))
        return RayTasks(arguments.ray, cpus=cpus, gpus=grid.options.get("device", "auto") != "cpu")
    jobs = arguments.jobs if arguments.jobs is not None else max(1, len(devices))
    if jobs < 1:
        raise InvalidInputError(f"--jobs: expected 1 or more, got {jobs}")
    return LocalProcesses(jobs=jobs, devices=devices)


def _aggregate(arguments: argparse.Namespace) -> int:
    from edgedet.files import write_atomically
    from training.files import write_json
    from training.study.aggregate import summarise
    from training.study.plot import draw
    from training.study.tables import as_csv, markdown

    out = arguments.out
    summary = summarise(out)
    text = markdown(summary)
    write_json(out / "results.json", summary.to_json())
    write_atomically(arguments.csv or out / "results.csv", as_csv(summary).encode())
    write_atomically(arguments.markdown or out / "results.md", text.encode())
    draw(arguments.plot or out / "results.png", summary)
    print(text)
    if arguments.json is not None:
        arguments.json.write(summary.to_json())
    return command.DONE

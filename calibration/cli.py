"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from calibration.commands import finetune, fuse, half, quantize, sample, search, verify
from edgedet.command import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done or passed, 1 the INT8 model was refused, otherwise as `run_command`.
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run_command(lambda: run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m calibration", description="Make an INT8 model of a bundle, and prove or refuse it."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (sample, half, fuse, quantize, finetune, search, verify):
        command.add_parser(commands)
    return parser

"""The command line."""

from __future__ import annotations

from collections.abc import Sequence

from calibration.commands import finetune, fuse, half, quantize, sample, search, verify
from edgedet.terminal.parser import Parser, program, run_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done or passed, 1 the model was refused, otherwise as `run_command`.
    """
    return run_program(build_parser(), arguments, extra="calibrate")


def build_parser() -> Parser:
    """The whole command line."""
    parser = program("python -m calibration", "Make an INT8 model of a bundle, and prove or refuse it.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (sample, half, fuse, quantize, finetune, search, verify):
        command.add_parser(commands)
    return parser

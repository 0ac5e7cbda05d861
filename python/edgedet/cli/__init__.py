"""The command ``edgedet``: one module per sub-command, errors as one line, never a traceback for a known cause."""

from __future__ import annotations

from collections.abc import Sequence

from edgedet import __version__
from edgedet.cli import (
    bench,
    build,
    compare,
    completion,
    doctor,
    evaluate,
    export,
    import_onnx,
    info,
    predict,
    pull,
    serve,
    sweep,
)
from edgedet.terminal.parser import Parser, program, run_program


def build_parser() -> Parser:
    """The whole command line, for ``main`` and for tests of the help texts."""
    parser = program("edgedet", "Small object detectors, proven on the device they run on.")
    parser.add_argument("--version", action="version", version=f"edgedet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        import_onnx, pull, export, predict, evaluate, compare, build, bench, sweep, serve, info, doctor, completion
    ):  # fmt: skip
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its code, see ``run_command``."""
    return run_program(build_parser(), argv)

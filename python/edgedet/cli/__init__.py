"""The command ``edgedet``: one module per sub-command, errors as one line, never a traceback for a known cause."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edgedet import __version__
from edgedet.cli import bench, build, doctor, evaluate, export, import_onnx, info, predict, pull, serve, sweep
from edgedet.command import run_command


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, for ``main`` and for tests of the help texts."""
    parser = argparse.ArgumentParser(
        prog="edgedet",
        description="Small object detectors, proven on the device they run on.",
        epilog="Every command explains itself: edgedet COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"edgedet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (import_onnx, pull, export, predict, evaluate, build, bench, sweep, serve, info, doctor):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its code, see ``run_command``."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: arguments.run(arguments))

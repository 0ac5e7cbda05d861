"""The command ``edgedet``: one module per sub-command, errors as one line, never a traceback for a known cause."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from edgedet import Error, __version__
from edgedet.cli import bench, doctor, evaluate, import_onnx, info, predict


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, for ``main`` and for tests of the help texts."""
    parser = argparse.ArgumentParser(
        prog="edgedet",
        description="Small object detectors, proven on the device they run on.",
        epilog="Every command explains itself: edgedet COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"edgedet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (import_onnx, predict, evaluate, bench, info, doctor):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0; 2 after an error that was printed; 130 after Ctrl-C.
    """
    arguments = build_parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left (`edgedet ... | head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code

"""Energy from a log of a Jetson's tegrastats: ``python -m edgedet.tegrastats LOG``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edgedet import Error, InvalidInputError, _core


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints watts and joules of each rail and of the board. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edgedet.tegrastats",
        description="Watts, joules and joules a frame from a log of tegrastats (JetPack 4 to 7), idle power included.",
        epilog="tegrastats --interval 100 --logfile power.log & edgedet bench ...; tegrastats --stop",
    )
    parser.add_argument("log", metavar="LOG", type=Path, help="the log, with lines of the time to measure only")
    parser.add_argument(
        "--interval", type=float, default=1000.0, metavar="MS", help="as given to tegrastats (default: 1000)"
    )
    parser.add_argument("--frames", type=int, metavar="N", help="frames that were run meanwhile")
    options = parser.parse_args(arguments)
    try:
        if options.frames is not None and options.frames < 1:
            raise InvalidInputError(f"--frames: expected 1 or more, got {options.frames}")
        try:
            text = options.log.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise InvalidInputError(f"{options.log}: cannot be read ({error.strerror}); check the path") from None
        power = _core.read_tegrastats(text, options.interval / 1e3)
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{power['samples']} samples over {power['seconds']:.1f} s")
    board = {f"board ({power['board_is']})": power["board"]}
    for name, joules in {**power["rails"], **board}.items():
        if joules is None:
            print(f"{name}: not available")
            continue
        frame = "" if options.frames is None else f"  {joules / options.frames:.4g} J a frame"
        print(f"{name}  {joules / power['seconds']:.3f} W  {joules:.3f} J{frame}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``--json [FILE]``: the answer of a command for programs."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from edgedet import InvalidInputError
from edgedet.files import write_atomically

_ENDINGS: Final = (".json", ".jsonl")


class JsonTarget:
    """Where JSON goes: a file, or what was the standard output when the command line was read.

    Attributes:
        file: The file; None for standard output, on which nothing else is printed then.
    """

    def __init__(self, text: str) -> None:
        """text: name of a file that ends in .json or .jsonl, or "-"."""
        self.file = None if text == "-" else _checked(text)
        self._stream = sys.stdout

    def write(self, value: object) -> None:
        """Writes a document, indented for people."""
        text = json.dumps(value, indent=2) + "\n"
        if self.file is None:
            self._stream.write(text)
            self._stream.flush()
        else:
            write_text(self.file, text)

    @contextlib.contextmanager
    def lines(self) -> Iterator[Callable[[object], None]]:
        """Something that writes a value a line, each of which is there at once for who follows it."""
        with contextlib.ExitStack() as stack:
            stream = self._stream
            if self.file is not None:
                try:
                    stream = stack.enter_context(self.file.open("w", encoding="utf-8"))
                except OSError as error:
                    raise _cannot(self.file, error) from None

            def write(value: object) -> None:
                stream.write(json.dumps(value) + "\n")
                stream.flush()

            yield write


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds ``--json [FILE]``, a ``JsonTarget`` or None. what: it writes, such as "the figures"."""
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        type=JsonTarget,
        metavar="FILE.json",
        help=f"write {what} as JSON to the file, or to standard output and nothing else there",
    )


@contextlib.contextmanager
def only_json(arguments: argparse.Namespace) -> Iterator[None]:
    """Within, ``print`` is silent if ``--json`` has the standard output for itself."""
    target = getattr(arguments, "json", None)
    if isinstance(target, JsonTarget) and target.file is None:
        with contextlib.redirect_stdout(_Silence()):
            yield
    else:
        yield


def write_text(file: Path, text: str) -> None:
    """Writes a file whole or not at all; pipes and devices as they are.

    Raises:
        InvalidInputError: It cannot be written.
    """
    try:
        if file.exists() and not file.is_file():
            file.write_text(text, encoding="utf-8")
        else:
            write_atomically(file, text.encode())
    except OSError as error:
        raise _cannot(file, error) from None


def _checked(text: str) -> Path:
    """Before the work starts. The ending is asked for because FILE may be left out: it could be any argument."""
    path = Path(text)
    device = path.exists() and not path.is_file() and not path.is_dir()
    if path.suffix.lower() not in _ENDINGS and not device:
        raise argparse.ArgumentTypeError(
            f"expected a file that ends in .json, or nothing for standard output, got {text!r}; "
            "if that is another argument, write it before --json"
        )
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file name, got the folder {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {str(path.parent)!r} does not exist")
    return path


def _cannot(file: Path, error: OSError) -> InvalidInputError:
    return InvalidInputError(f"{file}: cannot be written ({error.strerror}); choose another file")


class _Silence(io.StringIO):
    """Takes text and keeps none."""

    def write(self, text: str, /) -> int:
        return len(text)

"""Whether somebody watches, and with what."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def is_terminal(stream: TextIO) -> bool:
    """Whether lines may be drawn over: a terminal, and not one that says it cannot (``TERM=dumb``)."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def rich_console(stream: TextIO) -> Console | None:
    """Rich on a terminal; None on anything else, or where rich is not installed. It respects ``NO_COLOR``."""
    if not is_terminal(stream):
        return None
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return None
    return Console(file=stream, highlight=False)

"""Progress on standard error: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from edgedet.terminal.screen import rich_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    #: Takes the name of a stage, how much of it is done, and how much there is (0: nobody knows).
    Tell = Callable[[str, int, int], None]

_LINE_EVERY: Final = 10.0  # seconds between lines where nobody watches


@contextmanager
def progress() -> Iterator[Tell]:
    """Something to be told (stage, done, total) within a ``with`` block; each stage has a line of its own.

    Where there is no terminal a stage says when it begins, every ten seconds, and when it ends.
    """
    console = rich_console(sys.stderr)
    if console is None:
        yield _Lines().tell
        return
    with rich_bars(console) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None, note="")
            bars.update(tasks[stage], completed=done, total=total or None)

        yield tell


def rich_bars(console: Console) -> Progress:
    """Bars with their count, rate and time left; each task may carry a ``note``, which is shown too."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{_short(speed)}/s", style="progress.data.speed")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
    )


def readable_seconds(seconds: float) -> str:
    """For people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class _Lines:
    """Lines such as ``eval 120/500, 35.2/s, 11 s left``."""

    def __init__(self) -> None:
        self._stage = ""
        self._started = self._spoke = 0.0
        self._first = 0

    def tell(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        new = stage != self._stage
        if new:
            self._stage, self._started, self._first = stage, now, done
        elif now - self._spoke < _LINE_EVERY and done != total:
            return
        self._spoke = now
        count = f"{done}/{total}" if total else str(done)
        print(f"{stage} {count}{self._rate(done, total, now)}", file=sys.stderr, flush=True)

    def _rate(self, done: int, total: int, now: float) -> str:
        seconds, moved = now - self._started, done - self._first
        if seconds <= 0 or moved <= 0:
            return ""
        left = f", {readable_seconds((total - done) * seconds / moved)} left" if total > done else ""
        return f", {_short(moved / seconds)}/s{left}"


def _short(number: float) -> str:
    """Three digits or so: 0.042, 3.5, 120, 4.1 M."""
    for limit, factor, unit in ((1e4, 1.0, ""), (1e7, 1e3, " k"), (1e10, 1e6, " M")):
        if number < limit:
            return f"{number / factor:.3g}{unit}" if number / factor < 1000 else f"{number / factor:.0f}{unit}"
    return f"{number / 1e9:.3g} G"

"""What a run tells: progress on the terminal, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import errno
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from edgedet.files import write_atomically
from edgedet.terminal.progress import readable_seconds, rich_bars
from edgedet.terminal.screen import rich_console

_LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal


class MetricsFile:
    """One json object per line: {"kind": "step" | "skipped" | "rollback" | "validation", "step": …, …}."""

    def __init__(self, file: Path, *, keep_to_step: int = 0) -> None:
        """keep_to_step: lines of later steps (of a run that is resumed before them) are removed."""
        self._file = file
        kept = [line for line in read_metrics(file) if line["step"] <= keep_to_step] if keep_to_step else []
        write_atomically(file, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, record: dict[str, Any]) -> None:
        """Appends one line, whole or not at all. Raises OSError where it cannot, as on a full disk."""
        line = json.dumps(record).encode() + b"\n"
        with self._file.open("ab", buffering=0) as stream:
            end = stream.tell()
            if stream.write(line) != len(line):
                stream.truncate(end)
                raise OSError(errno.ENOSPC, "written in part", str(self._file))


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, none if there is no file. A last line that a crash cut short is left out."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


class Board:
    """TensorBoard scalars, or nothing where tensorboard is not installed."""

    def __init__(self, folder: Path, *, purge_step: int = 0) -> None:
        """purge_step: earlier events from this step on are hidden (a run that is resumed)."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._writer = None
        else:
            self._writer = SummaryWriter(str(folder), purge_step=purge_step or None)

    @property
    def present(self) -> bool:
        """Whether anything is written."""
        return self._writer is not None

    def add(self, values: dict[str, float], step: int) -> None:
        """Adds scalars of a step."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes."""
        if self._writer is not None:
            self._writer.close()


class Records:
    """metrics.jsonl and TensorBoard of a run. A disk that takes no more is told once, and does not end the run."""

    _failed = False

    def __init__(self, run: Path, *, keep_to_step: int, say: Callable[[str], None], silent: bool = False) -> None:
        """keep_to_step: see `rewind`. silent: write nothing, as all but the first of several processes."""
        self._run = run
        self._say = say
        self._silent = silent
        self.rewind(keep_to_step)

    def rewind(self, step: int) -> None:
        """Drops what was recorded of later steps, before the run went back to this one."""
        if self._silent:
            return
        self._metrics = MetricsFile(self._run / "metrics.jsonl", keep_to_step=step)
        self._board = Board(self._run / "tensorboard", purge_step=step)

    def add(self, record: dict[str, Any], *, board: dict[str, float] | None = None) -> None:
        """Adds a line to metrics.jsonl, and scalars of its step to TensorBoard."""
        if self._silent:
            return
        try:
            self._metrics.write(record)
            self._board.add(board or {}, record["step"])
        except OSError as error:
            if not self._failed:
                self._say(f"step {record['step']}: metrics cannot be recorded ({error}); training goes on")
            self._failed = True

    def close(self) -> None:
        """Flushes."""
        if not self._silent:
            with suppress(OSError):
                self._board.close()


class Speed:
    """Images per second over the last steps."""

    def __init__(self) -> None:
        self._ends: deque[tuple[float, int]] = deque(maxlen=20)

    def add(self, images: int) -> None:
        """A step with that many images is done now."""
        self._ends.append((time.perf_counter(), images))

    @property
    def images_per_second(self) -> float:
        """Of the last steps; 0 before the second."""
        if len(self._ends) < 2:
            return 0.0
        images = sum(count for _, count in self._ends) - self._ends[0][1]
        return images / (self._ends[-1][0] - self._ends[0][0])


class Console:
    """Progress for people: a rich bar on a terminal, a line now and then elsewhere.

    It falls silent where nobody reads any more (a terminal that was closed, a pipe that was left): a run goes on.
    """

    def __init__(self, *, total: int, done: int = 0, stream: TextIO | None = None, silent: bool = False) -> None:
        """total: steps of the run; done: steps already behind it. silent: say nothing from the start."""
        self._stream = stream or sys.stdout
        self._silent = silent
        self._total = total
        self._first = done
        self._started = self._spoke = time.monotonic()
        console = None if silent else rich_console(self._stream)
        self._bar = None if console is None else rich_bars(console)
        self._task = self._bar.add_task("training", total=total, completed=done, note="") if self._bar else None

    def __enter__(self) -> Console:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            with suppress(OSError):
                self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._silent:
            return
        with self._readers():
            if self._bar:
                self._bar.console.print(text, markup=False, highlight=False)
            else:
                print(text, file=self._stream, flush=True)

    def step(self, done: int, note: str) -> None:
        """Shows that `done` steps of the run are behind us. note: loss, epoch and such."""
        if self._silent:
            return
        now = time.monotonic()
        with self._readers():
            if self._bar and self._task is not None:
                self._bar.update(self._task, completed=done, note=note)
            elif now - self._spoke >= _LINE_EVERY or done == self._total:
                self._spoke = now
                left = (now - self._started) / max(1, done - self._first) * (self._total - done)
                print(
                    f"step {done}/{self._total}  {note}  {readable_seconds(left)} left", file=self._stream, flush=True
                )

    def counter(self, what: str, total: int) -> Callable[[], None]:
        """Something to call after each of `total` pieces of other work, so that long work shows."""
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            now = time.monotonic()
            if not self._silent and now - self._spoke >= _LINE_EVERY:
                self._spoke = now
                self.say(f"{what}, {done} of {total} images")

        return count

    @contextmanager
    def _readers(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._silent = True

"""What a run tells: progress on the terminal, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from edgedet.files import write_atomically

_LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal


class MetricsFile:
    """One json object per line: {"kind": "step" | "validation", "step": …, …}."""

    def __init__(self, file: Path, *, keep_to_step: int = 0) -> None:
        """keep_to_step: lines of later steps (of a run that is resumed before them) are removed."""
        self._file = file
        kept = [line for line in read_metrics(file) if line["step"] <= keep_to_step] if keep_to_step else []
        write_atomically(file, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, record: dict[str, Any]) -> None:
        """Appends one line."""
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


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


class Console:
    """Progress for people: a rich bar on a terminal, a line now and then elsewhere."""

    def __init__(self, *, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        """total: steps of the run; done: steps already behind it."""
        self._stream = stream or sys.stdout
        self._total = total
        self._first = done
        self._started = self._spoke = time.monotonic()
        self._bar = _rich_bar() if self._stream.isatty() else None
        self._task = self._bar.add_task("training", total=total, completed=done, note="") if self._bar else None

    def __enter__(self) -> Console:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def step(self, done: int, note: str) -> None:
        """Shows that `done` steps of the run are behind us. note: loss, epoch and such."""
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._spoke >= _LINE_EVERY or done == self._total:
            self._spoke = now
            left = (now - self._started) / max(1, done - self._first) * (self._total - done)
            print(f"step {done}/{self._total}  {note}  {left:.0f} s left", file=self._stream, flush=True)


def _rich_bar() -> Any:
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )

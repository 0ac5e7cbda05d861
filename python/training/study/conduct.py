"""Runs tasks to their ends, several at a time, and tells how it goes."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgedet.terminal.progress import readable_seconds
from training.files import write_json
from training.stop import StopRequests
from training.study.executor import Ended, Executor, Task
from training.study.records import read_record

_POLL = 0.2  # seconds
_KEPT_BYTES, _KEPT_LINES = 1 << 14, 20  # of the log of a task that failed


@dataclass
class Outcome:
    """How it went: the names of tasks that are done; those that failed, and why; whether a signal ended it early."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


@dataclass(frozen=True)
class _Start:
    """When a task was started, and what its log held by then."""

    time: float
    log_bytes: int


def conduct(tasks: Sequence[Task], executor: Executor, say: Callable[[str], None]) -> Outcome:
    """Runs all tasks; one that fails leaves its `failed` file and does not end the others.

    The first SIGINT, SIGTERM or SIGHUP is handed on as SIGINT, and the tasks are waited for; a second one kills them
    and raises KeyboardInterrupt.
    """
    outcome = Outcome()
    waiting, started, elapsed = deque(tasks), dict[str, _Start](), list[float]()
    with StopRequests() as stop:
        try:
            while waiting or started:
                if stop.signal and not outcome.interrupted:
                    outcome.interrupted = True
                    waiting.clear()
                    say(f"{signal.Signals(stop.signal).name}: waiting for {len(started)} to save; again to kill them")
                    executor.interrupt()
                while waiting and len(started) < executor.width:
                    task = waiting.popleft()
                    task.failed.unlink(missing_ok=True)
                    started[task.name] = _Start(time.monotonic(), task.log.stat().st_size if task.log.exists() else 0)
                    executor.start(task)
                    say(f"start   {task.name}  ({len(tasks) - len(waiting)} of {len(tasks)})")
                for ended in executor.ended():
                    start = started.pop(ended.task.name)
                    seconds = time.monotonic() - start.time
                    elapsed.append(seconds)
                    left = sum(elapsed) / len(elapsed) * (len(waiting) + len(started) / 2) / executor.width
                    rest = f", about {readable_seconds(left)} left" if waiting or started else ""
                    say(f"{_concluded(ended, start, outcome)}  {readable_seconds(seconds)}{rest}")
                time.sleep(_POLL)
        finally:
            executor.close()
    return outcome


def _concluded(ended: Ended, start: _Start, outcome: Outcome) -> str:
    """Puts down how a task ended; returns the beginning of a line about it."""
    task = ended.task
    if ended.code == 0 and (result := read_record(task.result)):
        outcome.done.append(task.name)
        figure = f"AP {result['val']['AP']:.4f}" if result["val"] else result["why"]
        return f"done    {task.name}  {figure}"
    if outcome.interrupted:
        return f"stopped {task.name}"
    lines = _last_lines(task.log, start.log_bytes)
    why = ended.why or _reason(ended.code, lines)
    outcome.failed[task.name] = why
    write_json(task.failed, {"code": ended.code, "why": why, "log": lines})
    return f"failed  {task.name}  {why}"


def _reason(code: int, lines: Sequence[str]) -> str:
    """Why a process failed, as far as its exit code and its last lines tell."""
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, as the system does when memory runs out"
    if code == 0:
        return "ended without a result"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    said = [line for line in lines if line.strip()]
    errors = [line for line in said if line.startswith("error: ")]
    return (errors or said or [f"exit code {code}"])[-1].removeprefix("error: ")


def _last_lines(log: Path, start: int) -> list[str]:
    """Of what a log says after its first `start` bytes."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(start, log.stat().st_size - _KEPT_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-_KEPT_LINES:]

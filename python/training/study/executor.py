"""Who starts the processes of a study: this machine, or a Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import training
from training.study.machine import cores_here


@dataclass(frozen=True)
class Task:
    """A process to start: `python -m MODULE ARGUMENTS`, which is told its device and cores besides.

    name: for people. log: file that its output goes to, behind what is there. result: file that it leaves, a json
    object with metrics under "val". failed: file to say in why it did not.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    log: Path
    result: Path
    failed: Path


@dataclass(frozen=True)
class Ended:
    """How a process ended. code: as `subprocess` has it. why: what the executor knows, may be empty."""

    task: Task
    code: int
    why: str = ""


class Executor(Protocol):
    """Runs tasks, several at a time."""

    width: int  # tasks at a time

    def start(self, task: Task) -> None:
        """Starts a task. There are less than `width` running."""

    def ended(self) -> list[Ended]:
        """The tasks that have ended since the last call; does not wait."""

    def interrupt(self) -> None:
        """Sends SIGINT to all processes, so that they save and end."""

    def close(self) -> None:
        """Kills what still runs."""


class LocalProcesses:
    """Processes of this machine, which share its cores evenly and take turns on its devices."""

    def __init__(self, *, jobs: int, devices: Sequence[str] = ()) -> None:
        """jobs: processes at a time. devices: that they get, those with the fewest processes first."""
        self.width = jobs
        self._devices = devices or ("auto",)
        self._running: dict[subprocess.Popen[bytes], tuple[Task, str]] = {}

    def start(self, task: Task) -> None:
        """See `Executor.start`."""
        busy = [device for _, device in self._running.values()]
        device = min(self._devices, key=busy.count)
        process = launch(task, device=device, cores=max(1, cores_here() // self.width))
        self._running[process] = task, device

    def ended(self) -> list[Ended]:
        """See `Executor.ended`."""
        over = [process for process in self._running if process.poll() is not None]
        return [Ended(self._running.pop(process)[0], process.returncode) for process in over]

    def interrupt(self) -> None:
        """See `Executor.interrupt`."""
        for process in self._running:
            process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """See `Executor.close`."""
        for process in self._running:
            process.kill()
            process.wait()


def launch(task: Task, *, device: str, cores: int) -> subprocess.Popen[bytes]:
    """Starts a task's process in a session of its own, so that Ctrl-C reaches it once, through its executor."""
    code = str(Path(training.__file__).parent.parent)  # the same that runs here
    path = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH", "")]))
    arguments = [*task.arguments, "--device", device, "--cores", str(cores)]
    # A worker of Ray blocks SIGINT, and what it starts would inherit that.
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        with task.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-u", "-m", task.module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Threads that spin while they wait for each other are slow beside other processes.
                env={"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

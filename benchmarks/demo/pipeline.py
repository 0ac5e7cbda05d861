"""Runs the demo's steps as the commands a user would type, and reuses those whose inputs have not changed."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .report import Step


class StepError(Exception):
    """A command of the demo ended with an error, which it has already printed."""


def fingerprint(paths: Sequence[Path]) -> str:
    """Sha256 over names and contents of files, and of the Python sources below folders."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


class Pipeline:
    """A chain of steps: when one is done anew, so is every later one that may be reused.

    folder: where the demo writes; records of finished steps go to `.steps` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[Step] = []
        self._chain = ""
        self._anew = False
        self._records = folder / ".steps"
        self._records.mkdir(parents=True, exist_ok=True)

    def call(self, name: str, command: str, work: Callable[[], bool], *, depends: str) -> None:
        """Do a step within this process. work: returns whether there was anything to do."""
        self._announce(name, command)
        started = time.perf_counter()
        done = work()
        self._anew |= done
        self._finish(name, command, time.perf_counter() - started, reused=not done)
        self._link(depends)

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        sources: Sequence[Path] = (),
        replaces: Sequence[Path] = (),
        makes: Sequence[Path] = (),
        verdict: bool = False,
        always: bool = False,
    ) -> None:
        """Run `python -m` with the arguments, unless it has been run on the same inputs before.

        sources: files and packages that decide the result beside the steps before. replaces: removed beforehand.
        makes: must exist for the result to be reused. verdict: status 1 is an answer, not an error. always: never
        reused (measurements).

        Raises:
            StepError: the command reports an error.
        """
        command = shlex.join(["python", "-m", *arguments])
        self._announce(name, command)
        self._link(command + fingerprint(sources))
        record = self._records / f"{len(self.steps) + 1}.json"
        if not (always or self._anew) and self._is_current(record, makes):
            self._finish(name, command, 0.0, reused=True)
            return
        record.unlink(missing_ok=True)
        for path in replaces:
            if path.exists():
                shutil.rmtree(path)
        started = time.perf_counter()
        # Threads that wait asleep cost nothing measurable on an idle machine and a great deal less on a busy one.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONUNBUFFERED": "1"}
        status = subprocess.run([sys.executable, "-m", *arguments], env=environment, check=False).returncode
        if status != 0 and not (verdict and status == 1):
            raise StepError(f"{command} ended with status {status}")
        if not always:
            record.write_text(json.dumps({"key": self._chain}))
            self._anew = True
        self._finish(name, command, time.perf_counter() - started, reused=False)

    def _is_current(self, record: Path, makes: Sequence[Path]) -> bool:
        if not record.is_file() or not all(path.exists() for path in makes):
            return False
        try:
            return bool(json.loads(record.read_text())["key"] == self._chain)
        except (ValueError, KeyError, TypeError):
            return False

    def _link(self, part: str) -> None:
        self._chain = hashlib.sha256((self._chain + part).encode()).hexdigest()

    def _announce(self, name: str, command: str) -> None:
        bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
        print(f"\n{bold}[{len(self.steps) + 1}] {name}{plain}\n    {command}", flush=True)

    def _finish(self, name: str, command: str, seconds: float, *, reused: bool) -> None:
        print("    reused: nothing it depends on has changed" if reused else f"    done in {seconds:.1f} s", flush=True)
        self.steps.append(Step(name, seconds, command, reused))

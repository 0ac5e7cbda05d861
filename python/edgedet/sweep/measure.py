"""Runs the contenders: one at a time in processes of their own, then all by turns in this one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgedet import Detections, Error, __version__, read_image
from edgedet.bundle import load_model_json, sha256_of
from edgedet.sweep.child import unpack
from edgedet.sweep.contenders import Contender
from edgedet.sweep.journal import Journal
from edgedet.sweep.prepare import prepare, runnable
from edgedet.turns import take_turns
from edgedet.verdict import spec_digests

_TIMED_IMAGES = 8

if TYPE_CHECKING:  # collections.abc's types take no arguments on Python 3.8
    Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Alone:
    """What a process of its own found out about an engine.

    Attributes:
        facts: build_s, model_mb, rss_mb, vram_mb, device, threads, verified; empty if it does not run.
        detections: Per image.
        reason: Why it does not run.
    """

    facts: Mapping[str, Any]
    detections: Sequence[Detections]
    reason: str = ""


class Measurements:
    """Everything that is measured, through a journal.

    Args:
        backend: From ``choose_backend``.
        images: Files, in the order of the dataset.
        threads: For all engines, 0 for the backend's choice.
        journal: What is known already.
        progress: Told (stage, done, total).
    """

    def __init__(
        self,
        backend: Mapping[str, Any],
        images: Sequence[Path],
        *,
        threads: int,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._backend, self._images, self._threads = backend, images, threads
        self._journal, self._progress = journal, progress
        self._about = {
            "edgedet": __version__,
            "device": backend["detail"],
            "backend": backend["name"],
            "threads": threads,
            "images": [sha256_of(path) for path in images],
        }

    def alone(self, contender: Contender) -> Alone:
        """An engine's detections, memory and cost, by a fresh process or from the journal."""
        key = self._key(contender)
        path = self._journal.path(key, "npz")
        facts = self._journal.read(key)
        classes = load_model_json(contender.bundle)["classes"]
        if facts is not None:
            try:
                return Alone(facts, unpack(path, classes))
            except (OSError, ValueError, KeyError, Error):
                pass  # damaged: measured again
        self._journal.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            request = {
                "bundle": str(self._bundle(contender, Path(scratch)).resolve()),
                "backend": self._backend["name"],
                "precision": contender.precision,
                "threads": self._threads,
                "calibrator": contender.calibrator,
                "images": [str(image) for image in self._images],
                "out": str(path),
            }
            total = len(self._images)
            answer = run_child(request, lambda done: self._progress(contender.name, done, total))
        if "error" in answer:
            return Alone({}, [], answer["error"])  # not kept: what was in its way may be gone next time
        self._journal.write(key, answer["facts"])
        return Alone(answer["facts"], unpack(path, classes))

    def together(self, contenders: Sequence[Contender], *, turns: int) -> NDArray[np.float64]:
        """(contenders, turns) milliseconds from frame in memory to detections."""
        key = {"turns": turns, "of": [self._key(contender) for contender in contenders]}
        known = self._journal.read(key)
        if known is not None:
            return np.array(known["ms"], np.float64)
        frames = [read_image(image) for image in self._images[:_TIMED_IMAGES]]
        with tempfile.TemporaryDirectory() as scratch:
            detectors = [
                prepare(
                    self._bundle(contender, Path(scratch)),
                    backend=self._backend["name"],
                    precision=contender.precision,
                    threads=self._threads,
                    calibrator=contender.calibrator,
                ).detector
                for contender in contenders
            ]
            taken = take_turns(
                detectors, frames, turns=turns, progress=lambda done, total: self._progress("time", done, total)
            )
        self._journal.write(key, {"ms": taken.tolist()})
        return taken

    def _bundle(self, contender: Contender, scratch: Path) -> Path:
        return runnable(
            contender.bundle,
            file=contender.file,
            backend=self._backend["name"],
            precision=contender.precision,
            scratch=scratch,
        )

    def _key(self, contender: Contender) -> dict[str, Any]:
        spec = load_model_json(contender.bundle)
        report = spec["files"].get("report.json", {}).get("sha256", "")
        return {
            **self._about,
            "model": spec["files"][contender.file]["sha256"],
            "spec": spec_digests(spec),
            "precision": contender.precision,
            "calibrator": contender.calibrator,
            "report": report,
        }


def run_child(request: Mapping[str, Any], progress: Callable[[int], None]) -> dict[str, Any]:
    """Runs `edgedet.sweep.child`: its facts, or an error in whichever way it ended."""
    command = [sys.executable, "-m", "edgedet.sweep.child"]
    answer: dict[str, Any] = {}
    with tempfile.TemporaryFile() as errors, subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request))
            process.stdin.close()
            for line in process.stdout:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # a library that prints
                if isinstance(message, dict) and "done" in message:
                    progress(message["done"])
                elif isinstance(message, dict):
                    answer = message
            code = process.wait()
        except BrokenPipeError:
            code = process.wait()
        finally:
            process.kill()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    if answer and code == 0:
        return answer
    if code == -signal.SIGKILL:
        return {"error": "its process was killed, most likely for want of memory; close other programs or add swap"}
    if code < 0:
        return {"error": f"its process crashed ({signal.Signals(-code).name}); please report it"}
    return {"error": f"its process failed: {said[-1] if said else f'exit status {code}'}"}

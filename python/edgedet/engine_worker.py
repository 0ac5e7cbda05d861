"""The process that builds an engine: a request as JSON on stdin, events as lines of JSON on stdout.

What is reported is in :mod:`edgedet.engines`, which starts it. SIGTERM stops the build as soon as TensorRT lets it, so
that no half-written file is left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from edgedet import Error, _core
from edgedet.engine_options import EngineOptions, core_options

_HEARTBEAT_S = 1.0


class _Events:
    """Writes events, from any thread. Who reads them has ended if that fails, and then so does this process."""

    def __init__(self, pipe: TextIO) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def __call__(self, event: str, **values: Any) -> None:
        try:
            with self._lock:
                self._pipe.write(json.dumps({"event": event, **values}) + "\n")
                self._pipe.flush()
        except OSError:
            os._exit(1)


def main() -> None:
    """Builds what the request asks for."""
    events = _Events(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no event
    stopped = _stopped_by_sigterm()
    threading.Thread(target=_beat, args=(events,), daemon=True).start()

    request = json.load(sys.stdin)
    try:
        engine = EngineOptions(**_with_tuple(request.pop("engine")))
        _tell_memory(events, engine.device)

        def progress(phase: str, step: int, of: int) -> bool:
            events("progress", phase=phase, step=step, of=of)
            return not stopped.is_set()

        result = _core.prepare(**request, engine=core_options(engine, Path(request["bundle"])), progress=progress)
    except Error as error:
        events("error", kind=type(error).__name__, message=str(error))
    else:
        events("result", **result)


def _with_tuple(engine: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in engine.items()}


def _tell_memory(events: _Events, index: int) -> None:
    devices, _ = _core.cuda_devices()
    for device in devices:
        if device["index"] == index:
            events("memory", free_mb=device["free_bytes"] >> 20, total_mb=device["total_bytes"] >> 20)


def _stopped_by_sigterm() -> threading.Event:
    """Set by SIGTERM, also while this thread is in the builder, where no handler of Python's runs."""
    stopped = threading.Event()
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        os.read(read, 1)
        stopped.set()

    threading.Thread(target=wait, daemon=True).start()
    return stopped


def _beat(events: _Events) -> None:
    while not threading.Event().wait(_HEARTBEAT_S):
        events("alive")

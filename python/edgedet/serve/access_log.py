"""One JSON object a line for each request, written outside the event loop: a full disk or pipe stops no request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from typing import Any, TextIO

_EVERY = 0.25  # seconds
_KEPT = 20_000  # lines that wait for the file; the oldest are lost after that


class AccessLog:
    """Gathers lines and writes them in turns."""

    def __init__(self, file: TextIO | None) -> None:
        """file: None for no log."""
        self._file = file
        self._lines: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to write, in the running loop."""
        if self._file is not None:
            self._task = asyncio.get_running_loop().create_task(self._write_forever())

    def add(self, **values: Any) -> None:
        """values: of one request; the time is added."""
        if self._file is not None:
            self._lines.append({"time": round(time.time(), 3), **values})

    async def close(self) -> None:
        """Writes what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._write()

    async def _write_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_EVERY)
            if self._lines:
                await loop.run_in_executor(None, self._write)

    def _write(self) -> None:
        file = self._file
        assert file is not None
        with contextlib.suppress(OSError, IndexError):
            lines = []
            while self._lines:
                lines.append(json.dumps(self._lines.popleft(), separators=(",", ":")) + "\n")
            file.write("".join(lines))
            file.flush()

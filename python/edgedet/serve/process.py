"""The worker as the front sees it: a process, a channel to it, and what it said of itself."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from edgedet.serve import wire
from edgedet.serve.options import WorkerOptions


class WorkerProcess(asyncio.Protocol):
    """One life of the worker. `gone` is done when its channel is closed, from either side."""

    def __init__(self, on_message: Callable[[dict[str, Any], bytes], None]) -> None:
        self._on_message = on_message
        self._unpacker = wire.Unpacker()
        self._transport: Any = None
        self._process: subprocess.Popen[bytes] | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(
        cls, options: WorkerOptions, memory: int, on_message: Callable[[dict[str, Any], bytes], None]
    ) -> WorkerProcess:
        """Starts the process and tells it its options. memory: descriptor of the arena."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        worker = cls(on_message)
        with theirs:
            # A session of its own: Ctrl-C in a terminal is for the front alone.
            worker._process = subprocess.Popen(
                [sys.executable, "-m", "edgedet.serve.worker", str(theirs.fileno()), str(memory)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
                start_new_session=True,
            )
        await asyncio.get_running_loop().create_unix_connection(lambda: worker, sock=ours)
        worker.send(dataclasses.asdict(options))
        return worker

    def send(self, meta: dict[str, Any]) -> None:
        """A message to the worker; lost if it is gone, which `gone` tells."""
        if not self._transport.is_closing():  # to a closed one uvloop refuses to write
            self._transport.write(wire.pack(meta))

    def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()

    async def end(self, seconds: float) -> int:
        """Closes the channel, waits for the process, kills it if that takes longer, and returns its code."""
        self._transport.close()
        process = self._process
        assert process is not None
        waited = asyncio.get_running_loop().run_in_executor(None, process.wait)
        with contextlib.suppress(asyncio.TimeoutError):
            return await asyncio.wait_for(asyncio.shield(waited), seconds)
        process.kill()
        return await waited

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        for meta, body in self._unpacker.feed(data):
            self._on_message(meta, body)

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if not self.gone.done():
            self.gone.set_result(None)

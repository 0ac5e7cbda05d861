"""A server in a process of its own, on a free port of this machine."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class Server:
    """`process`, where it listens, and what it told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self._lines = process.stdout
        self.told: list[dict[str, Any]] = []
        self.url = self.wait_for("listening")["url"]
        where = urlsplit(self.url)
        assert where.hostname is not None
        assert where.port is not None
        self.address = (where.hostname, where.port)

    def wait_for(self, event: str) -> dict[str, Any]:
        """Reads on until the server tells of an event."""
        for line in self._lines:
            told: dict[str, Any] = json.loads(line)
            self.told.append(told)
            if told["event"] == event:
                return told
        raise AssertionError(f"the server ended without {event!r}: {self.told}")

    def rss_mb(self) -> float:
        """Memory of its two processes, pages that both share counted once, MiB."""
        total = 0
        for pid in (self.process.pid, self.worker()):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total / 1024

    def stop(self) -> int:
        """Sends SIGTERM and waits for the code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def worker(self) -> int:
        """Process id of the worker."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            pid = self.process.pid
            for task in Path(f"/proc/{pid}/task").iterdir():
                children = (task / "children").read_text().split()
                if children:
                    return int(children[0])
            time.sleep(0.01)
        raise AssertionError("no worker")


@contextlib.contextmanager
def running(*arguments: str | Path, ready: bool = True) -> Iterator[Server]:
    """`edgedet serve` on a free port of this machine; killed at the end if it still runs."""
    command = [sys.executable, "-m", "edgedet", "serve", "--port", "0", "--access-log", "off", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        server = Server(process)
        if ready:
            server.wait_for("ready")
        yield server
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

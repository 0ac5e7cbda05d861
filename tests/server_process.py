"""A server in a process of its own, for tests and for benchmarks/serving.py's tests."""

from __future__ import annotations

import contextlib
import json
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


def request(body: bytes, path: str = "/v1/detect", *, headers: str = "", method: str = "POST") -> bytes:
    """The bytes of a request."""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer; status 0 where the connection ends without one."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            assert data == b"", f"half an answer: {data!r}"
            return 0, {}, b""
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(rest) < int(headers["content-length"]):
        chunk = connection.recv(65536)
        assert chunk, "half an answer"
        rest += chunk
    return int(first.split()[1]), headers, rest


def ask(server: Server, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    with server.connect() as connection:
        connection.sendall(data)
        return answer(connection)

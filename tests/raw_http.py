"""One request at a time, byte by byte, for tests of the server."""

from __future__ import annotations

import socket

from benchmarks.serving.server import Server


def request(body: bytes, path: str = "/v1/detect", *, headers: str = "", method: str = "POST") -> bytes:
    """The bytes of a request."""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer; status 0 where the connection ends without one."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows belongs to the next answer
        byte = connection.recv(1)
        if not byte:
            assert head == b"", f"half an answer: {head!r}"
            return 0, {}, b""
        head += byte
    first, *lines = head.decode().strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    left = int(headers.get("content-length", 0))  # 100 Continue has none
    body = b""
    while len(body) < left:
        chunk = connection.recv(left - len(body))
        assert chunk, "half an answer"
        body += chunk
    return int(first.split()[1]), headers, body


def ask(server: Server, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    with server.connect() as connection:
        connection.sendall(data)
        return answer(connection)

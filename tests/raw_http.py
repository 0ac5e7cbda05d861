"""One request at a time, byte by byte, for tests of the server."""

from __future__ import annotations

import socket

from benchmarks.serving.server import Server


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

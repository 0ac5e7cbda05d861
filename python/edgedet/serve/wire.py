"""Messages between the front and the worker: two lengths, a JSON object, then bytes that belong to it."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any, Dict, Tuple

#: A message: what it says, and the bytes with it.
Message = Tuple[Dict[str, Any], bytes]

_LENGTHS = struct.Struct("<II")


def pack(meta: dict[str, Any], body: bytes = b"") -> bytes:
    """A message as it travels."""
    text = json.dumps(meta, separators=(",", ":")).encode()
    return b"".join((_LENGTHS.pack(len(text), len(body)), text, body))


def receive(channel: socket.socket) -> Message | None:
    """Waits for the next message; None when the other side has closed or is gone."""
    head = _exactly(channel, _LENGTHS.size)
    if head is None:
        return None
    meta, body = _LENGTHS.unpack(head)
    rest = _exactly(channel, meta + body)
    return None if rest is None else (json.loads(rest[:meta]), bytes(rest[meta:]))


class Unpacker:
    """Messages out of a stream that comes in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete with `data`."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _LENGTHS.size:
            meta, body = _LENGTHS.unpack_from(buffer, at)
            text = at + _LENGTHS.size
            end = text + meta + body
            if len(buffer) < end:
                break
            yield json.loads(buffer[text : text + meta]), bytes(buffer[text + meta : end])
            at = end
        del buffer[:at]


def _exactly(channel: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        try:
            count = channel.recv_into(view[got:])
        except ConnectionError:
            return None
        if count == 0:
            return None
        got += count
    return data

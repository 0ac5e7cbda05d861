"""A bounded load client for one loopback server: closed loop (throughput) and open loop (latency at a given rate).

Lean on purpose, for it shares the machine with what it measures: requests are ready-made bytes, answers are told apart
by their length alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LOST = 0  # in place of a status: the connection ended without an answer


@dataclass
class Load:
    """What came of a run. milliseconds: of answers with 200, from when the request was due. statuses: how many each."""

    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers with 200 a second."""
        return self.statuses[200] / self.seconds

    def percentile(self, percent: float) -> float:
        """Of the milliseconds."""
        return float(np.percentile(self.milliseconds, percent)) if self.milliseconds else float("nan")


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._waiting: asyncio.Future[int] | None = None
        self._buffer = bytearray()
        self._need = -1
        self.closed = False
        self.last = False

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(high=64 << 20)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if self._need < 0:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(buffer[:end]).lower()
            at = head.index(b"content-length: ") + 16
            self._need = end + 4 + int(head[at:].split(b"\r", 1)[0])
            self.last = b"connection: close" in head
        if len(buffer) >= self._need and self._waiting is not None:
            status = int(buffer[9:12])
            buffer.clear()
            self._need = -1
            waiting, self._waiting = self._waiting, None
            if not waiting.done():
                waiting.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(LOST)

    def ask(self, data: bytes) -> asyncio.Future[int]:
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self._waiting


async def _connect(address: tuple[str, int]) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(_Connection, *address)
    return connection


def request(body: bytes, kind: str, query: str = "") -> bytes:
    """A request as it travels."""
    head = f"POST /v1/detect{query} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def closed_loop(
    address: tuple[str, int], requests: Sequence[bytes], *, connections: int, count: int, load: Load | None = None
) -> Load:
    """`count` requests over so many connections, each of which asks again as soon as it is answered.

    A connection that the server closes is opened again; where nobody listens any more, the run ends.
    load: filled in as the run goes on, for whoever watches it.
    """
    load = load or Load()
    left = iter(range(count))

    async def client(connection: _Connection) -> None:
        for number in left:
            if connection.closed or connection.last:
                connection.transport.close()
                try:
                    connection = await _connect(address)
                except OSError:
                    return
            start = time.perf_counter()
            status = await connection.ask(requests[number % len(requests)])
            load.statuses[status] += 1
            if status == 200:
                load.milliseconds.append((time.perf_counter() - start) * 1e3)
        connection.transport.close()

    opened = [await _connect(address) for _ in range(connections)]
    start = time.perf_counter()
    await asyncio.gather(*map(client, opened))
    load.seconds = time.perf_counter() - start
    return load


async def open_loop(
    address: tuple[str, int], requests: Sequence[bytes], *, rate: float, seconds: float, connections: int
) -> Load:
    """Requests at random times (Poisson, seeded), `rate` a second, whatever the server does.

    The clock of a request starts when it is due: what waits for a free connection counts.
    """
    load = Load()
    chance = random.Random(0)
    idle: deque[_Connection] = deque([await _connect(address) for _ in range(connections)])
    freed = asyncio.Condition()
    start = time.perf_counter()

    async def one(number: int, due: float) -> None:
        async with freed:
            await freed.wait_for(lambda: bool(idle))
            connection = idle.popleft()
        if connection.closed:
            connection = await _connect(address)
        status = await connection.ask(requests[number % len(requests)])
        load.statuses[status] += 1
        if status == 200:
            load.milliseconds.append((time.perf_counter() - start - due) * 1e3)
        async with freed:
            idle.append(connection)
            freed.notify()

    due, tasks = 0.0, []
    while due < seconds:
        await asyncio.sleep(start + due - time.perf_counter())
        tasks.append(asyncio.ensure_future(one(len(tasks), due)))
        due += chance.expovariate(rate)
    await asyncio.gather(*tasks)
    load.seconds = time.perf_counter() - start
    for connection in idle:
        connection.transport.close()
    return load

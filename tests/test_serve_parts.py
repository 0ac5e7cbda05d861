"""The parts of the server that need no process: memory, queue, messages, JSON depth, metrics, batches."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import uvicorn

from edgedet import Detections, Detector, ModelError, StageTimes
from edgedet.serve import wire
from edgedet.serve.arena import Arena, Region
from edgedet.serve.depth import nested_deeper
from edgedet.serve.fair_queue import FairQueue
from edgedet.serve.http_protocol import limited_protocol
from edgedet.serve.intake import Intake
from edgedet.serve.lane import Lane, Ready
from edgedet.serve.metrics import Counter, Histogram
from edgedet.serve.payload import Work
from edgedet.serve.process import WorkerProcess
from edgedet.serve.refusal import RefusedError
from edgedet.serve.run import _new_loop, _Server


def test_an_arena_never_gives_a_byte_twice() -> None:
    arena = Arena(64 * 4096)
    regions: list[Region] = []
    for _ in range(3000):
        if regions and random.random() < 0.5:
            arena.free(regions.pop(random.randrange(len(regions))))
        elif region := arena.allocate(random.randrange(1, 40_000)):
            if random.random() < 0.3:
                region = arena.shrink(region, random.randrange(1, region.size + 1))
            regions.append(region)
        taken = np.zeros(64, int)
        for start, size in regions:
            assert start % 4096 == 0
            taken[start // 4096 : -(-(start + size) // 4096)] += 1
        assert taken.max(initial=0) <= 1
        assert arena.used == taken.sum() * 4096
    for region in regions:
        arena.free(region)
    assert arena.allocate(64 * 4096) == Region(0, 64 * 4096)  # whole again
    assert arena.allocate(1) is None
    arena.close()


def test_clients_take_turns() -> None:
    queue: FairQueue[str] = FairQueue(10)
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        assert queue.put(item[0], item) is None
    assert [queue.take() for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "a3", None]


def test_a_full_queue_turns_the_greediest_away() -> None:
    queue: FairQueue[str] = FairQueue(3)
    for item in ("a1", "a2", "a3"):
        assert queue.put("a", item) is None
    assert queue.put("a", "a4") == "a4"
    assert queue.put("b", "b1") == "a3"
    assert queue.put("b", "b2") == "b2"  # both have one or two now: it would only turn the tables
    assert len(queue) == 3
    queue.put_first("b", "b0")
    queue.remove("a", "a1")
    assert [queue.take() for _ in range(4)] == ["b0", "a2", "b1", None]


def test_messages_in_pieces() -> None:
    messages: list[wire.Message] = [({"id": n, "text": "ü" * n}, b"\0" * (n * 1000)) for n in range(20)]
    stream = b"".join(wire.pack(*message) for message in messages)
    unpacker, got, at = wire.Unpacker(), [], 0
    while at < len(stream):
        size = random.randrange(1, 5000)
        got += list(unpacker.feed(stream[at : at + size]))
        at += size
    assert got == messages
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Thread(target=lambda: (theirs.sendall(stream + b"\1\0"), theirs.close())).start()
        assert [wire.receive(ours) for _ in messages] == messages
        assert wire.receive(ours) is None  # cut off in the middle of a message


@pytest.mark.parametrize(
    ("text", "limit", "deeper"),
    [
        (b"1", 1, False),
        (b'{"a": [1, {"b": []}]}', 4, False),
        (b'{"a": [1, {"b": []}]}', 3, True),
        (b'{"a": "[[[[[["}', 1, False),
        (b'{"a": "\\"[[[[\\\\"}', 1, False),
        (b'{"a": "x\\n", "b": "[["}', 1, False),
        (b'["\\\\", [[]]]', 2, True),
        (b"[]" * 10_000, 1, False),
        (b"[" * 1_000_000 + b"]" * 1_000_000, 16, True),
        (b"[" * 1_000_000, 16, True),
        (b"[}", 16, True),
    ],
)
def test_depth_of_json(text: bytes, limit: int, deeper: bool) -> None:
    start = time.perf_counter()
    assert nested_deeper(text, limit) is deeper
    assert time.perf_counter() - start < 1


def test_counters_and_histograms_are_text() -> None:
    counter = Counter("c", "Text.", ("who",))
    counter.add('a"\\\n', amount=2)
    assert list(counter.lines()) == ['c{who="a\\"\\\\\\n"} 2']
    histogram = Histogram("h", "Text.", (), (1, 2.5))
    for value in (0.5, 1, 2, 3):
        histogram.observe(value)
    assert list(histogram.lines()) == [
        'h_bucket{le="1"} 2',
        'h_bucket{le="2.5"} 3',
        'h_bucket{le="+Inf"} 4',
        "h_sum 6.5",
        "h_count 4",
    ]


def messages(*chunks: bytes) -> Any:
    left = [{"type": "http.request", "body": chunk, "more_body": n < len(chunks)} for n, chunk in enumerate(chunks, 1)]

    async def receive() -> Any:
        if not left:
            await asyncio.sleep(60)
        return left.pop(0)

    return receive


def test_bodies_within_limits() -> None:
    async def run() -> None:
        intake = Intake(4 << 20, 1 << 20, 0.05)
        region = await intake.read(6, messages(b"abc", b"def"), "a")
        assert intake.arena.memory[region.start : region.start + region.size] == b"abcdef"
        unknown = await intake.read(None, messages(b"xyz"), "a")
        assert (unknown.size, intake.arena.used) == (3, 2 * 4096)
        intake.release("a", region)
        intake.release("a", unknown)
        for length, receive, status in (
            (2 << 20, messages(b""), 413),
            (None, messages(b"x" * (1 << 19), b"x" * (1 << 19), b"x"), 413),
            (4, messages(b""), 400),
        ):
            with pytest.raises(RefusedError) as refused:
                await intake.read(length, receive, "a")
            assert refused.value.status == status
        slow = [{"type": "http.request", "body": b"x", "more_body": True}]

        async def trickle() -> Any:
            await asyncio.sleep(0.02)
            return slow[0]

        with pytest.raises(RefusedError, match=r"0\.05 s"):
            await intake.read(100, trickle, "a")
        assert intake.arena.used == 0
        # A client holds half of the memory at the most; another one still finds room.
        held = [await intake.read(1 << 20, messages(b"x" * (1 << 20)), "a") for _ in range(2)]
        with pytest.raises(RefusedError) as refused:
            await intake.read(1 << 20, messages(b"x"), "a")
        assert refused.value.status == 429
        other = await intake.read(1 << 20, messages(b"x" * (1 << 20)), "b")
        for client, region in (*(("a", one) for one in held), ("b", other)):
            intake.release(client, region)
        assert intake.arena.used == 0
        intake.close()

    asyncio.run(run())


class Recorder:
    """In the place of a Detector: what ran together; images of 0 spoil a batch."""

    class info:  # noqa: N801
        backend, requests, name = "tensorrt", 1, "fake"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def detect_timed(self, images: list[Any], *, format: str) -> tuple[list[Detections], StageTimes]:
        self.batches.append(len(images))
        if any(image[0, 0] == 0 for image in images):
            raise ModelError("NaN")
        found = [
            Detections(
                np.zeros((1, 4), np.float32), np.array([image[0, 0] / 255], np.float32), np.zeros(1, np.int32), ["a"]
            )
            for image in images
        ]
        return found, StageTimes(1.0, 2.0, 3.0)


class Answers:
    def __init__(self) -> None:
        self.got: list[tuple[int, float | int]] = []
        self.changed = threading.Condition()

    def request(self, number: int, value: int, *, images: int = 1, deadline: float = 60.0) -> Ready:
        def done(ready: Ready, found: Sequence[Detections], refusal: RefusedError | None) -> None:
            with self.changed:
                self.got.append((number, refusal.status if refusal else float(found[0].scores[0])))
                self.changed.notify()

        work = Work([np.full((2, 2), value, np.uint8)] * images, "gray", 0.0, None, None)
        return Ready(work, time.monotonic() + deadline, done)

    def wait(self, count: int) -> list[tuple[int, float | int]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.got) >= count, 10)
        return sorted(self.got)


def test_requests_wait_for_each_other_only_while_others_come() -> None:
    detector, answers, coming = Recorder(), Answers(), [0]
    lane = Lane(cast(Detector, detector), max_batch=4, wait=5.0, coming=lambda: coming[0])
    start = time.monotonic()
    lane.put(answers.request(0, 255))
    answers.wait(1)
    assert time.monotonic() - start < 2.0  # alone: not held back
    coming[0] = 1
    for number in range(1, 5):
        lane.put(answers.request(number, 255))
    answers.wait(5)
    assert detector.batches == [1, 4]
    assert time.monotonic() - start < 4.0  # full: not held back


def test_a_batch_waits_no_longer_than_the_bound() -> None:
    detector, answers = Recorder(), Answers()
    lane = Lane(cast(Detector, detector), max_batch=4, wait=0.1, coming=lambda: 1)
    start = time.monotonic()
    lane.put(answers.request(0, 255))
    answers.wait(1)
    assert 0.1 <= time.monotonic() - start < 2.0


def test_who_spoils_a_batch_spoils_only_its_own_answer() -> None:
    detector, answers, coming = Recorder(), Answers(), [1]
    lane = Lane(cast(Detector, detector), max_batch=3, wait=5.0, coming=lambda: coming[0])
    for number, value in enumerate((255, 0, 51)):
        lane.put(answers.request(number, value))
    assert answers.wait(3) == [(0, 1.0), (1, 500), (2, pytest.approx(0.2))]
    assert detector.batches == [3, 1, 1, 1]


def test_expired_requests_leave_a_batch() -> None:
    detector, answers = Recorder(), Answers()
    lane = Lane(cast(Detector, detector), max_batch=2, wait=5.0, coming=lambda: 1)
    lane.put(answers.request(0, 255, deadline=-1.0))
    lane.put(answers.request(1, 255))
    assert answers.wait(2) == [(0, 504), (1, 1.0)]
    assert detector.batches == [1]


def test_what_is_sent_to_a_worker_that_is_gone_is_lost_and_no_error() -> None:
    """It is known to be gone a moment later than its channel is closed; a request in between is for the next one."""

    async def send() -> None:
        worker = WorkerProcess(lambda meta, body: None)
        ours, theirs = socket.socketpair()
        with theirs:
            await asyncio.get_running_loop().create_unix_connection(lambda: worker, sock=ours)
        await worker.gone
        await asyncio.sleep(0.01)
        worker.send({"op": "detect"})

    loop = _new_loop()
    loop.run_until_complete(send())
    loop.close()


def test_who_is_connected_when_listening_ends_is_answered() -> None:
    """Connected, in the system's queue: the server has not seen it, and the client has asked."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"here"})

    async def serve(sock: socket.socket) -> None:
        config = uvicorn.Config(app, http=limited_protocol(1.0, 1.0), lifespan="off", log_config=None)
        config.load()
        server = _Server(config)
        server.lifespan, server.servers = config.lifespan_class(config), []
        await server.shutdown([sock])

    with socket.create_server(("127.0.0.1", 0)) as sock, socket.create_connection(sock.getsockname()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        asyncio.run(serve(sock))
        client.settimeout(5.0)
        assert client.recv(4096).endswith(b"\r\n\r\nhere")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(client.getpeername(), timeout=5.0)

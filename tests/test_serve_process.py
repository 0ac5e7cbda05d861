"""The server as a process: signals, a killed worker, overload, and clients that are slow, huge or hostile."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_http import answer, ask, request
from test_serve import ORANGE, check, make_bundle

from benchmarks.serving.server import Server, running
from edgedet import Detector

GET_READY = request(b"", "/readyz", method="GET")


def slow_picture() -> bytes:
    """Takes a few hundred milliseconds to decode: noise, 9 megapixels."""
    noise = np.random.default_rng(0).integers(0, 256, (3000, 3000), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=1)
    return file.getvalue()


SLOW = request(slow_picture())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("serve") / "tiny")


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    limits = ["--threads", "1", "--header-timeout", "1", "--body-timeout", "1", "--max-upload", "16"]
    with running(bundle, *limits) as one:
        yield one


class Crowd:
    """Requests at the same time, each on a connection of its own."""

    def __init__(self, server: Server, count: int, data: bytes) -> None:
        self.statuses: list[int] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()
        self._sent = threading.Semaphore(0)
        self._count = count
        self._threads = [threading.Thread(target=self._run, args=(server, data)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, server: Server, data: bytes) -> None:
        with server.connect() as connection:
            connection.sendall(data)
            self._sent.release()
            status, headers, _ = answer(connection)
        with self._lock:
            self.statuses.append(status)
            self.headers.append(headers)

    def wait_until_sent(self) -> None:
        for _ in range(self._count):
            assert self._sent.acquire(timeout=30)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def metric(server: Server, name: str) -> float:
    text = ask(server, request(b"", "/metrics", method="GET"))[2].decode()
    return float(dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#").get(name, 0))


def wait_for_metric(server: Server, name: str, least: float) -> None:
    until = time.monotonic() + 30
    while metric(server, name) < least:
        assert time.monotonic() < until, f"{name} never reached {least}"
        time.sleep(0.01)


def test_sigterm_answers_what_was_accepted(bundle: Path) -> None:
    with running(bundle, "--threads", "1", "--drain-delay", "0.5") as server:
        idle = server.connect()
        crowd = Crowd(server, 12, SLOW)
        wait_for_metric(server, "edgedet_accepted_total", 12)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        status, headers, _ = ask(server, GET_READY)
        assert (status, headers["connection"]) == (503, "close")
        assert ask(server, request(ORANGE))[0] == 200  # who has not heard of it yet is still answered
        crowd.join()
        assert crowd.statuses == [200] * 12
        assert server.wait_for("stopped") == {"event": "stopped", "accepted": 13, "answered": 13}
        assert server.process.wait(30) == 0
        assert idle.recv(1) == b""
        idle.close()


def test_a_killed_worker_loses_no_request(bundle: Path) -> None:
    with running(bundle, "--threads", "1") as server:
        crowd = Crowd(server, 12, SLOW)
        wait_for_metric(server, "edgedet_in_flight", 2)
        os.kill(server.worker(), signal.SIGKILL)
        crowd.join()
        assert crowd.statuses == [200] * 12
        assert metric(server, "edgedet_worker_restarts_total") == 1
        assert metric(server, "edgedet_answered_total") == metric(server, "edgedet_accepted_total") == 12
        assert metric(server, "edgedet_buffered_bytes") == 0
        assert ask(server, request(ORANGE))[0] == 200


def test_who_kills_two_workers_is_told_so(bundle: Path) -> None:
    with running(bundle, "--threads", "1") as server:
        crowd = Crowd(server, 1, SLOW)
        for lost in range(2):
            wait_for_metric(server, "edgedet_worker_restarts_total", lost)
            wait_for_metric(server, "edgedet_in_flight", 1)
            os.kill(server.worker(), signal.SIGKILL)
        crowd.join()
        assert crowd.statuses == [503]
        assert crowd.headers[0]["retry-after"] == "1"
        wait_for_metric(server, "edgedet_ready", 1)
        assert ask(server, request(ORANGE))[0] == 200


def test_the_worker_ends_with_a_killed_front(bundle: Path) -> None:
    with running(bundle, "--threads", "1") as server:
        worker = server.worker()
        os.kill(worker, signal.SIGTERM)  # as a service manager does; not its business
        assert ask(server, request(ORANGE))[0] == 200
        server.process.kill()
        server.process.wait()
        until = time.monotonic() + 30
        while Path(f"/proc/{worker}").exists():
            assert time.monotonic() < until, "the worker outlives its front"
            time.sleep(0.02)


def test_overload_is_429_and_nothing_else(bundle: Path) -> None:
    with running(bundle, "--threads", "1", "--queue", "2") as server:
        crowd = Crowd(server, 24, SLOW)
        crowd.join()
        assert set(crowd.statuses) == {200, 429}
        for status, headers in zip(crowd.statuses, crowd.headers, strict=True):
            assert status == 200 or int(headers["retry-after"]) >= 1
        rejects = [metric(server, f'edgedet_rejects_total{{reason="{reason}"}}') for reason in ("queue", "memory")]
        assert sum(rejects) == crowd.statuses.count(429)
        assert metric(server, "edgedet_buffered_bytes") == 0
        assert ask(server, request(ORANGE))[0] == 200


def test_a_deadline_in_the_queue(bundle: Path) -> None:
    with running(bundle, "--threads", "1") as server:
        crowd = Crowd(server, 8, SLOW)
        wait_for_metric(server, "edgedet_queue_depth", 1)
        start = time.monotonic()
        status, _, body = ask(server, request(ORANGE, headers="X-Timeout-Ms: 30\r\n"))
        assert time.monotonic() - start < 1.0
        assert (status, json.loads(body)["error"].startswith("the time of this request ran out")) == (504, True)
        crowd.join()
        assert crowd.statuses == [200] * 8
        assert metric(server, 'edgedet_images_total{model="tiny"}') == 8


def test_who_leaves_the_queue_is_not_run(bundle: Path) -> None:
    with running(bundle, "--threads", "1") as server:
        crowd = Crowd(server, 8, SLOW)
        wait_for_metric(server, "edgedet_queue_depth", 1)
        with server.connect() as connection:
            connection.sendall(request(ORANGE))
            wait_for_metric(server, "edgedet_accepted_total", 9)
        crowd.join()
        assert crowd.statuses == [200] * 8
        wait_for_metric(server, 'edgedet_rejects_total{reason="gone"}', 1)
        assert metric(server, 'edgedet_images_total{model="tiny"}') == 8
        assert metric(server, "edgedet_buffered_bytes") == 0


def still_serves(server: Server) -> None:
    status, _, body = ask(server, request(ORANGE))
    assert status == 200
    assert json.loads(body)["results"][0]["width"] == 80


def test_a_header_that_trickles(server: Server) -> None:
    connections = [server.connect() for _ in range(20)]
    for connection in connections:
        connection.sendall(b"POST /v1/detect HTTP/1.1\r\nX-Slow: ")
    start = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - start < 8:
            for connection in connections:
                connection.sendall(b"a")
            time.sleep(0.1)
            still_serves(server)
    assert time.monotonic() - start < 4
    for connection in connections:
        connection.close()


def test_nothing_at_all(server: Server) -> None:
    with server.connect() as connection:
        start = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.5 < time.monotonic() - start < 4


def test_a_body_that_trickles(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(request(ORANGE)[:-40])
        start = time.monotonic()
        status, headers, _ = answer(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert time.monotonic() - start < 4
    still_serves(server)


def test_a_refused_body_that_trickles(server: Server) -> None:
    """The refusal comes before the body; the connection does not stay open for the rest of it."""
    with server.connect() as connection:
        connection.sendall(b"POST /v2/models/none/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        assert answer(connection)[0] == 404
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - start < 8:
                connection.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - start < 6
    still_serves(server)


def test_a_client_that_leaves(server: Server) -> None:
    for part in (50, -10, None):
        with server.connect() as connection:
            connection.sendall(request(ORANGE)[:part])
    still_serves(server)
    until = time.monotonic() + 10
    while metric(server, "edgedet_buffered_bytes"):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), {400}),
        (b"GET / HTTP/9.9\r\n\r\n", {400}),
        (b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", {400}),
        (b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", {400}),
        (b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 17000000\r\n\r\n", {413}),
        (b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", {400}),
        (b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", {0, 400}),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000, {400}),
        (b"GET /" + b"a" * 1_000_000, {400}),
        (b"DELETE /v1/detect HTTP/1.1\r\nHost: x\r\n\r\n", {405}),
        (b"GET /v1/detect/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
        (b"GET /%00%ff HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
    ],
)
def test_hostile_requests(data: bytes, statuses: set[int], server: Server) -> None:
    with server.connect() as connection:
        try:
            connection.sendall(data)
            assert answer(connection)[0] in statuses
        except ConnectionResetError:
            assert 400 in statuses
    still_serves(server)


@pytest.mark.parametrize("pieces", [1, 7, 300])
def test_large_bodies_arrive_whole(pieces: int, server: Server, bundle: Path) -> None:
    """Whatever the pieces, the pixels are those that were sent; the connection goes on, also for what is pipelined."""
    pixels = np.random.default_rng(3).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    expected = Detector(bundle, threads=1)(pixels).filter(0.3)
    data = request(pixels.tobytes(), "/v1/detect?width=800&height=600", headers="Expect: 100-continue\r\n")
    data += request(ORANGE)
    with server.connect() as connection:
        for _ in range(3):
            for part in np.array_split(np.frombuffer(data, np.uint8), pieces):
                connection.sendall(part.tobytes())
                if pieces > 1:
                    time.sleep(0.001)
            status, _, body = answer(connection)
            if status == 100:
                status, _, body = answer(connection)
            assert status == 200
            check(json.loads(body)["results"][0], expected)
            assert answer(connection)[0] == 200


def test_more_bytes_than_announced_are_the_next_request(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(request(ORANGE) + request(ORANGE) + request(b"", "/healthz", method="GET"))
        assert [answer(connection)[0] for _ in range(3)] == [200, 200, 200]


def test_odd_images_by_many(server: Server, shared: Path) -> None:
    files = sorted(file for file in (shared / "data" / "odd_images").iterdir() if file.suffix != ".tsv")
    statuses: set[int] = set()

    def send(part: list[Path]) -> None:
        with server.connect() as connection:
            for file in part:
                connection.sendall(request(file.read_bytes()))
                statuses.add(answer(connection)[0])

    threads = [threading.Thread(target=send, args=(files[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert statuses == {200, 422}
    assert metric(server, "edgedet_worker_restarts_total") == 0
    still_serves(server)


def test_too_many_connections(bundle: Path) -> None:
    with running(bundle, "--threads", "1", "--max-connections", "5") as server:
        kept = [server.connect() for _ in range(6)]
        time.sleep(0.2)
        assert ask(server, GET_READY)[0] == 503
        for connection in kept:
            connection.close()
        time.sleep(0.2)
        still_serves(server)


def test_tls(bundle: Path, tmp_path: Path) -> None:
    import ssl

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    with running(bundle, "--threads", "1", "--tls-cert", certificate, "--tls-key", key) as server:
        context = ssl.create_default_context(cafile=str(certificate))
        with context.wrap_socket(server.connect(), server_hostname="127.0.0.1") as connection:
            connection.sendall(request(ORANGE))
            assert answer(connection)[0] == 200
    code, error = refused(bundle, "--tls-cert", certificate, "--tls-key", certificate)
    assert code == 2
    assert "PEM" in error


def refused(*arguments: str | Path) -> tuple[int, str]:
    """Code and stderr of a server that does not start."""
    command = [sys.executable, "-m", "edgedet", "serve", "--port", "0", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_what_cannot_be_served_is_said(bundle: Path, tmp_path: Path) -> None:
    code, error = refused(tmp_path)
    assert code == 2
    assert error.startswith("error: ")
    code, error = refused(bundle, bundle)
    assert code == 2
    assert "NAME=BUNDLE" in error
    code, error = refused(bundle, "--precision", "int8")
    assert code == 2
    assert "int8" in error
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, error = refused(bundle, "--port", str(taken.getsockname()[1]))
    assert code == 2
    assert "--port" in error


def test_two_models_by_name_and_a_log(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with running(f"first={bundle}", f"second={bundle}", "--threads", "1", "--access-log", log) as server:
        _, _, body = ask(server, request(ORANGE, "/v1/detect?model=second"))
        assert json.loads(body)["model"] == "second"
        assert json.loads(ask(server, request(ORANGE))[2])["model"] == "first"
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(row["method"], row["path"], row["status"], row["received"]) for row in rows] == [
        ("POST", "/v1/detect", 200, len(ORANGE))
    ] * 2
    assert all(row["ms"] > 0 and row["client"] == "127.0.0.1" for row in rows)

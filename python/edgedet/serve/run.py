"""The front process: listens, serves, and stops without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import uvicorn

from edgedet import Error, InvalidInputError
from edgedet.serve.access_log import AccessLog
from edgedet.serve.app import create_app
from edgedet.serve.dispatch import Dispatcher
from edgedet.serve.http_protocol import limited_protocol
from edgedet.serve.options import FrontOptions, WorkerOptions

_KEEP_ALIVE = 30  # seconds that an idle connection stays open
_BACKLOG = 1024


@dataclass(frozen=True)
class Listen:
    """Where, and with which certificate and key (files, PEM; None: plain HTTP)."""

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: str | None = None
    key: str | None = None


def serve(worker: WorkerOptions, front: FrontOptions, listen: Listen, *, log: TextIO | None) -> int:
    """Serves until SIGTERM or SIGINT.

    Returns:
        0 when everything that was accepted was answered.

    Raises:
        InvalidInputError: It cannot listen there.
        Error: The models cannot be loaded.
    """
    dispatcher = Dispatcher(worker, front)
    app = create_app(dispatcher, log=AccessLog(log))
    with _listening(listen.host, listen.port) as sock:
        config = uvicorn.Config(
            app,
            http=limited_protocol(front.header_timeout, front.body_timeout),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=front.max_connections,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(front.drain_timeout)),
            ssl_certfile=listen.certificate,
            ssl_keyfile=listen.key,
        )
        try:
            config.load()
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"the certificate and its key cannot be used ({error}); expected PEM files"
            ) from None
        scheme = "https" if listen.certificate else "http"
        host, port = sock.getsockname()[:2]
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        loop = _new_loop()
        try:
            loop.run_until_complete(_serve(_Server(config), sock, dispatcher, url))
        finally:
            loop.close()
    if dispatcher.failed is not None:
        raise Error(dispatcher.failed)
    accepted, answered = dispatcher.metrics.accepted.value(), dispatcher.metrics.answered.value()
    _tell(event="stopped", accepted=int(accepted), answered=int(answered))
    return 0 if accepted == answered else 1


async def _serve(server: _Server, sock: socket.socket, dispatcher: Dispatcher, url: str) -> None:
    loop = asyncio.get_running_loop()

    def drain() -> None:
        if dispatcher.draining:  # asked twice: at once
            server.should_exit = server.force_exit = True
            return
        dispatcher.draining = True
        _tell(event="draining", seconds=dispatcher.front.drain_delay)
        loop.call_later(dispatcher.front.drain_delay, stop)

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain)
    _tell(event="listening", url=url)
    teller = loop.create_task(_tell_ready(dispatcher, stop, url))
    await server.serve(sockets=[sock])
    teller.cancel()


async def _tell_ready(dispatcher: Dispatcher, stop: object, url: str) -> None:
    while not dispatcher.ready:
        await asyncio.sleep(0.02)
        if dispatcher.failed is not None:
            assert callable(stop)
            stop()
            return
    for card in dispatcher.cards:
        verdict = card["verdict"]["text"] if card["precision"] != "fp32" else None
        _tell(
            event="ready",
            url=url,
            model=card["name"],
            backend=card["backend"],
            precision=card["precision"],
            verdict=verdict,
        )


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would stop listening at once, and end with the signal's code."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes in who is connected already, in the system's queue: to close that would cut them off."""
        loop = asyncio.get_running_loop()
        late = [loop.create_task(self._take_in(one)) for sock in sockets or () for one in _waiting(sock)]
        await super().shutdown(sockets)
        await asyncio.gather(*late, return_exceptions=True)

    async def _take_in(self, connection: socket.socket) -> None:
        loop: Any = asyncio.get_running_loop()
        _, protocol = await loop.connect_accepted_socket(
            lambda: self.config.http_protocol_class(
                config=self.config,  # type: ignore[call-arg]
                server_state=self.server_state,
                app_state=self.lifespan.state,
            ),
            connection,
            ssl=self.config.ssl,
        )
        protocol.shutdown()  # answers what comes, and closes


def _waiting(sock: socket.socket) -> Iterator[socket.socket]:
    """Connections that nobody has accepted yet."""
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        while True:
            connection, _ = sock.accept()
            connection.setblocking(False)
            yield connection


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise InvalidInputError(f"cannot listen on {host}, port {port} ({error}); choose another with --port") from None
    with sock:
        yield sock


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _tell(**values: object) -> None:
    print(json.dumps(values), flush=True, file=sys.stdout)

"""uvicorn's HTTP/1.1 with limits on how slowly and how long a request may come in."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from edgedet.serve.body_receiver import BodyReceiver
from edgedet.serve.intake import GoneError

_MAX_HEADER = 32 << 10  # bytes of a request line and its headers
_BODY_AHEAD = 128 << 10  # bytes of a body that are taken before the application asks for them
_LAST_WORD = 0.3  # seconds for which an idle connection stays open after the server was told to stop
_MARGIN = 1.0  # seconds in which the application says 408 itself, before the connection is closed


def limited_protocol(header_timeout: float, body_timeout: float) -> type[HttpToolsProtocol]:
    """A protocol for ``uvicorn.Config(http=...)``: a connection that takes longer is closed. Seconds."""

    class Protocol(HttpToolsProtocol):
        """One connection."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._patience: asyncio.TimerHandle | None = None
            self._in_header, self._header_bytes = True, 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait(header_timeout)

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait(None)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_header:
                self._header_bytes += len(data)
            super().data_received(data)
            # The piece in which a header begins is not counted: bytes of the request before may be in it.
            if self._in_header and self._header_bytes > _MAX_HEADER:
                self.send_400_response("Request header too large.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope["edgedet.gone"] = self.transport.is_closing  # type: ignore[typeddict-unknown-key]
            self._in_header, self._header_bytes = True, 0
            self._wait(header_timeout)

        def on_headers_complete(self) -> None:
            self._in_header = False
            self._wait(body_timeout + _MARGIN)
            super().on_headers_complete()
            if self.scheme == "http":
                self.scope["edgedet.take"] = functools.partial(self._take, self.cycle)  # type: ignore[typeddict-unknown-key]

        def on_body(self, body: bytes) -> None:
            # As uvicorn's, with fewer pauses and without its two copies: what the application has not taken yet is
            # nearly always nothing.
            if self.cycle.response_complete:
                return
            ahead: Any = self.cycle.body
            self.cycle.body = ahead + body if ahead else body  # type: ignore[assignment]
            if len(self.cycle.body) > _BODY_AHEAD:
                self.flow.pause_reading()
            self.cycle.message_event.set()

        def on_message_complete(self) -> None:
            self._wait(None)
            super().on_message_complete()

        async def _take(self, cycle: RequestResponseCycle, target: memoryview) -> None:
            """Fills memory with the body of a request, as long as that was announced to be."""
            if cycle.waiting_for_100_continue:
                cycle.waiting_for_100_continue = False
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            came = len(cycle.body)
            target[:came] = cycle.body
            cycle.body = bytearray()
            if cycle.more_body:
                if self.transport.is_closing():
                    raise GoneError
                self.flow.read_paused = False
                await BodyReceiver(self, cycle, target[came:]).receive()

        def body_received(self, cycle: RequestResponseCycle) -> None:
            """The rest of a body came past the parser; the next request gets another one."""
            cycle.more_body = False
            self.parser = httptools.HttpRequestParser(self)
            self._wait(None)

        def shutdown(self) -> None:
            # A request may be on its way on a connection that looks idle; it is answered, and the connection closed.
            if self.cycle is None or self.cycle.response_complete:
                self._wait(_LAST_WORD)
            else:
                super().shutdown()

        def _wait(self, seconds: float | None) -> None:
            """Closes the connection in so many seconds, unless it is called again."""
            if self._patience is not None:
                self._patience.cancel()
            self._patience = None if seconds is None else self.loop.call_later(seconds, self._lose_patience)

        def _lose_patience(self) -> None:
            if self.pipeline:  # it is we who keep the client waiting
                self._wait(body_timeout)
            elif not self.transport.is_closing():
                self.transport.close()

    return Protocol

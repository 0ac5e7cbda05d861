"""A body received where it will lie: by the kernel into its region, without a copy in between."""

from __future__ import annotations

import asyncio
from typing import Any

from edgedet.serve.intake import GoneError


class BodyReceiver(asyncio.BufferedProtocol):
    """Stands in for the protocol of a connection until so many bytes have come."""

    def __init__(self, http: Any, cycle: Any, target: memoryview) -> None:
        """http: the protocol in whose place it stands. cycle: of the request. target: filled, never beyond its end."""
        self._http, self._cycle, self._transport, self._target = http, cycle, http.transport, target
        self._at = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def receive(self) -> None:
        """Fills the target.

        Raises:
            GoneError: The connection was lost before.
        """
        self._switch(self)
        try:
            await self._done
        finally:
            # Also when the waiting is cancelled: from here on nothing is written into the target.
            if self._transport.get_protocol() is self:
                self._switch(self._http)
            self._target.release()

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return self._target[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._at += nbytes
        if self._at == len(self._target):
            # At once: what follows is for the protocol, and for a parser that has not seen half of this body.
            self._http.body_received(self._cycle)
            self._switch(self._http)
            if not self._done.done():
                self._done.set_result(None)

    def eof_received(self) -> bool | None:
        """See `asyncio.BufferedProtocol`."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if not self._done.done():
            self._done.set_exception(GoneError())
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._http.resume_writing()

    def _switch(self, protocol: Any) -> None:
        # Reading is begun anew: how it is done depends on the kind of protocol.
        transport = self._transport
        if transport.is_closing():
            return
        if transport.is_reading():
            transport.pause_reading()
        transport.set_protocol(protocol)
        transport.resume_reading()

"""Bodies on their way in: straight into shared memory, within limits of size, time and share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from edgedet.serve.arena import Arena, Region
from edgedet.serve.refusal import RefusedError

_Result = TypeVar("_Result")


class GoneError(Exception):
    """The client has left before its body was complete."""


class Intake:
    """Reads bodies. No client holds more than half of the memory, so that one that is slow leaves room for others."""

    def __init__(self, capacity: int, max_upload: int, timeout: float) -> None:
        """capacity, max_upload: bytes. timeout: seconds for a whole body."""
        self.arena = Arena(max(capacity, 2 * max_upload))
        self._max_upload, self._timeout = max_upload, timeout
        self._held: dict[str, int] = {}

    async def read(
        self,
        length: int | None,
        receive: Callable[[], Awaitable[Any]],
        client: str,
        *,
        take: Callable[[memoryview], Awaitable[None]] | None = None,
    ) -> Region:
        """A body, in a region that `release` has to give back.

        Args:
            length: What the client announced, None if it did not.
            receive: Of ASGI.
            client: Who it is.
            take: Fills memory with the body, where the connection can do that by itself.

        Raises:
            RefusedError: It is too large, too slow, empty, or there is no room.
            GoneError: The client has left.
        """
        if length is not None and length > self._max_upload:
            raise self._too_large()
        region = self._reserve(self._max_upload if length is None else length, client)
        try:
            if take is None or not length:
                size = await self._within_time(self._fill(region, receive))
            else:
                with memoryview(self.arena.memory)[region.start : region.start + length] as target:
                    await self._within_time(take(target))
                size = length
        except BaseException:
            self.release(client, region)
            raise
        if size == 0:
            self.release(client, region)
            raise RefusedError(400, "malformed", "expected an image in the body of the request, got an empty one")
        if size < region.size:
            self._held[client] -= region.size - size
            region = self.arena.shrink(region, size)
        return region

    def release(self, client: str, region: Region) -> None:
        """Gives a region back."""
        self.arena.free(region)
        left = self._held[client] - region.size
        if left:
            self._held[client] = left
        else:
            del self._held[client]

    def close(self) -> None:
        """Gives all memory back."""
        self.arena.close()

    def _reserve(self, size: int, client: str) -> Region:
        size = max(1, size)
        held = self._held.get(client, 0)
        region = None if held + size > self.arena.capacity // 2 else self.arena.allocate(size)
        if region is None:
            raise RefusedError(429, "memory", "too many uploads are in memory; ask again in a moment")
        self._held[client] = held + size
        return region

    async def _within_time(self, filling: Awaitable[_Result]) -> _Result:
        task: Any = asyncio.current_task()
        late = False

        def stop() -> None:
            nonlocal late
            late = True
            task.cancel()

        timer = asyncio.get_running_loop().call_later(self._timeout, stop)
        try:
            return await filling
        except asyncio.CancelledError:
            if not late:
                raise
            if hasattr(task, "uncancel"):
                task.uncancel()
            raise RefusedError(
                408, "slow", f"expected the whole body within {self._timeout:g} s; send less, or faster"
            ) from None
        finally:
            timer.cancel()

    async def _fill(self, region: Region, receive: Callable[[], Awaitable[Any]]) -> int:
        memory, at, end = self.arena.memory, region.start, region.start + region.size
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise GoneError
            chunk = message.get("body", b"")
            if at + len(chunk) > end:
                raise self._too_large()
            memory[at : at + len(chunk)] = chunk
            at += len(chunk)
            if not message.get("more_body", False):
                return at - region.start

    def _too_large(self) -> RefusedError:
        return RefusedError(
            413, "upload", f"expected a body of at most {self._max_upload} bytes, got more; shrink the images"
        )

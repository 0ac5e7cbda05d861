"""Work that a detector does in threads of its own: a bounded number of calls, so that who brings them has to wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Submissions:
    """Runs calls side by side and takes a bounded number of them.

    Args:
        workers: Threads.
        waiting: Calls that are kept until a thread is free.
    """

    def __init__(self, *, workers: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="edgedet")
        self._room = threading.BoundedSemaphore(workers + waiting)

    def submit(self, call: Callable[[], _Result]) -> Future[_Result]:
        """Waits for room. The future can be cancelled until a thread takes the call up.

        Raises:
            RuntimeError: It is closed.
        """
        self._room.acquire()
        try:
            future = self._pool.submit(call)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    def close(self) -> None:
        """Returns when all that was taken is done."""
        self._pool.shutdown(wait=True)


def in_order(
    items: Iterable[_Item], submit: Callable[[_Item], Future[_Result]], *, ahead: int
) -> Iterator[tuple[_Item, _Result]]:
    """Yields each item with its result; up to `ahead` items are taken and not yet yielded.

    An error of ``items`` is raised after what came before it, one of a result in its place. When the generator ends,
    however it does, nothing is under way any more, and ``items`` is closed if it is a generator.
    """
    pending: deque[tuple[_Item, Future[_Result]]] = deque()
    source = iter(items)
    failure: Exception | None = None
    ended = False
    try:
        while not ended or pending:
            while not ended and len(pending) < ahead:
                try:
                    item = next(source)
                    pending.append((item, submit(item)))
                    del item
                except StopIteration:  # noqa: PERF203 - one for each item, which is nothing beside a detection
                    ended = True
                except Exception as error:
                    ended, failure = True, error
            if pending:
                result = pending[0][1].result()
                yield pending.popleft()[0], result
        if failure is not None:
            raise failure
    finally:
        for _, future in pending:
            future.cancel()
        for _, future in pending:
            if not future.cancelled():
                future.exception()
        close = getattr(source, "close", None)
        if close is not None:
            close()

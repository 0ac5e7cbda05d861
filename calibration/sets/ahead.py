"""Work on the next few items while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# Decoding releases the interpreter, so two threads help; each may hold the pixels of one image, of up to 300 MB.
_WORKERS: Final = 2
_DEPTH: Final = 4


def ahead(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`map` in two threads, in the order of `items`, with at most four results waiting."""
    with ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="calibration-read") as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= _DEPTH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

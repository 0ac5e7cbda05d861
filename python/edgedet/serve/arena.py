"""Memory that the front and the worker share, in which the bodies of requests lie."""

from __future__ import annotations

import bisect
import mmap
import os
from typing import NamedTuple

_PAGE = mmap.PAGESIZE


class Region(NamedTuple):
    """A piece of an arena: where it starts and how many bytes were asked for."""

    start: int
    size: int


class Arena:
    """First fit from the low end, so that the pages in use stay few and warm. For one thread."""

    def __init__(self, capacity: int) -> None:
        """capacity: bytes, rounded up to whole pages. None of them is taken from the system before it is used."""
        self.capacity = _pages(capacity)
        self.file = os.memfd_create("edgedet-bodies")  # anonymous: no image ever has a name in a file system
        os.ftruncate(self.file, self.capacity)
        self.memory = mmap.mmap(self.file, self.capacity)
        self._free = [(0, self.capacity)]  # start and length, by start

    def allocate(self, size: int) -> Region | None:
        """A region of `size` bytes, or None where there is no room for it now."""
        need = _pages(size)
        for place, (start, length) in enumerate(self._free):
            if length >= need:
                if length == need:
                    del self._free[place]
                else:
                    self._free[place] = (start + need, length - need)
                return Region(start, size)
        return None

    def free(self, region: Region) -> None:
        """Gives a region back, once."""
        start, length = region.start, _pages(region.size)
        place = bisect.bisect(self._free, (start, 0))
        if place < len(self._free) and self._free[place][0] == start + length:
            length += self._free.pop(place)[1]
        if place > 0 and sum(self._free[place - 1]) == start:
            place -= 1
            start, before = self._free.pop(place)
            length += before
        self._free.insert(place, (start, length))

    def shrink(self, region: Region, size: int) -> Region:
        """The first `size` bytes of a region; the pages behind them are given back."""
        kept = _pages(size)
        if _pages(region.size) > kept:
            self.free(Region(region.start + kept, _pages(region.size) - kept))
        return Region(region.start, size)

    @property
    def used(self) -> int:
        """Bytes in regions."""
        return self.capacity - sum(length for _, length in self._free)

    def close(self) -> None:
        """Gives the memory back to the system."""
        self.memory.close()
        os.close(self.file)


def _pages(size: int) -> int:
    return max(1, -(-size // _PAGE)) * _PAGE

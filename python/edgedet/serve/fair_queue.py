"""A bounded queue that serves its clients by turns and, when it is full, turns the greediest away."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """One line a client, served round robin: a client that sends much waits behind itself, not before others.

    When it is full, the newest item of the longest line makes place for a client with a shorter one (longest queue
    drop: P. McKenney, Stochastic Fairness Queueing, 1990).
    """

    def __init__(self, limit: int) -> None:
        """limit: items of all clients together."""
        self._limit = limit
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, client: str, item: Item) -> Item | None:
        """Appends to the client's line.

        Returns:
            None; or, where the queue was full, the item that had to leave: another client's, or `item` itself, which
            is then not in the queue.
        """
        evicted = None
        if self._size >= self._limit:
            longest = max(self._lines, key=lambda name: len(self._lines[name]))
            if len(self._lines[longest]) <= len(self._lines.get(client, ())) + 1:
                return item
            evicted = self._lines[longest].pop()
            self._size -= 1
        self._lines.setdefault(client, deque()).append(item)
        self._size += 1
        return evicted

    def put_first(self, client: str, item: Item) -> None:
        """Puts an item that was taken already back where it was, whatever the limit."""
        self._lines.setdefault(client, deque()).appendleft(item)
        self._lines.move_to_end(client, last=False)
        self._size += 1

    def take(self) -> Item | None:
        """The next item: the oldest of the client whose turn it is; None if there is none."""
        if not self._size:
            return None
        client, line = self._lines.popitem(last=False)
        item = line.popleft()
        if line:
            self._lines[client] = line
        self._size -= 1
        return item

    def remove(self, client: str, item: Item) -> None:
        """Takes an item out of the middle of a client's line."""
        line = self._lines[client]
        line.remove(item)
        if not line:
            del self._lines[client]
        self._size -= 1

"""One process at a time in a folder, until it ends in whatever way."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgedet import InvalidInputError


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made. what: of the folder, for messages.

    Raises InvalidInputError if another process is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInputError(
                f"{folder}: expected {what} that no other process is at work on, got one that is; wait, or stop it"
            ) from error
        yield

"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def beside(target: Path) -> Path:
    """A name in the same folder, thus on the same disk, that no other process uses."""
    return target.parent / f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}"


def flush(path: Path) -> None:
    """Has a file, or a folder's list of names, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(file: Path, content: bytes) -> None:
    """Writes beside the file, flushes to disk, renames: a crash leaves the old file or the new one."""
    staging = beside(file)
    try:
        staging.write_bytes(content)
        flush(staging)
        staging.replace(file)
    finally:
        staging.unlink(missing_ok=True)
    flush(file.parent)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes the target when the block ends; after an exception nothing is left of it."""
    staging = beside(target)
    try:
        staging.mkdir(parents=True)
        yield staging
        _swap_in(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap_in(staging: Path, target: Path) -> None:
    """Renames a finished folder to its name, in place of what is there."""
    flush(staging)
    if target.exists():
        old = beside(target)
        target.rename(old)
        staging.rename(target)
        shutil.rmtree(old)
    else:
        staging.rename(target)
    flush(target.parent)

"""Rows of bytes by number on the disk, mapped into memory, each with its checksum: found, missing or broken."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedet import Error, InvalidInputError
from training.files import write_json

_VERSION = 1
_SPARE = 64 << 20  # bytes that stay free on the disk


class RowStore:
    """A folder with store.json, rows.bin (sparse) and sums.bin: a CRC-32 per row, 0 where there is none yet.

    A row is written before its sum, so a process that dies in between leaves a row that counts as missing; a row that
    was damaged does not fit its sum and counts as missing too. Several processes may write the same rows.
    """

    def __init__(self, folder: Path, *, rows: int, row_bytes: int, about: dict[str, Any]) -> None:
        """Opens or makes the folder. about: what the rows are, written down for `read_about`.

        Raises Error for a disk without room, InvalidInputError for a folder of other rows.
        """
        self.folder = folder
        head = {"version": _VERSION, "rows": rows, "row_bytes": row_bytes, **about}
        found = read_about(folder)
        if found is None:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if rows * row_bytes + _SPARE > free:
                raise Error(
                    f"{folder}: expected room for {rows} rows of {row_bytes} bytes, {rows * row_bytes / 2**30:.1f} GiB "
                    f"in all, got {free / 2**30:.1f} GiB; use fewer --views or --cache-bits 8, or another disk"
                )
            write_json(folder / "store.json", head)
        elif found != head:
            raise InvalidInputError(f"{folder}: expected the cache of this run, got another one's; remove the folder")
        self._check_size("rows.bin", rows * row_bytes)
        self._check_size("sums.bin", 4 * rows)
        self._rows = np.zeros((rows, 0), np.uint8)  # of what a teacher does not have
        if row_bytes:
            self._rows = np.memmap(folder / "rows.bin", np.uint8, "r+", shape=(rows, row_bytes))
        self._sums: NDArray[np.uint32] = np.memmap(folder / "sums.bin", np.uint32, "r+", shape=(rows,))

    def _check_size(self, name: str, size: int) -> None:
        """Makes a file, or one that was cut short whole again; what is missing of it is zeros, which fit no sum."""
        with (self.folder / name).open("ab") as stream:
            if stream.tell() != size:
                stream.truncate(size)

    def get(self, numbers: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(n, bytes) copies of rows, and which of them are whole."""
        rows = self._rows[list(numbers)]
        sums = self._sums[list(numbers)]
        return rows, np.asarray([_sum(row) == int(sum_) for row, sum_ in zip(rows, sums, strict=True)], np.bool_)

    def put(self, numbers: Sequence[int], rows: NDArray[np.uint8]) -> None:
        """Writes rows, (n, bytes)."""
        self._rows[list(numbers)] = rows
        self._sums[list(numbers)] = [_sum(row) for row in rows]


def read_about(folder: Path) -> dict[str, Any] | None:
    """What store.json says, None where there is none. Raises InvalidInputError for a broken one."""
    file = folder / "store.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError as error:
        raise InvalidInputError(f"{file}: expected json, got broken text ({error}); remove the folder") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{file}: expected an object, got a {type(content).__name__}; remove the folder")
    return content


def _sum(row: NDArray[np.uint8]) -> int:
    return zlib.crc32(row.data) or 1

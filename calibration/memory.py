"""Statistics of tensors on the disk: an interrupted calibration goes on, and a finished one is not run again."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from calibration.collect import Statistics
from edgedet.files import write_atomically

# Version of the layout and of what is counted: part of every name, so that older files are never read.
_LAYOUT = 1
_SECONDS_BETWEEN = 20.0


class StatisticsFiles:
    """One .npz per group of tensors in a folder, named after everything that the numbers depend on."""

    def __init__(self, folder: Path, depends_on: Mapping[str, object], *, images: int) -> None:
        """Nothing is read or written yet.

        Args:
            folder: made when first needed.
            depends_on: model, images and settings; JSON values. Anything else in it means other files.
            images: number of images in the set.
        """
        self.images = images
        self._folder = folder
        self._key = json.dumps([_LAYOUT, depends_on], sort_keys=True)
        self._written = 0.0

    def restore(self, statistics: Mapping[str, Statistics]) -> int:
        """Fill in what is known of these tensors; returns the number of images it covers, 0 for nothing.

        A file that cannot be read counts as missing.
        """
        path = self._path(statistics)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            images = int(arrays["images"])
            states = [
                {key: arrays[f"{position}/{key}"] for key in ("counts", "numbers", "sums", "count")}
                for position in range(len(statistics))
            ]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return 0
        for entry, state in zip(statistics.values(), states, strict=True):
            entry.restore(state)
        return images

    def keep(self, statistics: Mapping[str, Statistics], images: int, *, last: bool = False) -> None:
        """Write the statistics of the first `images` images, unless they were written a moment ago."""
        if not last and time.monotonic() - self._written < _SECONDS_BETWEEN:
            return
        arrays = {
            f"{position}/{key}": value
            for position, entry in enumerate(statistics.values())
            for key, value in entry.state().items()
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=np.array(images), **arrays)  # type: ignore[arg-type]
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(statistics), buffer.getvalue())
        self._written = time.monotonic()

    def _path(self, statistics: Mapping[str, Statistics]) -> Path:
        digest = hashlib.sha256(json.dumps([self._key, list(statistics)]).encode()).hexdigest()
        return self._folder / f"statistics-{digest[:20]}.npz"

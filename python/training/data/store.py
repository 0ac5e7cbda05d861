"""Decoded images in memory, so that an epoch after the first one decodes nothing."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from edgedet import InvalidInputError, read_image
from edgedet.images import read_header
from training.data.dataset import Sample


def decode(sample: Sample, *, enough: int | None = None) -> NDArray[np.uint8]:
    """Reads the image of a sample: (H, W, 3) uint8 RGB, maybe shrunk to no less than `enough` pixels a side.

    Raises edgedet.ImageError if it cannot be decoded, InvalidInputError if its size is not the one the json states
    (boxes would be misplaced).
    """
    if enough is not None and min(sample.width, sample.height) >= 2 * enough:
        image = read_image(sample.file, enough=enough)
        header = read_header(sample.file)
        width, height = header.width, header.height
    else:
        image = read_image(sample.file)
        height, width = image.shape[:2]
    if (width, height) != (sample.width, sample.height):
        raise InvalidInputError(
            f"{sample.file}: expected {sample.width}x{sample.height} pixels as the annotations state, "
            f"got {width}x{height} (after EXIF rotation); correct the json, or label the image as it is shown"
        )
    return image


class ImageStore:
    """Decodes each image once and keeps it while the limit allows; later ones are decoded every time.

    Images are kept no larger than `longest` pixels a side (shrunk with a triangle filter), because more than the
    network can use is not worth memory. Thread-safe.
    """

    def __init__(self, samples: tuple[Sample, ...], *, longest: int, limit_bytes: int) -> None:
        """longest: pixels, at least 1. limit_bytes: what all kept images may take together; 0 keeps none."""
        if longest < 1 or limit_bytes < 0:
            raise InvalidInputError(f"expected longest >= 1 and limit_bytes >= 0, got {longest} and {limit_bytes}")
        self._samples = samples
        self._longest = longest
        self._limit = limit_bytes
        self._bytes = 0
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The image of sample `index`, (h, w, 3) uint8 RGB with both sides at most `longest`. Do not write into it."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image = self._shrunk(decode(self._samples[index], enough=self._longest))
        with self._lock:
            if index not in self._kept and self._bytes + image.nbytes <= self._limit:
                self._kept[index] = image
                self._bytes += image.nbytes
        return image

    @property
    def bytes_kept(self) -> int:
        """Memory that the kept images take, in bytes."""
        return self._bytes

    def _shrunk(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        if max(height, width) <= self._longest:
            return image
        from PIL import Image

        # Each side on its own: the network sees stretched images anyway, and boxes are relative.
        size = (min(width, self._longest), min(height, self._longest))
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))

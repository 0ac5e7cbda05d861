"""Images that are the same picture: equal pixels, or so alike that a person would call them one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DISTANCE = 3  # differing bits of two hashes of one picture, of 64
_BANDS = _DISTANCE + 1  # as many parts of the hash, so that one part of two such hashes is equal
_CORRELATION = 0.98  # of the thumbnails of one picture
_CONTRAST = 16  # grey levels between the darkest and lightest part of a picture that the hash can tell from others
_THUMBNAIL = 16  # pixels a side


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image.

    digest: sha256 of its size and pixels. dhash: 64 bits, each telling whether the grey level rises from one cell of a
    9 x 8 grid to the next (difference hash, Krawetz 2013); None for a picture too flat for that. thumbnail: (256,)
    float16, grey levels of 16 x 16 cells with mean 0 and norm 1, so that brightness and contrast do not count.
    """

    digest: bytes
    dhash: int | None
    thumbnail: NDArray[np.float16]


def fingerprint(image: NDArray[np.uint8]) -> Fingerprint:
    """The fingerprint of an (H, W, 3) uint8 RGB image, as it is shown."""
    from PIL import Image

    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    grey = Image.fromarray(image).convert("L")
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    levels = np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), dtype=np.float32).ravel()
    levels -= levels.mean()
    thumbnail = (levels / max(float(np.linalg.norm(levels)), 1e-6)).astype(np.float16)
    dhash = None
    if cells.max() - cells.min() >= _CONTRAST:
        dhash = int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")
    return Fingerprint(digest.digest(), dhash, thumbnail)


def equal_images(prints: Sequence[Fingerprint]) -> list[list[int]]:
    """Groups of two and more indices whose pixels are equal, each ascending, in order of their first index."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, each in enumerate(prints):
        groups[each.digest].append(index)
    return [group for group in groups.values() if len(group) > 1]


def alike_images(prints: Sequence[Fingerprint]) -> list[list[int]]:
    """Groups of two and more indices of images that look the same, in the order of `equal_images`.

    Two images do if their hashes differ in at most 3 of 64 bits and the correlation of their thumbnails is at least
    0.98; a group is all that such pairs connect. Of images with equal pixels only the first is looked at.
    """
    first = {each.digest: index for index, each in reversed(list(enumerate(prints)))}
    by_hash: dict[int, list[int]] = defaultdict(list)
    for index in sorted(first.values()):
        dhash = prints[index].dhash
        if dhash is not None:
            by_hash[dhash].append(index)
    parent = list(range(len(prints)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    def join(one: list[int], other: list[int]) -> None:
        """Joins those of two lists of images that the thumbnails confirm."""
        thumbnails = np.stack([prints[index].thumbnail for index in other]).astype(np.float32)
        for index in one:
            correlation = thumbnails @ prints[index].thumbnail.astype(np.float32)
            for match in np.flatnonzero(correlation >= _CORRELATION).tolist():
                low, high = sorted((root(index), root(other[match])))
                parent[high] = low

    for group in by_hash.values():
        if len(group) > 1:
            join(group, group)
    for one, other in _close_hashes(by_hash):
        join(by_hash[one], by_hash[other])
    groups: dict[int, list[int]] = defaultdict(list)
    for index in sorted(first.values()):
        groups[root(index)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _close_hashes(hashes: Iterable[int]) -> list[tuple[int, int]]:
    """Pairs of different hashes at most `_DISTANCE` bits apart: found among those that have one of four parts equal."""
    values = np.asarray(sorted(hashes), dtype=np.uint64)
    bits_of_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
    pairs: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        parts = (values >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(parts, kind="stable")
        starts = np.flatnonzero(np.diff(parts[order])) + 1
        for bucket in np.split(values[order], starts):
            for index, value in enumerate(bucket[:-1]):
                rest = bucket[index + 1 :]
                differing = np.ascontiguousarray(rest ^ value).view(np.uint8).reshape(-1, 8)
                close = rest[bits_of_byte[differing].sum(axis=1) <= _DISTANCE]
                pairs.update((int(value), other) for other in close.tolist())
    return sorted(pairs)

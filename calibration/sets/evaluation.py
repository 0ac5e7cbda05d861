"""The images that judge the result, and how one of them is recognised among the candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from calibration.sets.ahead import ahead
from edgedet import Error, InvalidInputError, read_image
from edgedet.calibration_set import sha256
from edgedet.coco_eval import load_annotations
from edgedet.images import find_images

_SIDE: Final = 16
# Grey levels of 255. docs/calibration-sets.md has the distances that this was read from: of copies and of others.
_NEAR: Final = 8


@dataclass(frozen=True, eq=False)
class EvaluationImages:
    """What is known of the images that have to stay out of a set.

    Attributes:
        digests: sha256 of each file to its name.
        names: of the files that could be decoded.
        thumbnails: of those, (N, 256) int16, see `thumbnail`.
    """

    digests: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    thumbnails: npt.NDArray[np.int16] = field(default_factory=lambda: np.empty((0, _SIDE * _SIDE), np.int16))

    def same_file(self, digest: str) -> str:
        """Why a file may not be used, or an empty string."""
        return f"is the evaluation image {self.digests[digest]}" if digest in self.digests else ""

    def same_picture(self, pixels: npt.NDArray[np.uint8]) -> str:
        """Why an image may not be used, or an empty string: it is an evaluation image, encoded again or resized.

        Nowhere may the small grey pictures of the two differ by more than `_NEAR` levels. The largest difference and
        not the mean decides, because a small object that moved in front of a fixed camera changes few cells by much,
        and compression changes all of them by little.
        """
        if not self.names:
            return ""
        distances = np.abs(self.thumbnails - thumbnail(pixels)).max(axis=1)
        nearest = int(distances.argmin())
        if distances[nearest] > _NEAR:
            return ""
        name = self.names[nearest]
        return f"looks like the evaluation image {name}, at most {distances[nearest]} of 255 grey levels away"


def thumbnail(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """An (H, W, 3) RGB image as 16 x 16 grey levels in [0, 255], flat, whatever its size and aspect ratio."""
    from PIL import Image

    small = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, np.int16).ravel()


def evaluation_images(
    sources: Sequence[Path], *, progress: Callable[[str, int, int], None] = lambda stage, done, total: None
) -> EvaluationImages:
    """Look at the images that have to stay out of the set. Broken ones are known by their digest only.

    Args:
        sources: folders of images, or COCO annotation files with their images beside them or in `images/` beside them.
        progress: told (stage, images done, images in all).

    Raises:
        InvalidInputError: a source is neither, or the images of an annotation file are not there.
        ImageError: a folder holds no image.
    """
    paths = [path for source in sources for path in _files(source)]
    digests: dict[str, str] = {}
    names, rows = [], []
    for done, (path, (digest, row)) in enumerate(zip(paths, ahead(_look, paths), strict=True), start=1):
        digests[digest] = path.name
        if row is not None:
            names.append(path.name)
            rows.append(row)
        progress("evaluation images", done, len(paths))
    if not rows:
        return EvaluationImages(digests)
    return EvaluationImages(digests, tuple(names), np.stack(rows))


def _look(path: Path) -> tuple[str, npt.NDArray[np.int16] | None]:
    digest = sha256(path)
    try:
        return digest, thumbnail(read_image(path))
    except Error:
        return digest, None


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        return find_images(source)
    dataset = load_annotations(source)
    folders = [source.parent, source.parent / "images"]
    first = dataset.images[0].file_name
    folder = next((folder for folder in folders if (folder / first).is_file()), None)
    if folder is None:
        raise InvalidInputError(
            f"{source}: expected its images beside it or in images/, got no '{first}' there; name their folder instead"
        )
    return [folder / image.file_name for image in dataset.images]

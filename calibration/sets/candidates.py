"""The images there are to choose from: which files, which of them can be used, and what a strategy measures of each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from calibration.sets.ahead import ahead
from calibration.sets.evaluation import EvaluationImages
from edgedet import Error, InvalidInputError, read_image
from edgedet.calibration_set import RefusedImage, SampledImage, sha256
from edgedet.coco_eval import CocoDataset
from edgedet.images import find_images

Pixels = npt.NDArray[np.uint8]
Measured = TypeVar("Measured")


def names_in(directory: Path, dataset: CocoDataset | None) -> list[str]:
    """Sorted names of the image files of a folder, or of those that a dataset lists and the folder has.

    Raises:
        InvalidInputError: none that the dataset lists is there.
        ImageError: the folder holds no image.
    """
    if dataset is None:
        return [path.name for path in find_images(directory)]
    listed = sorted({image.file_name for image in dataset.images})
    present = [name for name in listed if (directory / name).is_file()]
    if not present:
        raise InvalidInputError(
            f"{dataset.source}: expected its images in {directory}, got none of {len(listed)} there; check --images"
        )
    return present


class Inspection:
    """Decodes candidates one after another; pixels are let go once they are measured.

    Args:
        directory: folder of the images.
        evaluation: images that must not be among them.
        looked: told after each candidate how many there have been, and how many of them can be used.

    Attributes:
        refused: candidates that cannot be used, in the order looked at.
    """

    def __init__(
        self,
        directory: Path,
        evaluation: EvaluationImages,
        looked: Callable[[int, int], None] = lambda images, usable: None,
    ) -> None:
        self.refused: list[RefusedImage] = []
        self._directory = directory
        self._evaluation = evaluation
        self._looked = looked

    def usable(
        self, names: Iterable[str], measure: Callable[[Pixels], Measured]
    ) -> Generator[tuple[SampledImage, Measured], None, None]:
        """The usable ones among `names`, in that order, and what `measure` says of each (in another thread)."""
        first: dict[str, str] = {}
        for count, found in enumerate(ahead(lambda name: self._look(name, measure), names), start=1):
            if not isinstance(found, RefusedImage) and (original := first.get(found[0].sha256)):
                found = RefusedImage(found[0].file, f"is a copy of {original}")
            if isinstance(found, RefusedImage):
                self.refused.append(found)
                self._looked(count, len(first))
            else:
                first[found[0].sha256] = found[0].file
                self._looked(count, len(first))
                yield found

    def _look(self, name: str, measure: Callable[[Pixels], Measured]) -> tuple[SampledImage, Measured] | RefusedImage:
        path = self._directory / name
        try:
            digest = sha256(path)
            if reason := self._evaluation.same_file(digest):
                return RefusedImage(name, reason)
            pixels = read_image(path)
            if reason := self._evaluation.same_picture(pixels):
                return RefusedImage(name, reason)
            height, width = pixels.shape[:2]
            return SampledImage(name, digest, width, height), measure(pixels)
        except Error as cause:
            return RefusedImage(name, str(cause))

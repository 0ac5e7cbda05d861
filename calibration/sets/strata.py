"""What kind of image it is: its objects by class and size, its brightness and its sharpness, in words."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgedet import InvalidInputError
from edgedet.coco_eval import CocoDataset

# Areas in pixels of the image file, as in AP_small, AP_medium and AP_large: https://cocodataset.org/#detection-eval
_SMALL: Final = 32.0**2
_MEDIUM: Final = 96.0**2
# Of the photos of COCO about a tenth is darker, a tenth brighter; a fifth less sharp, a twentieth sharper.
_DARK, _BRIGHT = 80.0, 150.0
_BLURRED, _SHARP = 400.0, 2500.0
_SIDE: Final = 256

NO_OBJECT: Final = "no object"


def brightness(grey: npt.NDArray[np.float32]) -> float:
    """Mean luma, in [0, 255]."""
    return float(grey.mean())


def sharpness(grey: npt.NDArray[np.float32]) -> float:
    """Variance of the 4-neighbour Laplacian, >= 0 (Pech-Pacheco et al., 2000). Noise counts as sharpness."""
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return float(laplacian.var())


def appearance(pixels: npt.NDArray[np.uint8]) -> str:
    """Brightness and sharpness of an (H, W, 3) RGB image in words, such as "dark, blurred".

    Both are of its luma at 256 x 256 pixels, whatever its size, so that they can be compared.
    """
    from PIL import Image

    small = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    grey = np.asarray(small, np.float32)
    light = _word(brightness(grey), _DARK, _BRIGHT, ("dark", "mid-tone", "bright"))
    return f"{light}, {_word(sharpness(grey), _BLURRED, _SHARP, ('blurred', 'soft', 'sharp'))}"


def objects(dataset: CocoDataset) -> dict[str, tuple[str, ...]]:
    """File name to the sorted kinds of object in the image, such as ("large dog", "small person").

    Crowd regions do not count; an image without any other object has the one kind "no object".

    Raises:
        InvalidInputError: an area is not a number.
    """
    files = {image.id: image.file_name for image in dataset.images}
    kinds: dict[str, set[str]] = {name: set() for name in files.values()}
    for at, entry in enumerate(dataset.document["annotations"]):
        if not entry["iscrowd"]:
            size = _word(_area(entry, at, dataset.source), _SMALL, _MEDIUM, ("small", "medium", "large"))
            kinds[files[entry["image_id"]]].add(f"{size} {dataset.categories[entry['category_id']]}")
    return {name: tuple(sorted(found)) or (NO_OBJECT,) for name, found in kinds.items()}


def _word(value: float, low: float, high: float, words: tuple[str, str, str]) -> str:
    return words[0] if value < low else words[1] if value < high else words[2]


def _area(entry: dict[str, Any], at: int, source: str) -> float:
    area = entry["area"]
    if not isinstance(area, (int, float)) or not math.isfinite(area):
        raise InvalidInputError(f"{source}: annotations[{at}] has area {area!r}; expected a finite number of pixels")
    return float(area)

"""The images whose detections changed most, float and candidate side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgedet import Detections, read_image
from edgedet.draw import draw_detections, fit
from edgedet.matching import CONFIDENT, pair

#: Images that report.html shows.
SHOWN: Final = 6
_WIDTH, _HEIGHT = 520, 390  # largest picture of one engine, pixels
_QUALITY = 82


@dataclass(frozen=True)
class WorstImage:
    """An image and what the candidate changed in it, counted among confident detections.

    Attributes:
        position: among the evaluation images.
        file: its name.
        detections: of the float engine.
        lost: of them, not found again.
        added: found by the candidate only.
        moved_px: mean distance of those found again, pixels.
    """

    position: int
    file: str
    detections: int
    lost: int
    added: int
    moved_px: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {key: value for key, value in asdict(self).items() if key != "position"}


def worst_images(
    files: Sequence[str], reference: Sequence[Detections], candidate: Sequence[Detections], count: int = SHOWN
) -> list[WorstImage]:
    """Those with the most detections lost or added, then those whose boxes moved most; unchanged ones never."""
    found = []
    for position, (file, ours, theirs) in enumerate(zip(files, reference, candidate, strict=True)):
        forth, back = pair(ours, theirs), pair(theirs, ours)
        moved = round(float(forth.box_px.mean()), 2) if len(forth.box_px) else 0.0
        found.append(WorstImage(position, file, len(forth.confident), forth.lost, back.lost, moved))
    changed = [image for image in found if image.lost or image.added or image.moved_px]
    return sorted(changed, key=lambda image: (-image.lost - image.added, -image.moved_px, image.file))[:count]


def picture(path: Path, engines: Sequence[Detections]) -> list[bytes]:
    """An image with the confident detections of each engine drawn into it: small JPEGs without metadata."""
    image = read_image(path)
    return [_jpeg(image, found.filter(CONFIDENT)) for found in engines]


def _jpeg(image: npt.NDArray[np.uint8], detections: Detections) -> bytes:
    target = io.BytesIO()
    draw_detections(*fit(image, detections, width=_WIDTH, height=_HEIGHT)).save(target, format="JPEG", quality=_QUALITY)
    return target.getvalue()

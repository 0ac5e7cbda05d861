"""Pictures of detections: boxes with readable labels in a steady colour per class, through Pillow."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Tuple

import numpy as np
from numpy.typing import NDArray

from edgedet.detections import Detections

if TYPE_CHECKING:
    from PIL import Image

Colour = Tuple[int, int, int]
_QUIET: Colour = (205, 205, 205)


def class_colour(label: int) -> Colour:
    """A saturated colour for a class; neighbouring labels are far apart on the colour circle (golden ratio steps)."""
    hue = (0.58 + label * 0.618033988749895) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.78 if label % 2 == 0 else 0.62, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


@lru_cache(maxsize=8)
def _font(size: float) -> Any:
    """Kept, for loading one takes longer than drawing a frame of a video."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def fit(
    image: NDArray[np.uint8], detections: Detections, *, width: int, height: int
) -> tuple[NDArray[np.uint8], Detections]:
    """Shrinks an image and the boxes in it to that size at most, for labels are drawn in the size of the image."""
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((width, height))
    scale = np.array([small.width / image.shape[1], small.height / image.shape[0]] * 2, np.float32)
    return np.asarray(small), Detections(
        detections.boxes * scale, detections.scores, detections.labels, detections.names
    )


def draw_detections(
    image: NDArray[np.uint8], detections: Detections, *, scores: bool = True, quiet: Detections | None = None
) -> Image.Image:
    """Draws boxes and labels; line width and text size follow the size of the image.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        detections: In pixels of that image. The best ones are drawn last, on top.
        scores: Write the score behind the name.
        quiet: Those of which only thin outlines are drawn, below the others.

    Returns:
        A new RGB picture.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    scale = max(picture.size)
    line = max(2, round(scale / 400))
    font = _font(max(11, scale / 50))
    for found in quiet or ():
        x0, y0, x1, y1 = found.box
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_QUIET)
    upwards = list(detections)[::-1]
    for found in upwards:
        x0, y0, x1, y1 = found.box
        outline = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        pen.rectangle(outline, outline=class_colour(found.label), width=line)
    for found in upwards:  # after all boxes, so that no line strikes a label through
        colour = class_colour(found.label)
        text = f"{found.name} {found.score:.2f}" if scores else found.name
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        width, height = right - left + 2 * line + 2, bottom - top + 2 * line + 2
        # Above the box where there is room, else inside it; never beyond the right edge.
        at_x = max(0, min(found.box[0], picture.width - width))
        at_y = found.box[1] - height if found.box[1] >= height else found.box[1]
        pen.rectangle((at_x, at_y, at_x + width - 1, at_y + height - 1), fill=colour)
        ink = (0, 0, 0) if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 128 else (255, 255, 255)
        pen.text((at_x + line + 1 - left, at_y + line + 1 - top), text, font=font, fill=ink)
    return picture

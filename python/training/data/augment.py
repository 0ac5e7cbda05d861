"""Augmentation as geometry plus one colour matrix: every pixel is resampled once, or twice where it is turned.

A training image is a canvas of tiles. A tile shows a region of a source image at a place on the canvas, maybe
mirrored. Everything random comes from the generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edgedet.bundle import InputSpec
from training.data.mosaic import draw_mosaic
from training.data.policy import Augmentation
from training.data.tiles import Example, Region, Source, Tile, compose

_CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # least IoU that a crop must have with some box it keeps
_CROP_TRIALS = 40
_CROP_SIDE = (0.3, 1.0)  # of the image's side
_CROP_ASPECT = (0.5, 2.0)


def augment(
    source: Source,
    *,
    others: Callable[[Generator], Source],
    spec: InputSpec,
    settings: Augmentation,
    rng: Generator,
    out: NDArray[np.float32] | None = None,
) -> Example:
    """Draws one training example, but for mixup and copy-blend, which need the other images of the batch.

    others: gives another source for a mosaic, chosen with the generator passed to it.
    out: (3, H, W) float32, where the image is drawn; a new array if None.
    """
    if rng.random() < settings.mosaic:
        sources = [source, *(others(rng) for _ in range(3))]
        drawn = draw_mosaic(sources, spec=spec, settings=settings, rng=rng, out=out)
    else:
        tile = _tile(source, spec, settings, rng)
        drawn = compose([source], [tile], spec=spec, min_box=settings.min_box, fill=settings.fill, out=out)
    if rng.random() < settings.photometric:
        recolour(drawn.image, colour_matrix(rng))
    if settings.channel_shuffle and rng.random() < settings.channel_shuffle:
        drawn.image[:] = drawn.image[rng.permutation(3)]
    return drawn


def iou_crop(boxes: NDArray[np.float32], width: int, height: int, rng: Generator) -> Region:
    """The crop of SSD (Liu et al., 2016, section 2.2): a random region with a least IoU with some box centred in it.

    boxes: (n, 4) xyxy in [0, 1]. Returns the region in pixels; the whole image if that is drawn, if there are no boxes,
    or if no trial fits.
    """
    whole = (0, 0, width, height)
    choice = int(rng.integers(len(_CROP_OVERLAPS) + 1))
    if choice == len(_CROP_OVERLAPS) or len(boxes) == 0:
        return whole
    pixels = boxes * np.asarray([width, height, width, height], np.float32)
    centres = (pixels[:, :2] + pixels[:, 2:]) / 2
    areas = np.prod(pixels[:, 2:] - pixels[:, :2], axis=1)
    # All trials at once: (trials, 2) sides and corners, (trials, n) overlaps.
    size = np.asarray([width, height])
    sides = (size * rng.uniform(*_CROP_SIDE, (_CROP_TRIALS, 2))).astype(np.int64).clip(1)
    corners = rng.integers(size - sides + 1)
    ends = corners + sides
    inside = np.all((centres > corners[:, None]) & (centres < ends[:, None]), axis=2)
    shared = np.minimum(pixels[:, 2:], ends[:, None]) - np.maximum(pixels[:, :2], corners[:, None])
    overlap = np.prod(np.clip(shared, 0.0, None), axis=2)
    iou = overlap / (areas + np.prod(sides, axis=1)[:, None] - overlap)
    aspect = sides[:, 0] / sides[:, 1]
    fits = (aspect >= _CROP_ASPECT[0]) & (aspect <= _CROP_ASPECT[1])
    fits &= np.max(iou, axis=1, where=inside, initial=-1.0) >= _CROP_OVERLAPS[choice]
    if not fits.any():
        return whole
    (x0, y0), (x1, y1) = corners[fits.argmax()].tolist(), ends[fits.argmax()].tolist()
    return x0, y0, x1, y1


def colour_matrix(rng: Generator) -> NDArray[np.float32]:
    """Brightness, contrast, saturation and hue as one affine map of RGB in [0, 1]: (3, 4), the last column added.

    Each of the four is drawn with probability 1/2. Saturation moves colours to or from their luma; hue turns the chroma
    plane of YIQ. Ranges are those of SSD: brightness ±0.125, contrast and saturation 0.5 to 1.5, hue ±18 degrees.
    """
    luma = np.asarray([0.299, 0.587, 0.114])
    matrix, offset = np.eye(3), np.zeros(3)
    if rng.random() < 0.5:
        offset += rng.uniform(-0.125, 0.125)
    if rng.random() < 0.5:
        gain = rng.uniform(0.5, 1.5)
        matrix, offset = gain * matrix, gain * (offset - 0.5) + 0.5
    if rng.random() < 0.5:
        amount = rng.uniform(0.5, 1.5)
        step = amount * np.eye(3) + (1.0 - amount) * np.outer(np.ones(3), luma)
        matrix, offset = step @ matrix, step @ offset
    if rng.random() < 0.5:
        angle = math.radians(rng.uniform(-18.0, 18.0))
        to_yiq = np.asarray([luma, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
        turn = np.asarray([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
        step = np.linalg.inv(to_yiq) @ turn @ to_yiq
        matrix, offset = step @ matrix, step @ offset
    return np.concatenate([matrix, offset[:, None]], axis=1).astype(np.float32)


def recolour(image: NDArray[np.float32], colour: NDArray[np.float32]) -> None:
    """Applies an affine colour map, (3, 4), to an image (3, H, W) in place, and clips it to [0, 1]."""
    pixels = image.reshape(3, -1)
    mixed = colour[:, :3] @ pixels
    mixed += colour[:, 3:]
    np.clip(mixed, 0.0, 1.0, out=pixels)


def _tile(source: Source, spec: InputSpec, settings: Augmentation, rng: Generator) -> Tile:
    """Where a single image goes: the canvas of a zoom-out, of which a crop takes a part, fills the network input."""
    height, width = source.image.shape[:2]
    view = (0, 0, width, height)
    boxes = source.boxes
    if rng.random() < settings.zoom_out:
        view = _zoomed_view(width, height, settings.zoom_limit, rng)
        size = np.asarray([width, height] * 2, np.float32)
        boxes = (boxes * size - np.asarray(view[:2] * 2)) / np.asarray([view[2] - view[0], view[3] - view[1]] * 2)
    if rng.random() < settings.crop:
        left, top = view[:2]
        x0, y0, x1, y1 = iou_crop(boxes.astype(np.float32), view[2] - left, view[3] - top, rng)
        view = (left + x0, top + y0, left + x1, top + y1)
    region = (max(view[0], 0), max(view[1], 0), min(view[2], width), min(view[3], height))
    if region[0] >= region[2] or region[1] >= region[3]:  # a crop of nothing but margin
        view = region = (0, 0, width, height)
    return Tile(
        region=region,
        place=_place_of(region, view, spec),
        mirrored=rng.random() < settings.flip,
        upside_down=rng.random() < settings.vertical_flip,
    )


def _zoomed_view(width: int, height: int, limit: float, rng: Generator) -> Region:
    """A canvas of up to `limit` times the image's sides around it, in pixels of the image."""
    zoom = rng.uniform(1.0, limit)
    wide, high = max(width, round(width * zoom)), max(height, round(height * zoom))
    left, top = -int(rng.integers(wide - width + 1)), -int(rng.integers(high - height + 1))
    return left, top, left + wide, top + high


def _place_of(region: Region, view: Region, spec: InputSpec) -> Region:
    """Where a region of the image is on the network input that shows `view`; at least a pixel."""
    across, down = spec.width / (view[2] - view[0]), spec.height / (view[3] - view[1])
    left = min(round((region[0] - view[0]) * across), spec.width - 1)
    top = min(round((region[1] - view[1]) * down), spec.height - 1)
    right, bottom = round((region[2] - view[0]) * across), round((region[3] - view[1]) * down)
    return left, top, max(left + 1, right), max(top + 1, bottom)

"""Augmentation as geometry plus one colour matrix: every pixel is resampled once, whatever is drawn.

A training image is a canvas of tiles. A tile shows a region of a source image at a place on the canvas, maybe
mirrored. Cropping, zooming out and mosaics differ in the tiles only, so they share one code path. Everything random
comes from the generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edgedet import InvalidInputError, preprocess
from edgedet.bundle import InputSpec

Region = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, end exclusive

_CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # least IoU that a crop must have with some box it keeps
_CROP_TRIALS = 40
_CROP_SIDE = (0.3, 1.0)  # of the image's side
_CROP_ASPECT = (0.5, 2.0)
_ZOOM_OUT = (1.0, 2.5)
_MOSAIC_CENTRE = (0.3, 0.7)


@dataclass(frozen=True)
class Augmentation:
    """Probabilities of each augmentation, all in [0, 1].

    flip, vertical_flip: mirror left-right, top-bottom. photometric: brightness, contrast, saturation and hue.
    crop: SSD's crop with a least IoU. zoom_out: the image shrunk on a grey canvas (only where it is not cropped).
    mosaic: four images in one. min_box: boxes with a side below this many network pixels are dropped.
    """

    flip: float = 0.5
    vertical_flip: float = 0.0
    photometric: float = 0.5
    crop: float = 0.0
    zoom_out: float = 0.0
    mosaic: float = 0.0
    min_box: float = 1.0

    def __post_init__(self) -> None:
        """Raises InvalidInputError for a probability outside [0, 1] or a negative min_box."""
        for name in ("flip", "vertical_flip", "photometric", "crop", "zoom_out", "mosaic"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInputError(f"{name}: expected a probability in [0, 1], got {getattr(self, name)}")
        if not self.min_box >= 0.0:
            raise InvalidInputError(f"min_box: expected pixels, 0 or more, got {self.min_box}")

    def gentle(self) -> Augmentation:
        """Only what keeps images natural: the flips. For the last epochs, and for looking at a model's raw fit."""
        return Augmentation(flip=self.flip, vertical_flip=self.vertical_flip, photometric=0.0, min_box=self.min_box)


@dataclass(frozen=True)
class Source:
    """A decoded image and its boxes. image: (H, W, 3) uint8 RGB; boxes: (n, 4) xyxy in [0, 1]; labels: (n,) int64."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Tile:
    """A region of a source image (pixels of it) shown at a place (pixels of the canvas)."""

    region: Region
    place: Region
    mirrored: bool = False
    upside_down: bool = False


@dataclass(frozen=True)
class Example:
    """One network input but for its colours, which are cheaper to change for a whole batch.

    image: (3, H, W) float32 RGB in [0, 1]; boxes: (n, 4) float32 cxcywh in [0, 1]; labels: (n,) int64.
    colour: (3, 4) as `colour_matrix` gives, still to be applied to the image; None to leave it.
    """

    image: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    colour: NDArray[np.float32] | None = None


def augment(
    source: Source,
    *,
    others: Callable[[Generator], Source],
    spec: InputSpec,
    settings: Augmentation,
    rng: Generator,
    out: NDArray[np.float32] | None = None,
) -> Example:
    """Draws one training example.

    others: gives another source for a mosaic, chosen with the generator passed to it.
    out: (3, H, W) float32, where the image is drawn; a new array if None.
    """
    if rng.random() < settings.mosaic:
        sources = [source, *(others(rng) for _ in range(3))]
        places = _mosaic_places(spec, rng)
    else:
        sources, places = [source], [(0, 0, spec.width, spec.height)]
        if rng.random() < settings.zoom_out:
            places = [_zoomed_place(spec, rng)]
    zoomed = len(sources) == 1 and places[0] != (0, 0, spec.width, spec.height)
    tiles = []
    for each, place in zip(sources, places, strict=True):
        height, width = each.image.shape[:2]
        region = (0, 0, width, height)
        if not zoomed and rng.random() < settings.crop:
            region = iou_crop(each.boxes, width, height, rng)
        tiles.append(
            Tile(
                region=region,
                place=place,
                mirrored=rng.random() < settings.flip,
                upside_down=rng.random() < settings.vertical_flip,
            )
        )
    colour = colour_matrix(rng) if rng.random() < settings.photometric else None
    drawn = compose(sources, tiles, spec=spec, min_box=settings.min_box, out=out)
    return replace(drawn, colour=colour)


def compose(
    sources: list[Source],
    tiles: list[Tile],
    *,
    spec: InputSpec,
    min_box: float = 0.0,
    out: NDArray[np.float32] | None = None,
) -> Example:
    """Renders tiles onto a canvas, grey where there is none, and moves the boxes with them."""
    canvas = np.empty((3, spec.height, spec.width), np.float32) if out is None else out
    if sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (tile.place for tile in tiles)) < spec.width * spec.height:
        canvas.fill(spec.pad_value / 255.0)
    boxes, labels = [], []
    for source, tile in zip(sources, tiles, strict=True):
        _render(canvas, source.image, tile, spec)
        moved, keep = move_boxes(source, tile, spec=spec, min_box=min_box)
        boxes.append(moved)
        labels.append(source.labels[keep])
    corners = np.concatenate(boxes)
    centred = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    return Example(image=canvas, boxes=centred, labels=np.concatenate(labels))


def move_boxes(
    source: Source, tile: Tile, *, spec: InputSpec, min_box: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Boxes of the source as the tile shows them.

    A box stays if its centre is in the region and both sides have at least `min_box` canvas pixels left. Returns the
    kept boxes, (k, 4) xyxy in [0, 1] of the canvas, and the mask of kept ones, (n,) bool.
    """
    height, width = source.image.shape[:2]
    x0, y0, x1, y1 = tile.region
    left, top, right, bottom = tile.place
    boxes = source.boxes * np.asarray([width, height, width, height], np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    keep = np.all((centres >= (x0, y0)) & (centres <= (x1, y1)), axis=1)
    # To [0, 1] of the region, mirrored there, then to the canvas.
    scale = np.asarray([x1 - x0, y1 - y0] * 2, np.float32)
    boxes = np.clip((boxes - np.asarray([x0, y0] * 2, np.float32)) / scale, 0.0, 1.0)
    if tile.mirrored:
        boxes[:, [0, 2]] = 1.0 - boxes[:, [2, 0]]
    if tile.upside_down:
        boxes[:, [1, 3]] = 1.0 - boxes[:, [3, 1]]
    boxes = boxes * np.asarray([right - left, bottom - top] * 2, np.float32) + np.asarray([left, top] * 2, np.float32)
    keep &= np.all(boxes[:, 2:] - boxes[:, :2] >= max(min_box, 1e-3), axis=1)
    return (boxes[keep] / np.asarray([spec.width, spec.height] * 2, np.float32)).astype(np.float32), keep


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
    for _ in range(_CROP_TRIALS):
        w, h = int(width * rng.uniform(*_CROP_SIDE)), int(height * rng.uniform(*_CROP_SIDE))
        if w < 1 or h < 1 or not _CROP_ASPECT[0] <= w / h <= _CROP_ASPECT[1]:
            continue
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        inside = np.all((centres > (x, y)) & (centres < (x + w, y + h)), axis=1)
        if not inside.any():
            continue
        shared = np.clip(np.minimum(pixels[:, 2:], (x + w, y + h)) - np.maximum(pixels[:, :2], (x, y)), 0.0, None)
        overlap = np.prod(shared, axis=1)
        iou = overlap / (areas + w * h - overlap)
        if iou[inside].max() >= _CROP_OVERLAPS[choice]:
            return x, y, x + w, y + h
    return whole


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


def _zoomed_place(spec: InputSpec, rng: Generator) -> Region:
    zoom = rng.uniform(*_ZOOM_OUT)
    width, height = max(1, round(spec.width / zoom)), max(1, round(spec.height / zoom))
    x, y = int(rng.integers(spec.width - width + 1)), int(rng.integers(spec.height - height + 1))
    return x, y, x + width, y + height


def _mosaic_places(spec: InputSpec, rng: Generator) -> list[Region]:
    x, y = int(spec.width * rng.uniform(*_MOSAIC_CENTRE)), int(spec.height * rng.uniform(*_MOSAIC_CENTRE))
    return [(0, 0, x, y), (x, 0, spec.width, y), (0, y, x, spec.height), (x, y, spec.width, spec.height)]


def _render(canvas: NDArray[np.float32], image: NDArray[np.uint8], tile: Tile, spec: InputSpec) -> None:
    x0, y0, x1, y1 = tile.region
    left, top, right, bottom = tile.place
    patch = preprocess(image[y0:y1, x0:x1], width=right - left, height=bottom - top, filter=spec.filter)
    if tile.mirrored:
        patch = patch[:, :, ::-1]
    if tile.upside_down:
        patch = patch[:, ::-1, :]
    canvas[:, top:bottom, left:right] = patch

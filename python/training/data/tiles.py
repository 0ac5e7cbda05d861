"""An image as tiles on a canvas: each shows a region of a source image at a place, and its boxes move with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedet import preprocess
from edgedet.bundle import InputSpec

Region = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, end exclusive


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
    """One network input. image: (3, H, W) float32 RGB in [0, 1]; boxes: (n, 4) cxcywh in [0, 1]; labels: (n,) int64."""

    image: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def compose(
    sources: list[Source],
    tiles: list[Tile],
    *,
    spec: InputSpec,
    min_box: float = 0.0,
    fill: int = 114,
    out: NDArray[np.float32] | None = None,
) -> Example:
    """Renders tiles onto a canvas, of the grey level `fill` where there is none, and moves the boxes with them."""
    canvas = np.empty((3, spec.height, spec.width), np.float32) if out is None else out
    if sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (tile.place for tile in tiles)) < spec.width * spec.height:
        canvas.fill(fill / 255.0)
    boxes, labels = [], []
    for source, tile in zip(sources, tiles, strict=True):
        render(canvas, source.image, tile, spec)
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


def render(canvas: NDArray[np.float32], image: NDArray[np.uint8], tile: Tile, spec: InputSpec) -> None:
    """Draws the region of an image that a tile shows at its place on the canvas, (3, H, W) in [0, 1]."""
    x0, y0, x1, y1 = tile.region
    left, top, right, bottom = tile.place
    patch = preprocess(image[y0:y1, x0:x1], width=right - left, height=bottom - top, filter=spec.filter)
    if tile.mirrored:
        patch = patch[:, :, ::-1]
    if tile.upside_down:
        patch = patch[:, ::-1, :]
    canvas[:, top:bottom, left:right] = patch

"""Mosaic of four images (Bochkovskiy et al., 2020), turned, scaled and moved as in DEIM (Huang et al., 2024).

The four images stand around one corner, each with its shorter side the same length, and the whole of twice the widest
by twice the highest is stretched to the network input. They are rendered at the size they end up with; one bilinear
resampling then turns and moves them. DEIM takes the nearest pixel there and shrinks once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray

from edgedet.bundle import InputSpec
from training.data.policy import Augmentation
from training.data.tiles import Example, Region, Source, Tile, render

_TURN = 10.0  # degrees either way
_MOVE = 0.1  # of the canvas, either way
_SCALE = (0.5, 1.5)

Matrix = NDArray[np.float64]  # (2, 3), from pixels of the rendered plane to pixels of the network input


@dataclass(frozen=True)
class MosaicDraw:
    """How a mosaic is turned (radians), scaled, moved (fractions of the canvas) and mirrored."""

    turn: float = 0.0
    scale: float = 1.0
    move: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False
    upside_down: bool = False


def draw_mosaic(
    sources: Sequence[Source],
    *,
    spec: InputSpec,
    settings: Augmentation,
    rng: Generator,
    out: NDArray[np.float32] | None = None,
) -> Example:
    """A mosaic of four sources with everything else drawn from `rng`."""
    draw = MosaicDraw(
        turn=math.radians(rng.uniform(-_TURN, _TURN)),
        scale=rng.uniform(*_SCALE),
        move=(rng.uniform(-_MOVE, _MOVE), rng.uniform(-_MOVE, _MOVE)),
        mirrored=rng.random() < settings.flip,
        upside_down=rng.random() < settings.vertical_flip,
    )
    return render_mosaic(sources, draw, spec=spec, fill=settings.fill, min_box=settings.min_box, out=out)


def render_mosaic(
    sources: Sequence[Source],
    draw: MosaicDraw,
    *,
    spec: InputSpec,
    fill: int = 0,
    min_box: float = 0.0,
    out: NDArray[np.float32] | None = None,
) -> Example:
    """The mosaic of four sources (top left, top right, bottom left, bottom right).

    A box becomes the upright box around its turned corners, clipped; it stays if both sides have at least `min_box`
    pixels of the network input left.
    """
    width, height = max(1, round(draw.scale * spec.width)), max(1, round(draw.scale * spec.height))
    places, aspect = _places(sources, width, height)
    level = np.float32(fill / 255.0)
    plane = np.full((3, height, width), level, np.float32)
    for source, place in zip(sources, places, strict=True):
        render(plane, source.image, Tile((0, 0, source.image.shape[1], source.image.shape[0]), place), spec)
    matrix = _matrix(draw, (width, height), aspect * height / width, spec)
    image = np.empty((3, spec.height, spec.width), np.float32) if out is None else out
    _warp(plane, matrix, level, image)

    boxes, labels = [], []
    for source, place in zip(sources, places, strict=True):
        moved = _moved(source.boxes, place, matrix, spec)
        keep = np.all(moved[:, 2:] - moved[:, :2] >= max(min_box, 1e-3), axis=1)
        boxes.append(moved[keep] / np.asarray([spec.width, spec.height] * 2, np.float32))
        labels.append(source.labels[keep])
    corners = np.concatenate(boxes).astype(np.float32)
    centred = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    return Example(image=image, boxes=centred, labels=np.concatenate(labels))


def _places(sources: Sequence[Source], width: int, height: int) -> tuple[list[Region], float]:
    """Where the sources are on a plane of width x height, and the plane's aspect before it is stretched to that."""
    sides = [np.asarray(source.image.shape[1::-1]) / min(source.image.shape[:2]) for source in sources]
    cell = np.max(sides, axis=0)
    scale = np.asarray([width, height]) / (2 * cell)
    places = []
    for index, side in enumerate(sides):
        corner = cell * (index % 2, index // 2)
        (left, top), (right, bottom) = np.round(corner * scale), np.round((corner + side) * scale)
        places.append((int(left), int(top), max(int(left) + 1, int(right)), max(int(top) + 1, int(bottom))))
    return places, float(cell[0] / cell[1])


def _matrix(draw: MosaicDraw, size: tuple[int, int], stretch: float, spec: InputSpec) -> Matrix:
    """From the plane to the network input: a turn about the centre, in the proportions before stretching, and a move.

    stretch: how many times longer a pixel of the plane is across than down, before it is stretched.
    """
    cosine, sine = math.cos(draw.turn), math.sin(draw.turn)
    linear = np.asarray([[cosine, -sine / stretch], [sine * stretch, cosine]])
    canvas = np.asarray([spec.width, spec.height], np.float64)
    offset = canvas * (0.5 + np.asarray(draw.move)) - linear @ (np.asarray(size) / 2)
    matrix = np.concatenate([linear, offset[:, None]], axis=1)
    if draw.mirrored:
        matrix[0] = (0.0, 0.0, spec.width) - matrix[0]
    if draw.upside_down:
        matrix[1] = (0.0, 0.0, spec.height) - matrix[1]
    return matrix


def _warp(plane: NDArray[np.float32], matrix: Matrix, level: np.float32, out: NDArray[np.float32]) -> None:
    """Resamples the plane bilinearly into `out`, with `level` outside of it."""
    _, height, width = out.shape
    linear = np.linalg.inv(matrix[:, :2])
    # Centres of the pixels of `out` as grid_sample wants them on the plane: -1 and 1 are its edges.
    half = np.asarray([plane.shape[2], plane.shape[1]]) / 2
    across = (linear[:, :1] * (np.arange(width) + 0.5) / half[:, None]).astype(np.float32)
    down = (linear[:, 1:] * (np.arange(height) + 0.5) / half[:, None]).astype(np.float32)
    start = ((-linear @ matrix[:, 2]) / half - 1.0).astype(np.float32)
    grid = np.empty((1, height, width, 2), np.float32)
    for axis in (0, 1):
        np.add(across[axis][None, :], (down[axis] + start[axis])[:, None], out=grid[0, :, :, axis])
    # Beyond the plane grid_sample gives 0, so that is what `level` has to be meanwhile.
    shifted = plane if level == 0 else plane - level
    sampled = F.grid_sample(torch.from_numpy(shifted)[None], torch.from_numpy(grid), align_corners=False)
    np.add(sampled[0].numpy(), level, out=out)


def _moved(boxes: NDArray[np.float32], place: Region, matrix: Matrix, spec: InputSpec) -> NDArray[np.float64]:
    """Boxes xyxy in [0, 1] of a source at a place of the plane as upright boxes in pixels of the network input."""
    left, top, right, bottom = place
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] * (right - left, bottom - top) + (left, top)  # (n, 4, 2)
    turned = corners @ matrix[:, :2].T + matrix[:, 2]
    upright: NDArray[np.float64] = np.concatenate([turned.min(axis=1), turned.max(axis=1)], axis=1)
    return upright.clip(0.0, [spec.width, spec.height] * 2)

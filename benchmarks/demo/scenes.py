"""Procedural scenes: workshop parts scattered on a bench, with their exact visible boxes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from .shapes import PARTS, Colour, Outline, Plane, box, segment, shade

CLASSES = tuple(PARTS)


@dataclass(frozen=True)
class SceneConfig:
    """What a scene may hold.

    size: side of the square image, pixels. objects, clutter: fewest and most of them, inclusive. radius: smallest and
    largest part, pixels (small ones are likelier: the logarithm is uniform). min_visible: a part of which less than
    this share can be seen (behind another one, or beyond the border) is not placed. noise: grey levels, standard
    deviation of the sensor noise.
    """

    size: int = 256
    objects: tuple[int, int] = (3, 8)
    clutter: tuple[int, int] = (1, 4)
    radius: tuple[float, float] = (15.0, 50.0)
    min_visible: float = 0.6
    noise: float = 3.0

    def __post_init__(self) -> None:
        """Refuse ranges that no scene can satisfy."""
        if self.size < 32:
            raise ValueError(f"size: expected at least 32 pixels, got {self.size}; choose a larger image")
        for name, (low, high), floor in (("objects", self.objects, 1), ("clutter", self.clutter, 0)):
            if not floor <= low <= high:
                raise ValueError(
                    f"{name}: expected {floor} <= fewest <= most, got {low} and {high}; swap or raise them"
                )
        if not 4.0 <= self.radius[0] <= self.radius[1] <= self.size / 2:
            raise ValueError(
                f"radius: expected 4 <= smallest <= largest <= {self.size / 2:g} (half the image), got {self.radius}"
            )
        if not 0.0 < self.min_visible <= 1.0:
            raise ValueError(f"min_visible: expected a share in (0, 1], got {self.min_visible}")


@dataclass(frozen=True)
class SceneObject:
    """One annotated part.

    label: index into CLASSES. box: (x, y, width, height) in whole pixels, tight around what is visible.
    area: visible pixels. visible: their share of the whole part, at least SceneConfig.min_visible.
    """

    label: int
    box: tuple[int, int, int, int]
    area: int
    visible: float


@dataclass(frozen=True)
class Scene:
    """image: (size, size, 3) uint8 RGB. objects: what it shows. owner: (size, size) int16, index of the object that
    each pixel belongs to, -1 for none.
    """

    image: npt.NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    owner: npt.NDArray[np.int16]


def _smooth_noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> Plane:
    """Cloudy noise in [0, 1]: a coarse random grid (cells across, cells down) blown up smoothly to size x size."""
    grid = rng.random((cells[1], cells[0]), dtype=np.float32)
    return np.array(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC), np.float32)


def _plain(base: Colour, texture: Plane, depth: float) -> Plane:
    colour = np.asarray(base, np.float32)
    return np.asarray(colour * (1 + np.float32(depth) * (texture - np.float32(0.5)))[..., None], np.float32)


def _wood(rng: np.random.Generator, size: int) -> Plane:
    bend = _smooth_noise(rng, size, (3, 4)) * 3.0
    rows = np.linspace(0, rng.uniform(3, 6), size, dtype=np.float32)[:, None]
    rings = 0.5 + 0.5 * np.sin((rows + bend) * np.float32(2 * np.pi))
    fibre = _smooth_noise(rng, size, (6, size // 2))
    base = ((0.50, 0.31, 0.17), (0.62, 0.44, 0.27), (0.36, 0.22, 0.13))[int(rng.integers(3))]
    return _plain(base, (0.6 * rings + 0.8 * fibre - 0.2).astype(np.float32), 0.45)


def _felt(rng: np.random.Generator, size: int) -> Plane:
    base = ((0.10, 0.27, 0.20), (0.12, 0.18, 0.34), (0.38, 0.11, 0.13))[int(rng.integers(3))]
    return _plain(base, rng.random((size, size), dtype=np.float32), 0.7)


def _cutting_mat(rng: np.random.Generator, size: int) -> Plane:
    base = ((0.09, 0.34, 0.33), (0.16, 0.17, 0.19), (0.12, 0.25, 0.43))[int(rng.integers(3))]
    mat = _plain(base, rng.random((size, size), dtype=np.float32), 0.12)
    pitch = rng.uniform(18, 30)
    offset = rng.uniform(0, pitch, 2)
    steps = np.arange(size, dtype=np.float32)
    near = [np.abs((steps + o) % pitch - pitch / 2) < 0.55 for o in offset]
    lines = np.maximum(near[0][:, None], near[1][None, :]).astype(np.float32)
    return np.asarray(mat + (0.35 * lines)[..., None] * (np.float32(0.75) - mat), np.float32)


def _brushed_metal(rng: np.random.Generator, size: int) -> Plane:
    streaks = 0.6 * _smooth_noise(rng, size, (4, size)) + 0.4 * rng.random((size, size), dtype=np.float32)
    return _plain((0.50, 0.52, 0.54), streaks.astype(np.float32), 0.35)


def _concrete(rng: np.random.Generator, size: int) -> Plane:
    clouds = sum((_smooth_noise(rng, size, (n, n)) * w for n, w in ((4, 0.5), (16, 0.3), (size // 2, 0.4))), start=0.0)
    return _plain((0.60, 0.58, 0.54), np.asarray(clouds, np.float32), 0.35)


BACKGROUNDS: tuple[Callable[[np.random.Generator, int], Plane], ...] = (
    _wood,
    _felt,
    _cutting_mat,
    _brushed_metal,
    _concrete,
)


def _clutter(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Outline:
    """Something on the bench that is no part: a wire, a scrap of paper, a shaving."""
    kind = int(rng.integers(3))
    if kind == 0:  # a bent piece of insulated wire
        angles = np.cumsum(rng.uniform(-0.7, 0.7, 4))
        points = np.concatenate([[[0, 0]], np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1), 0)])
        points = (points - points.mean(0)) * (0.55 * radius)
        strokes = [segment(x, y, tuple(a), tuple(b), 2.2) for a, b in itertools.pairwise(points)]
        distance = np.minimum.reduce(strokes)
        colour: Colour = ((0.75, 0.10, 0.10), (0.08, 0.08, 0.09), (0.12, 0.30, 0.68))[int(rng.integers(3))]
        bevel, shine = 2.2, 0.5
    elif kind == 1:  # a scrap of paper
        distance = box(x, y, 0.62 * radius, rng.uniform(0.3, 0.6) * radius)
        colour, bevel, shine = (0.86, 0.84, 0.78), 0.5, 0.0
    else:  # a curled shaving
        length = np.hypot(x, y) - np.float32(0.55 * radius)
        gap = np.abs(np.arctan2(y, x)) > 2.0
        distance = np.maximum(np.abs(length) - 1.3, gap * 4.0 - 2.0).astype(np.float32)
        colour, bevel, shine = (0.72, 0.73, 0.75), 1.5, 0.9
    paint = np.broadcast_to(np.asarray(colour, np.float32), (*x.shape, 3)).copy()
    if kind == 1:
        lines = (np.abs(y % 6.0 - 3.0) < 0.7) & (np.abs(x) < 0.45 * radius)
        paint[lines] *= np.float32(0.62)
    return Outline(distance, bevel, paint, shine)


class _Canvas:
    """A scene being drawn, bottom to top, that knows what each pixel belongs to."""

    def __init__(self, config: SceneConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        turn = rng.uniform(0, 2 * np.pi)
        self.light = (float(np.cos(turn)), float(np.sin(turn)))
        self.pixels = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))](rng, config.size)
        self.owner = np.full((config.size, config.size), -1, np.int16)
        self.labels: list[int] = []
        self.full: list[int] = []  # pixels of each whole part, also those hidden or beyond the border

    def place(self, label: int | None) -> None:
        """Draw a part (or clutter, for None) where it leaves every part visible enough; give up after eight places."""
        for _ in range(8):
            if self._try_place(label):
                return

    def _try_place(self, label: int | None) -> bool:
        size, rng = self.config.size, self.rng
        low, high = self.config.radius
        radius = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        centre = rng.uniform(0.04 * size, 0.96 * size, 2)
        turn = rng.uniform(0, 2 * np.pi)

        reach = int(np.ceil(1.15 * radius)) + 8  # the part and its shadow
        left, top = int(centre[0]) - reach, int(centre[1]) - reach
        column = (np.arange(2 * reach + 1, dtype=np.float32) + np.float32(left + 0.5 - centre[0]))[None, :]
        row = (np.arange(2 * reach + 1, dtype=np.float32) + np.float32(top + 0.5 - centre[1]))[:, None]
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        draw = _clutter if label is None else PARTS[CLASSES[label]]
        outline = draw(cos * column + sin * row, cos * row - sin * column, radius, rng)

        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + 2 * reach + 1, size), min(top + 2 * reach + 1, size)
        here = (slice(y0, y1), slice(x0, x1))
        patch = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        covered = (outline.distance < 0)[patch]
        if label is not None and covered.sum() < self.config.min_visible * (outline.distance < 0).sum():
            return False
        hidden = self.owner[here][covered]
        for index in np.unique(hidden[hidden >= 0]):
            left_over = int((self.owner == index).sum()) - int((hidden == index).sum())
            if left_over < self.config.min_visible * self.full[index]:
                return False

        self._paint(outline, here, patch)
        if label is None:
            self.owner[here][covered] = -1
        else:
            self.owner[here][covered] = len(self.labels)
            self.labels.append(label)
            self.full.append(int((outline.distance < 0).sum()))
        return True

    def _paint(self, outline: Outline, here: tuple[slice, slice], patch: tuple[slice, slice]) -> None:
        reach = max(2.0, 0.10 * outline.distance.shape[0] / 2)
        shift = (round(-reach * self.light[1]), round(-reach * self.light[0]))
        shadow = np.clip(0.5 - np.roll(outline.distance, shift, (0, 1)) / (2 * reach), 0, 1) ** 2
        ground = self.pixels[here] * (1 - 0.62 * shadow[patch])[..., None]
        alpha = np.clip(0.5 - outline.distance, 0, 1)[patch][..., None]
        tint = self.rng.uniform(0.85, 1.12)
        self.pixels[here] = ground + (shade(outline, self.light)[patch] * tint - ground) * alpha

    def develop(self) -> npt.NDArray[np.uint8]:
        """Apply the lamp's fall-off, its colour, exposure and sensor noise; (size, size, 3) uint8."""
        size, rng = self.config.size, self.rng
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        fall = 1 + 0.22 * (axis[None, :] * self.light[0] + axis[:, None] * self.light[1])
        fall -= 0.14 * (axis[None, :] ** 2 + axis[:, None] ** 2)
        warmth = rng.uniform(-0.07, 0.07)
        colour = np.asarray((1 + warmth, 1, 1 - warmth), np.float32) * rng.uniform(0.88, 1.12)
        linear = np.clip(self.pixels * (fall[..., None] * colour), 0, 1)
        levels = 255 * linear ** np.float32(1 / 1.35)
        levels += rng.standard_normal(levels.shape, dtype=np.float32) * np.float32(self.config.noise)
        return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def draw_scene(rng: np.random.Generator, config: SceneConfig) -> Scene:
    """Draw one scene; the same generator state and config give the same bytes.

    The scene holds at least one object and at most `config.objects[1]`; fewer than drawn by lot where there was no
    room.
    """
    canvas = _Canvas(config, rng)
    wanted = [int(label) for label in rng.integers(len(CLASSES), size=rng.integers(*config.objects, endpoint=True))]
    others: list[int | None] = [None] * int(rng.integers(*config.clutter, endpoint=True))
    order = [*wanted, *others]
    for index in rng.permutation(len(order)):
        canvas.place(order[index])
    while not canvas.labels:
        canvas.place(wanted[0])

    objects = []
    for index, label in enumerate(canvas.labels):
        rows, columns = np.nonzero(canvas.owner == index)
        x, y = int(columns.min()), int(rows.min())
        extent = (x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y)
        objects.append(SceneObject(label, extent, len(rows), len(rows) / canvas.full[index]))
    return Scene(canvas.develop(), tuple(objects), canvas.owner)

"""Outlines of workshop parts as signed distance functions, and how a part is shaded.

A signed distance is negative inside, in pixels. Everything takes coordinates (H, W) float32 in the part's own frame:
pixels from its centre, x to the right and y downwards before the part is turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Plane: TypeAlias = npt.NDArray[np.float32]
Colour: TypeAlias = tuple[float, float, float]  # linear RGB in [0, 1]

_BRASS: Colour = (0.83, 0.62, 0.26)
_COPPER: Colour = (0.79, 0.42, 0.25)
_STEEL: Colour = (0.66, 0.69, 0.73)
_ZINC: Colour = (0.74, 0.74, 0.66)
_GUNMETAL: Colour = (0.36, 0.40, 0.47)
_RESIN: Colour = (0.11, 0.12, 0.14)
_LENSES: tuple[Colour, ...] = ((0.92, 0.16, 0.14), (0.15, 0.75, 0.30), (0.18, 0.38, 0.95), (0.98, 0.72, 0.12))


@dataclass(frozen=True)
class Outline:
    """A part drawn at its size: what it covers, how its surface rises, what it is painted with.

    distance: (H, W) signed distance to the outline. bevel: width in pixels over which the surface rises from the edge.
    paint: (H, W, 3) linear RGB in [0, 1]. shine: strength of the highlight in [0, 1].
    """

    distance: Plane
    bevel: float
    paint: Plane
    shine: float


def circle(x: Plane, y: Plane, radius: float) -> Plane:
    """Signed distance to a circle around the origin."""
    return np.asarray(np.hypot(x, y) - np.float32(radius), np.float32)


def box(x: Plane, y: Plane, half_width: float, half_height: float, rounding: float = 0.0) -> Plane:
    """Signed distance to a rectangle around the origin with rounded corners."""
    dx = np.abs(x) - np.float32(half_width - rounding)
    dy = np.abs(y) - np.float32(half_height - rounding)
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return np.asarray(outside + np.minimum(np.maximum(dx, dy), 0) - np.float32(rounding), np.float32)


def hexagon(x: Plane, y: Plane, apothem: float) -> Plane:
    """Distance to a regular hexagon around the origin: exact inside, a little short beyond the corners."""
    faces = [np.abs(x * np.float32(np.cos(a)) + y * np.float32(np.sin(a))) for a in (0.0, np.pi / 3, 2 * np.pi / 3)]
    return np.asarray(np.maximum(np.maximum(faces[0], faces[1]), faces[2]) - np.float32(apothem), np.float32)


def segment(x: Plane, y: Plane, start: tuple[float, float], end: tuple[float, float], radius: float) -> Plane:
    """Signed distance to a straight stroke with round ends, `radius` half its thickness."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-6)
    t = np.clip(along, 0, 1)
    return np.asarray(np.hypot(x - start[0] - t * dx, y - start[1] - t * dy) - radius, np.float32)


def _inside(distance: Plane) -> Plane:
    """Coverage in [0, 1], smooth over one pixel."""
    return np.asarray(np.clip(np.float32(0.5) - distance, 0, 1), np.float32)


def _painted(shape: tuple[int, ...], colour: Colour) -> Plane:
    return np.tile(np.asarray(colour, np.float32), (*shape, 1))


def _mix(paint: Plane, colour: Colour, amount: Plane) -> Plane:
    return np.asarray(paint + (np.asarray(colour, np.float32) - paint) * amount[..., None], np.float32)


def gear(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Outline:
    """A brass gear: 8 to 12 teeth, a bore, a groove between them."""
    teeth = int(rng.integers(8, 13))
    wave = np.sin(np.arctan2(y, x) * np.float32(teeth))
    rim = np.float32(0.87 * radius) + np.float32(0.13 * radius) * np.clip(wave * 2.5, -1, 1)
    length = np.hypot(x, y)
    distance = np.maximum(length - rim, 0.24 * radius - length).astype(np.float32)
    groove = _inside((np.abs(length - 0.52 * radius) - 0.07 * radius).astype(np.float32))
    return Outline(distance, 0.10 * radius, _mix(_painted(x.shape, _BRASS), (0.42, 0.28, 0.10), groove), 0.5)


def nut(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Outline:
    """A hexagonal nut of zinc-plated steel with a threaded bore."""
    length = np.hypot(x, y)
    bore = rng.uniform(0.44, 0.52) * radius
    distance = np.maximum(hexagon(x, y, 0.87 * radius), bore - length).astype(np.float32)
    thread = _inside((np.abs(length - bore - 0.06 * radius) - 0.04 * radius).astype(np.float32))
    return Outline(distance, 0.22 * radius, _mix(_painted(x.shape, _ZINC), (0.33, 0.33, 0.30), thread), 0.7)


def washer(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Outline:
    """A flat copper ring."""
    length = np.hypot(x, y)
    bore = rng.uniform(0.48, 0.60) * radius
    distance = np.maximum(length - radius, bore - length).astype(np.float32)
    return Outline(distance, 0.09 * radius, _painted(x.shape, _COPPER), 0.8)


def bolt(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Outline:
    """A bolt seen from the side: a head, and a shank with its thread; 0.62 to 0.80 as wide as it is long."""
    head = 0.42 * radius
    shank = rng.uniform(0.19, 0.24) * radius
    cap = box(x + (radius - 0.24 * radius), y, 0.24 * radius, head, 0.08 * radius)
    rod = box(x - 0.26 * radius, y, 0.74 * radius, shank, 0.06 * radius)
    distance = np.minimum(cap, rod)
    pitch = max(0.16 * radius, 2.5)
    turns = np.float32(0.5) + np.float32(0.5) * np.sin((x + y * 0.35) * np.float32(2 * np.pi / pitch))
    thread = turns * _inside((rod + 0.5).astype(np.float32)) * (x > -0.30 * radius)
    paint = _mix(_painted(x.shape, _GUNMETAL), (0.14, 0.16, 0.20), (0.75 * thread).astype(np.float32))
    return Outline(distance, 0.17 * radius, paint, 0.9)


def chip(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Outline:
    """An integrated circuit: a dark body, four or five legs a side, a dot at pin one."""
    legs = int(rng.integers(4, 6))
    body = box(x, y, 0.84 * radius, 0.50 * radius, 0.07 * radius)
    pitch = 1.56 * radius / legs
    centre = (np.clip(np.round(x / pitch + (legs - 1) / 2), 0, legs - 1) - (legs - 1) / 2) * pitch
    pins = box((x - centre).astype(np.float32), y, 0.26 * pitch, 0.66 * radius)
    distance = np.minimum(body, pins)
    paint = _mix(_painted(x.shape, _STEEL), _RESIN, _inside(body))
    dot = circle((x + 0.66 * radius).astype(np.float32), (y - 0.31 * radius).astype(np.float32), 0.10 * radius)
    lines = _inside((np.abs(np.abs(y) - 0.11 * radius) - 0.045 * radius).astype(np.float32)) * (
        np.abs(x - 0.05 * radius) < 0.42 * radius
    )
    paint = _mix(paint, (0.46, 0.47, 0.50), np.maximum(_inside(dot), 0.7 * lines).astype(np.float32))
    return Outline(distance, 0.08 * radius, paint, 0.35)


def led(x: Plane, y: Plane, radius: float, rng: np.random.Generator) -> Outline:
    """A light-emitting diode seen from above: a dome of coloured resin on a flange that is cut flat on one side."""
    colour = _LENSES[int(rng.integers(len(_LENSES)))]
    length = np.hypot(x, y)
    distance = np.maximum(length - radius, x - 0.86 * radius).astype(np.float32)
    dome = np.clip(1 - (length / (0.78 * radius)) ** 2, 0, 1).astype(np.float32)
    paint = _painted(x.shape, (0.62 * colour[0], 0.62 * colour[1], 0.62 * colour[2]))
    paint = _mix(paint, colour, np.sqrt(dome).astype(np.float32))
    glow = np.clip(1 - np.hypot(x + 0.22 * radius, y + 0.26 * radius) / (0.30 * radius), 0, 1)
    paint = _mix(paint, (1.0, 1.0, 1.0), (0.85 * glow).astype(np.float32))
    rim = _inside((np.abs(length - 0.80 * radius) - 0.035 * radius).astype(np.float32))
    return Outline(distance, 0.16 * radius, _mix(paint, (0.20, 0.05, 0.05), (0.45 * rim).astype(np.float32)), 0.8)


Part: TypeAlias = Callable[[Plane, Plane, float, np.random.Generator], Outline]

# Class name of each label and how it is drawn. Every part fits a circle of 1.1 times its radius.
PARTS: dict[str, Part] = {"gear": gear, "nut": nut, "washer": washer, "bolt": bolt, "chip": chip, "led": led}


def shade(outline: Outline, light: tuple[float, float]) -> Plane:
    """Lit surface of a part, (H, W, 3) linear RGB.

    The surface rises from the outline like a quarter of an ellipse over `bevel` pixels; a diffuse and a Blinn-Phong
    term light it. light: unit vector towards the lamp, (x, y) in the image.
    """
    depth = np.clip(-outline.distance / np.float32(max(outline.bevel, 1.0)), 0, 1)
    height = np.sqrt(1 - (1 - depth) ** 2) * np.float32(outline.bevel)
    slope_y, slope_x = np.gradient(height)
    norm = np.sqrt(slope_x**2 + slope_y**2 + 1)
    lamp = np.asarray((0.62 * light[0], 0.62 * light[1], 0.78), np.float32)
    half = lamp + np.asarray((0, 0, 1), np.float32)
    half /= np.linalg.norm(half)
    diffuse = np.clip((lamp[2] - slope_x * lamp[0] - slope_y * lamp[1]) / norm, 0, None)
    highlight = np.clip((half[2] - slope_x * half[0] - slope_y * half[1]) / norm, 0, 1) ** 24
    lit = outline.paint * (0.30 + 0.90 * diffuse)[..., None]
    return np.asarray(lit + (0.55 * outline.shine * highlight)[..., None], np.float32)

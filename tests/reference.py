"""What preprocessing and decoding compute, in plain NumPy: the reference every backend is tested against.

Written from the documents (OpenCV and Pillow for the resize filters, the DETR papers for boxes), not from the C++:
whole images in float64 or int64, no attention to speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Resize = Literal["stretch", "letterbox"]
Filter = Literal["bilinear", "antialias"]
Format = Literal["rgb", "bgr", "gray", "nv12"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """Where the image lies in the network input, in pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


def place(image_width: int, image_height: int, width: int, height: int, resize: Resize) -> Placement:
    """Stretch fills the input. Letterbox keeps the aspect ratio, rounds half up, puts the odd border pixel last."""
    if resize == "stretch":
        return Placement(0, 0, width, height)
    if width * image_height <= height * image_width:
        inner = max(1, (2 * image_height * width + image_width) // (2 * image_width))
        return Placement(0, (height - inner) // 2, width, inner)
    inner = max(1, (2 * image_width * height + image_height) // (2 * image_height))
    return Placement((width - inner) // 2, 0, inner, height)


def nv12_to_rgb(image: NDArray[np.uint8]) -> Ints:
    """(H * 3 / 2, W) to (H, W, 3): BT.601, limited range, 20 fractional bits, rounded half up."""
    height = image.shape[0] * 2 // 3
    luma = np.maximum(image[:height].astype(np.int64) - 16, 0)
    chroma = image[height:].astype(np.int64).reshape(height // 2, -1, 2) - 128
    u, v = (np.repeat(np.repeat(chroma[..., c], 2, axis=0), 2, axis=1) for c in (0, 1))

    def coefficient(value: float) -> int:
        return round(value * 2**20)

    scaled = luma * coefficient(1.164) + 2**19
    red = scaled + coefficient(1.596) * v
    green = scaled - coefficient(0.813) * v - coefficient(0.391) * u
    blue = scaled + coefficient(2.018) * u
    return np.clip(np.stack([red, green, blue], axis=-1) // 2**20, 0, 255)


def to_rgb(image: NDArray[np.uint8], image_format: Format) -> Ints:
    """Any supported layout to (H, W, 3) int64, red first."""
    if image_format == "nv12":
        return nv12_to_rgb(image)
    levels = image.astype(np.int64)
    if image_format == "gray":
        return np.repeat(levels[..., None], 3, axis=2)
    return levels[..., ::-1] if image_format == "bgr" else levels


def _linear_taps(size: int, out: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Indices and 11-bit weights of the two taps of each output, as OpenCV computes them: positions in float32."""
    scale = 1.0 / (out / size)
    centre = ((np.arange(out) + 0.5) * scale - 0.5).astype(np.float32)
    whole = np.floor(centre)
    fraction = centre - whole
    first = whole.astype(np.int64)
    low = np.rint((np.float32(1) - fraction) * np.float32(2048)).astype(np.int64)
    high = np.rint(fraction * np.float32(2048)).astype(np.int64)
    return np.clip(first, 0, size - 1), np.clip(first + 1, 0, size - 1), low, high


def bilinear(image: Ints, width: int, height: int) -> Ints:
    """(H, W, 3) to (height, width, 3): OpenCV's 8-bit INTER_LINEAR."""
    left, right, left_weight, right_weight = _linear_taps(image.shape[1], width)
    border = left == right
    left_weight[border], right_weight[border] = 2048, 0
    rows = (image[:, left] * left_weight[:, None] + image[:, right] * right_weight[:, None]) >> 4
    top, bottom, top_weight, bottom_weight = _linear_taps(image.shape[0], height)
    upper = (rows[top] * top_weight[:, None, None]) >> 16
    lower = (rows[bottom] * bottom_weight[:, None, None]) >> 16
    return (upper + lower + 2) >> 2


def _triangle_matrix(size: int, out: int) -> Ints:
    """(out, size) weights with 22 fractional bits, as Pillow computes them."""
    scale = size / out
    support = max(scale, 1.0)
    matrix = np.zeros((out, size), dtype=np.int64)
    for index in range(out):
        centre = (index + 0.5) * scale
        first = max(0, int(centre - support + 0.5))
        last = min(size, int(centre + support + 0.5))
        distance = np.abs((np.arange(first, last) - centre + 0.5) * (1.0 / support))
        weights = np.where(distance < 1.0, 1.0 - distance, 0.0)
        total = 0.0
        for weight in weights:  # in order: a pairwise sum rounds differently
            total += float(weight)
        matrix[index, first:last] = (0.5 + weights * (1.0 / total) * 2**22).astype(np.int64)
    return matrix


def antialias(image: Ints, width: int, height: int) -> Ints:
    """(H, W, 3) to (height, width, 3): Pillow 13's BILINEAR, both passes rounded to bytes."""
    across = _triangle_matrix(image.shape[1], width)
    down = _triangle_matrix(image.shape[0], height)

    def pass_across(levels: Ints) -> Ints:
        return np.clip((np.einsum("hwc,ow->hoc", levels, across) + 2**21) >> 22, 0, 255)

    def pass_down(levels: Ints) -> Ints:
        return np.clip((np.einsum("hwc,oh->owc", levels, down) + 2**21) >> 22, 0, 255)

    shrinks_down = image.shape[0] - height
    if shrinks_down > 0 and shrinks_down > 2 * (image.shape[1] - width):
        return pass_across(pass_down(image))
    return pass_down(pass_across(image))


def preprocess(
    image: NDArray[np.uint8],
    *,
    width: int,
    height: int,
    resize: Resize = "stretch",
    filter: Filter = "bilinear",
    channels: Literal["rgb", "bgr"] = "rgb",
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    pad_value: int = 114,
    format: Format = "rgb",
) -> Floats:
    """Image to network input (3, height, width) float64."""
    rgb = to_rgb(image, format)
    at = place(rgb.shape[1], rgb.shape[0], width, height, resize)
    levels = np.full((height, width, 3), pad_value, dtype=np.int64)
    resized = (bilinear if filter == "bilinear" else antialias)(rgb, at.width, at.height)
    levels[at.y : at.y + at.height, at.x : at.x + at.width] = resized
    if channels == "bgr":
        levels = levels[..., ::-1]
    return ((levels / 255.0 - np.asarray(mean)) / np.asarray(std)).transpose(2, 0, 1)


@dataclass(frozen=True)
class Rows:
    """boxes: (N, 4) float64 xyxy in pixels of the image; scores: (N,) float64; labels: (N,) int64; best first."""

    boxes: Floats
    scores: Floats
    labels: Ints


def _to_image(boxes: Floats, image_size: tuple[int, int], size: tuple[int, int], resize: Resize) -> Floats:
    """xyxy pixels of the network input to xyxy pixels of the image, clipped."""
    at = place(*image_size, *size, resize)
    offset = np.array([at.x, at.y, at.x, at.y])
    ratio = np.array([image_size[0] / at.width, image_size[1] / at.height] * 2)
    return np.clip((boxes - offset) * ratio, 0, np.array([*image_size, *image_size], dtype=np.float64))


def _best(values: Floats, top_k: int) -> Ints:
    """Indices of the largest values, ties in order of the index."""
    return np.lexsort((np.arange(values.size), -values))[:top_k]


def decode_logits(
    logits: NDArray[np.float32],
    boxes: NDArray[np.float32],
    *,
    size: tuple[int, int],
    image_size: tuple[int, int],
    resize: Resize = "stretch",
    top_k: int = 300,
    score_threshold: float = 0.0,
) -> Rows:
    """logits (Q, C), boxes (Q, 4) cxcywh in [0, 1] of the network input; sizes are (width, height)."""
    flat = logits.astype(np.float64).ravel()
    kept = _best(flat, top_k)
    scores = np.array([1 / (1 + math.exp(-value)) if value > -700 else 0.0 for value in flat[kept]])
    kept, scores = kept[scores >= score_threshold], scores[scores >= score_threshold]
    centre = boxes.astype(np.float64)[kept // logits.shape[1]]
    corners = np.concatenate([centre[:, :2] - centre[:, 2:] / 2, centre[:, :2] + centre[:, 2:] / 2], axis=1)
    pixels = corners * np.array([*size, *size])
    return Rows(_to_image(pixels, image_size, size, resize), scores, kept % logits.shape[1])


def decode_scored(
    labels: NDArray[np.int64],
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    size: tuple[int, int],
    image_size: tuple[int, int],
    resize: Resize = "stretch",
    top_k: int = 300,
    score_threshold: float = 0.0,
) -> Rows:
    """labels (R,), boxes (R, 4) xyxy pixels of the network input, scores (R,)."""
    kept = _best(scores.astype(np.float64), top_k)
    kept = kept[scores[kept] >= np.float32(score_threshold)]
    return Rows(
        _to_image(boxes.astype(np.float64)[kept], image_size, size, resize),
        scores[kept].astype(np.float64),
        labels[kept],
    )

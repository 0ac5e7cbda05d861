"""Mixup and copy-blend: an image and the one before it in the batch, blended as a whole or by objects.

Both come from DEIM and DEIMv2 (Huang et al., 2024 and 2025), where the batch decides as a whole and copy-blend takes
objects of the whole batch. Here every image decides for itself and has one partner, so that a batch split over
processes is mixed as it would be in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from training.data.policy import Augmentation

_OWN_SHARE = (0.45, 0.55)
_OBJECTS = 3
_LEAST_AREA = 100.0  # square pixels of the network input
_MARGIN = (0.1, 0.25)  # of the object's sides, around it


@dataclass(frozen=True)
class Mix:
    """What is to be done with an image. share: its own weight, in (0, 1). rng: of what else has to be drawn."""

    kind: Literal["mixup", "copy-blend"]
    share: float
    rng: Generator


def draw_mix(settings: Augmentation, rng: Generator) -> Mix | None:
    """Draws whether and how an image is mixed with its partner."""
    if rng.random() < settings.mixup:
        return Mix("mixup", rng.uniform(*_OWN_SHARE), rng)
    if rng.random() < settings.copy_blend:
        return Mix("copy-blend", rng.uniform(*_OWN_SHARE), rng)
    return None


def mix_batch(
    images: Tensor, targets: Sequence[Mapping[str, Tensor]], mixes: Sequence[Mix | None], partners: Sequence[int]
) -> list[dict[str, Tensor]]:
    """Mixes the first images of a batch in place with their partners as they were, and returns their targets.

    images: (B, 3, H, W) float32. targets: per image "labels" and "boxes" (cxcywh in [0, 1]). mixes: of the first
    images; later ones are partners only. partners: for each of them the index of the other image.
    """
    mixed = [
        (images[index], dict(targets[index]))
        if mix is None or partner == index
        else _mixed(images[index], targets[index], images[partner], targets[partner], mix)
        for index, (mix, partner) in enumerate(zip(mixes, partners, strict=True))
    ]
    for index, (image, _) in enumerate(mixed):
        if image.data_ptr() != images[index].data_ptr():
            images[index] = image
    return [target for _, target in mixed]


def _mixed(
    image: Tensor, target: Mapping[str, Tensor], other: Tensor, other_target: Mapping[str, Tensor], mix: Mix
) -> tuple[Tensor, dict[str, Tensor]]:
    if mix.kind == "mixup":
        blended, added = torch.lerp(other, image, mix.share), other_target
    else:
        blended, added = _copy_blend(image, other, other_target, mix)
    return blended, {name: torch.cat([target[name], added[name]]) for name in ("labels", "boxes")}


def _copy_blend(
    image: Tensor, other: Tensor, other_target: Mapping[str, Tensor], mix: Mix
) -> tuple[Tensor, dict[str, Tensor]]:
    """The image with up to three objects of the other one, each with a margin, blended in at random places."""
    _, height, width = image.shape
    size = np.asarray([width, height] * 2, np.float32)
    boxes = other_target["boxes"].numpy() * size
    pool = np.flatnonzero(boxes[:, 2] * boxes[:, 3] >= _LEAST_AREA)
    chosen = mix.rng.permutation(pool)[:_OBJECTS]
    blended, placed, labels = image.clone(), [], []
    for index in chosen.tolist():
        corners = np.concatenate([boxes[index, :2] - boxes[index, 2:] / 2, boxes[index, :2] + boxes[index, 2:] / 2])
        left, top, right, bottom = np.clip(corners, 0, size).astype(int).tolist()
        wide, high = right - left, bottom - top
        if wide < 1 or high < 1:
            continue
        x, y = int(mix.rng.integers(width - wide + 1)), int(mix.rng.integers(height - high + 1))
        margin = mix.rng.uniform(*_MARGIN)
        # The margin ends where either image does.
        before_x, before_y = min(int(wide * margin), left, x), min(int(high * margin), top, y)
        after_x = min(int(wide * margin), width - right, width - x - wide)
        after_y = min(int(high * margin), height - bottom, height - y - high)
        patch = other[:, top - before_y : bottom + after_y, left - before_x : right + after_x]
        under = blended[:, y - before_y : y + high + after_y, x - before_x : x + wide + after_x]
        under.copy_(torch.lerp(patch, under, mix.share))
        placed.append([(x + wide / 2) / width, (y + high / 2) / height, wide / width, high / height])
        labels.append(int(other_target["labels"][index]))
    return blended, {
        "labels": torch.tensor(labels, dtype=torch.int64),
        "boxes": torch.tensor(placed, dtype=torch.float32).reshape(-1, 4),
    }

"""Anchors: the boxes that query selection starts from, one per cell of every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.models.deformable_attention import Shape


def make_anchors(shapes: Sequence[Shape], *, cell: float = 0.05, eps: float = 1e-2) -> tuple[Tensor, Tensor]:
    """One box per cell of every level, as logits, and which of them are usable.

    shapes: (H, W) per level; boxes of level l have size cell * 2**l. A box with a coordinate nearer than eps to 0 or 1
    is not usable and its logits are infinite.

    Returns anchors (1, L, 4) float32 and valid (1, L, 1) bool.
    """
    levels = []
    for level, (height, width) in enumerate(shapes):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centre = (torch.stack([x, y], dim=-1) + 0.5) / torch.tensor([width, height], dtype=torch.float32)
        size = torch.full_like(centre, cell * 2.0**level)
        levels.append(torch.cat([centre, size], dim=-1).view(1, height * width, 4))
    boxes = torch.cat(levels, dim=1)
    valid = ((boxes > eps) & (boxes < 1 - eps)).all(-1, keepdim=True)
    return torch.where(valid, torch.log(boxes / (1 - boxes)), torch.inf), valid

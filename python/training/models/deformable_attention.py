"""Multi-scale deformable cross-attention without a value projection (Deformable DETR, Zhu et al. 2021; D-FINE's form).

The sampling itself has several forms that give the same numbers and differ in what they cost where; see `Sampling`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sampling = Literal["gather", "grid_sample", "discrete"]
"""How a deployed network reads its maps. gather: bilinear by four gathers. grid_sample: bilinear by the framework's
operator. discrete: one cell, an approximation that only networks trained for it should use."""

Shape = tuple[int, int]


def _sample_grid(values: list[Tensor], locations: Tensor, weights: Tensor, points: tuple[int, ...]) -> Tensor:
    batch, queries = weights.shape[:2]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1).split(points, dim=2)
    sampled = [
        F.grid_sample(value, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        for value, grid in zip(values, grids, strict=True)
    ]
    weights = weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)
    out = (torch.cat(sampled, dim=-1) * weights).sum(-1)
    return out.view(batch, -1, queries).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each query looks at a few points around its box on every level and mixes what it finds there.

    points: sampling points per level. Parameters are named as in the published checkpoints.
    """

    def __init__(self, dim: int, heads: int, points: tuple[int, ...]) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        total = sum(points)
        self.register_buffer("num_points_scale", torch.tensor([1 / n for n in points for _ in range(n)]))
        self.num_points_scale: Tensor
        self.sampling_offsets = nn.Linear(dim, heads * total * 2)
        self.attention_weights = nn.Linear(dim, heads * total)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # Points of a head start on a ray of their own, at 1, 2, 3 ... steps on each level.
        angle = torch.arange(heads) * (2.0 * math.pi / heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.cat([torch.arange(1, n + 1) for n in points])
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((ray[:, None] * steps[:, None]).flatten())

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, shapes: list[Shape]) -> Tensor:
        """Attend.

        query: (B, Q, D). reference: (B, Q, 4) cxcywh in [0, 1]. value: (B, L, D), the levels' cells row by row, one
        level after another. shapes: (H, W) of each level. Returns (B, Q, D).
        """
        batch, queries, dim = query.shape
        offsets = self.sampling_offsets(query).view(batch, queries, self.heads, -1, 2)
        weights = self.attention_weights(query).view(batch, queries, self.heads, -1).softmax(dim=-1)
        # Offsets are in units of half the box, divided by the level's number of points.
        scale = 0.5 * self.num_points_scale.to(query.dtype).unsqueeze(-1)
        reference = reference[:, :, None, None]
        locations = reference[..., :2] + offsets * scale * reference[..., 2:]
        maps = [
            v.transpose(1, 2).reshape(batch * self.heads, dim // self.heads, h, w)
            for v, (h, w) in zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
        ]
        return _sample_grid(maps, locations, weights, self.points)

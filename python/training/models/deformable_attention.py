"""Multi-scale deformable cross-attention (Deformable DETR, Zhu et al. 2021), in RT-DETR's and in D-FINE's form.

The sampling itself has several forms that give the same numbers and differ in what they cost where; see `Sampling`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.cell_table import CellTable, Shape

__all__ = ["CellTable", "DeformableAttention", "HeadMaps", "Sampling", "Shape", "TrainedSampling"]

Sampling = Literal["gather", "grid_sample", "discrete"]
"""How a deployed network reads its maps. gather: bilinear by four gathers. grid_sample: bilinear by the framework's
operator. discrete: one cell, an approximation that only networks trained for it should use."""

TrainedSampling = Literal["bilinear", "discrete"]
"""How a network was trained to read its maps. discrete: the one cell that a location falls into (RT-DETRv2, Lv et al.
2024, §3.1), which has no gradient for the location."""

_LONG_ROW = 16  # channels per head from which a `CellTable` is the faster


class HeadMaps:
    """The maps of every head with channels first: what `torch.nn.functional.grid_sample` takes."""

    def __init__(self, memory: Tensor, shapes: list[Shape], heads: int, sampling: TrainedSampling) -> None:
        """memory: (B, L, D), the levels' cells row by row, one level after another. shapes: their (H, W)."""
        batch, _, dim = memory.shape
        self.sampling = sampling
        self.maps = [
            level.transpose(1, 2).reshape(batch * heads, dim // heads, h, w)
            for level, (h, w) in zip(memory.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
        ]

    def sample(self, locations: Tensor, weights: Tensor, points: tuple[int, ...]) -> Tensor:
        """Weighted sums of what is found at points: see `CellTable.sample`."""
        batch, queries = weights.shape[:2]
        mode = "bilinear" if self.sampling == "bilinear" else "nearest"
        sampled = []
        for level, at in zip(self.maps, locations.transpose(1, 2).flatten(0, 1).split(points, dim=2), strict=True):
            if self.sampling == "discrete":
                at = _cell_centre(at, (level.shape[2], level.shape[3]))
            sampled.append(F.grid_sample(level, 2 * at - 1, mode=mode, padding_mode="zeros", align_corners=False))
        mixed = (torch.cat(sampled, dim=-1) * weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(-1)
        return mixed.view(batch, -1, queries).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each query looks at a few points around its box on every level and mixes what it finds there.

    points: sampling points per level. projections: whether values and result go through linear layers of their own
    (RT-DETR) or not (D-FINE). Parameters are named as in the published checkpoints.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        points: tuple[int, ...],
        *,
        projections: bool = False,
        sampling: TrainedSampling = "bilinear",
    ) -> None:
        super().__init__()
        self.heads, self.points, self.sampling = heads, points, sampling
        total = sum(points)
        self.register_buffer("num_points_scale", torch.tensor([1 / n for n in points for _ in range(n)]))
        self.num_points_scale: Tensor
        self.sampling_offsets = nn.Linear(dim, heads * total * 2)
        self.attention_weights = nn.Linear(dim, heads * total)
        self.value_proj = nn.Linear(dim, dim) if projections else None
        self.output_proj = nn.Linear(dim, dim) if projections else None
        self._initialise()
        if sampling == "discrete":
            self.sampling_offsets.requires_grad_(False)

    def _initialise(self) -> None:
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for projection in (self.value_proj, self.output_proj):
            if projection is not None:
                nn.init.xavier_uniform_(projection.weight)
                nn.init.zeros_(projection.bias)
        # Points of a head start on a ray of their own, at 1, 2, 3 ... steps on each level.
        angle = torch.arange(self.heads) * (2.0 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.cat([torch.arange(1, n + 1) for n in self.points])
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((ray[:, None] * steps[:, None]).flatten())

    def values(self, memory: Tensor, shapes: list[Shape]) -> CellTable | HeadMaps:
        """What `forward` samples from. Without projections the same for every layer of a decoder.

        memory: (B, L, D), the levels' cells row by row, one level after another. shapes: (H, W) of each level.
        """
        if self.value_proj is not None:
            memory = self.value_proj(memory)
        long = memory.shape[-1] >= _LONG_ROW * self.heads
        if long and memory.device.type == "cpu" and memory.dtype == torch.float32 and self.sampling == "bilinear":
            return CellTable(memory, shapes, self.heads)
        return HeadMaps(memory, shapes, self.heads, self.sampling)

    def forward(self, query: Tensor, reference: Tensor, values: CellTable | HeadMaps) -> Tensor:
        """Attend.

        query: (B, Q, D). reference: (B, Q, 4) cxcywh in [0, 1]. values: as `values` made them. Returns (B, Q, D).
        """
        batch, queries, _ = query.shape
        offsets = self.sampling_offsets(query).view(batch, queries, self.heads, -1, 2)
        weights = self.attention_weights(query).view(batch, queries, self.heads, -1).softmax(dim=-1)
        # Offsets are in units of half the box, divided by the level's number of points.
        scale = 0.5 * self.num_points_scale.to(query.dtype).unsqueeze(-1)
        reference = reference[:, :, None, None]
        locations = reference[..., :2] + offsets * scale * reference[..., 2:]
        out = values.sample(locations, weights, self.points)
        return out if self.output_proj is None else self.output_proj(out)


def _cell_centre(location: Tensor, shape: Shape) -> Tensor:
    """The centre of the cell that RT-DETRv2 reads for a location: half a cell beyond the nearest one, inside the map.

    Its published code keeps x below the height of the map, a slip that shows on maps wider or narrower than high.
    """
    size = location.new_tensor([shape[1], shape[0]])
    cell = (location * size + 0.5).floor().clamp(min=0).minimum(size - 1)
    return (cell + 0.5) / size

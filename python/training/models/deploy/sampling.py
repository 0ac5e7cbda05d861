"""Deformable attention for maps of fixed size, in the forms that engines run well; see `Sampling`.

Shapes here: P counts the sampling points of a head over all levels, R = heads * P.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.models.deformable_attention import DeformableAttention, Sampling, Shape
from training.models.deploy.operators import gather_rows


class _Deformable(nn.Module, ABC):
    """`DeformableAttention` with one linear layer for offsets and weights, and constants folded into it.

    units: (2, R), what one coordinate of the network input is in units of the values that `_read` is given.
    """

    def __init__(self, source: DeformableAttention, queries: int, shapes: list[Shape], units: Tensor) -> None:
        super().__init__()
        self.queries, self.heads, self.points, self.shapes = queries, source.heads, source.points, shapes
        self.total = sum(source.points)
        self.rays = self.heads * self.total
        self.dim = source.sampling_offsets.in_features
        offsets, weights = source.sampling_offsets, source.attention_weights
        # Offsets arrive in units of the box: times 1 / points of the level, times one half. Here they leave in `units`
        # times the box; first all x, then all y.
        gain = (0.5 * source.num_points_scale.repeat(self.heads) * units).reshape(-1, 1)
        order = torch.arange(2 * self.rays).view(self.rays, 2).t().flatten()
        self.project = nn.Linear(self.dim, 3 * self.rays)
        with torch.no_grad():
            self.project.weight.copy_(torch.cat([offsets.weight[order] * gain, weights.weight]))
            self.project.bias.copy_(torch.cat([offsets.bias[order] * gain.flatten(), weights.bias]))
        self.output_proj = source.output_proj or nn.Identity()

    def forward(self, x: Tensor, box: Tensor, values: list[Tensor]) -> Tensor:
        """x: (B, Q, D). box: (B, Q, 4), cxcywh. values: as the form reads them. Returns (B, Q, D)."""
        offsets, weights = self.project(x).split([2 * self.rays, self.rays], dim=-1)
        centre, size = box.reshape(-1, self.queries, 4, 1).split(2, dim=2)
        offsets = offsets.reshape(-1, self.queries, 2, self.rays) * size
        weights = weights.reshape(-1, self.queries, self.heads, self.total).softmax(-1)
        return self.output_proj(self._read(offsets, centre, weights, values))  # type: ignore[no-any-return]

    @abstractmethod
    def _read(self, offsets: Tensor, centre: Tensor, weights: Tensor, values: list[Tensor]) -> Tensor:
        """offsets: (B, Q, 2, R) in `units`; centre: (B, Q, 2, 1) in [0, 1]; weights: (B, Q, H, P). (B, Q, D)."""


class GridSampling(_Deformable):
    """Bilinear by the framework's operator. values: per level (B * H, D / H, height, width)."""

    def __init__(self, source: DeformableAttention, queries: int, shapes: list[Shape]) -> None:
        super().__init__(source, queries, shapes, torch.full((2, source.heads * sum(source.points)), 2.0))

    def _read(self, offsets: Tensor, centre: Tensor, weights: Tensor, values: list[Tensor]) -> Tensor:
        grid = offsets + (centre * 2 - 1)
        grid = grid.reshape(-1, self.queries, 2, self.heads, self.total).permute(0, 3, 1, 4, 2)
        grid = grid.reshape(-1, self.queries, self.total, 2)
        weights = weights.transpose(1, 2).reshape(-1, 1, self.queries, self.total)
        sampled = [
            F.grid_sample(value, part, mode="bilinear", padding_mode="zeros", align_corners=False)
            for value, part in zip(values, grid.split(self.points, dim=2), strict=True)
        ]
        out = (torch.cat(sampled, dim=-1) * weights).sum(-1)
        return out.reshape(-1, self.dim, self.queries).transpose(1, 2)


class _TableSampling(_Deformable):
    """Forms that read rows of one table.

    values: [(B, L * layers * H, D / H)], the cells of all levels. layer: which of its `layers` users this is.
    """

    def __init__(
        self, source: DeformableAttention, queries: int, shapes: list[Shape], *, layer: int, layers: int
    ) -> None:
        sizes = torch.tensor([(w, h) for (h, w), n in zip(shapes, source.points, strict=True) for _ in range(n)])
        sizes = sizes.float().t().repeat(1, source.heads)  # (2, R): width and height of each ray's level
        super().__init__(source, queries, shapes, sizes)
        starts = torch.tensor([sum(h * w for h, w in shapes[:i]) for i in range(len(shapes))])
        starts = starts.repeat_interleave(torch.tensor(source.points)).repeat(self.heads)
        head = torch.arange(self.heads).repeat_interleave(self.total)
        # The row of cell (x, y) of a level is strides . (x, y) + first.
        stride = layers * self.heads
        self.sizes: Tensor
        self.strides: Tensor
        self.first: Tensor
        self.register_buffer("sizes", sizes)
        self.register_buffer("strides", torch.stack([torch.ones_like(sizes[0]), sizes[0]]) * stride)
        self.register_buffer("first", (starts * stride + layer * self.heads + head).float())

    def _mix(self, rows: Tensor, weights: Tensor, count: int, table: Tensor) -> Tensor:
        """Weighted sums of `count` rows of the table per query and head; rows are whole numbers. Returns (B, Q, D).

        Rows come as floats: exact below 2**24, and one conversion instead of integer arithmetic.
        """
        index = rows.reshape(-1, self.queries * self.heads * count).to(torch.int64)
        values = gather_rows(table, index)
        values = values.reshape(-1, self.queries, self.heads, count, self.dim // self.heads)
        mixed = weights.reshape(-1, self.queries, self.heads, 1, count) @ values
        return mixed.reshape(-1, self.queries, self.dim)


class DiscreteSampling(_TableSampling):
    """One cell per point, as RT-DETRv2 defines it: half a cell off the nearest cell's centre."""

    def __init__(
        self, source: DeformableAttention, queries: int, shapes: list[Shape], *, layer: int, layers: int
    ) -> None:
        super().__init__(source, queries, shapes, layer=layer, layers=layers)
        self.last: Tensor
        self.register_buffer("last", self.sizes - 1)

    def _read(self, offsets: Tensor, centre: Tensor, weights: Tensor, values: list[Tensor]) -> Tensor:
        cell = (offsets + (centre * self.sizes + 0.5)).floor().clamp(min=0).minimum(self.last)
        return self._mix((cell * self.strides).sum(2) + self.first, weights, self.total, values[0])


class GatherSampling(_TableSampling):
    """Bilinear by reading the four cells around a location.

    The share of a cell is max(0, 1 - distance) along each axis. Taken around a 2x2 block that is kept inside the map,
    this is bilinear interpolation with zeros outside, without a mask.
    """

    def __init__(
        self, source: DeformableAttention, queries: int, shapes: list[Shape], *, layer: int, layers: int
    ) -> None:
        super().__init__(source, queries, shapes, layer=layer, layers=layers)
        self.last: Tensor
        self.corner: Tensor
        self.steps: Tensor
        self.register_buffer("last", self.sizes - 2)
        self.register_buffer("corner", torch.tensor([0.0, 1.0]))
        steps = self.strides[0, :, None] * torch.tensor([0.0, 1.0, 0.0, 1.0])
        steps = steps + self.strides[1, :, None] * torch.tensor([0.0, 0.0, 1.0, 1.0])
        self.register_buffer("steps", self.first[:, None] + steps)  # (R, 4): the four cells around a location

    def _read(self, offsets: Tensor, centre: Tensor, weights: Tensor, values: list[Tensor]) -> Tensor:
        location = offsets + (centre * self.sizes - 0.5)  # in cells, whole numbers at cell centres
        low = location.floor().clamp(min=0).minimum(self.last)
        rows = (low * self.strides).sum(2).unsqueeze(-1) + self.steps
        share = (1 - ((location - low).unsqueeze(-1) - self.corner).abs()).relu()  # (B, Q, 2, R, 2)
        share_x, share_y = share.split(1, dim=2)
        share = share_x.reshape(-1, self.queries, self.rays, 1, 2) * share_y.reshape(-1, self.queries, self.rays, 2, 1)
        mixed = share.reshape(-1, self.queries, self.rays, 4) * weights.reshape(-1, self.queries, self.rays, 1)
        return self._mix(rows, mixed, 4 * self.total, values[0])


def deformable(
    source: DeformableAttention, queries: int, shapes: list[Shape], sampling: Sampling, *, layer: int, layers: int
) -> GridSampling | GatherSampling | DiscreteSampling:
    """The deployed form of an attention.

    queries: their number. shapes: (height, width) of the maps. layer, layers: which of how many projections the table
    of values holds it reads.

    Raises InvalidInputError for maps that are too small for the form.
    """
    if sampling == "grid_sample":
        return GridSampling(source, queries, shapes)
    if sampling == "discrete":
        return DiscreteSampling(source, queries, shapes, layer=layer, layers=layers)
    if any(side < 2 for shape in shapes for side in shape):
        raise InvalidInputError(
            f"sampling: expected maps of at least 2x2 cells for 'gather', got {shapes}; use 'grid_sample' or a larger "
            "input"
        )
    return GatherSampling(source, queries, shapes, layer=layer, layers=layers)

"""Box arithmetic on tensors, shared by models, losses and data.

Boxes are (..., 4) float. `cxcywh` is centre and size, `xyxy` two corners; both in one unit (pixels, or [0, 1] of the
network input). All pairs of (N, 4) and (M, 4): pass `a[:, None]` and `b[None]` to the elementwise functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12  # keeps the ratio of two empty boxes at 0 instead of NaN


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners of boxes given by centre and size; (..., 4) to (..., 4). A negative size counts as zero."""
    centre, half = boxes[..., :2], boxes[..., 2:].clamp(min=0) * 0.5
    return torch.cat([centre - half, centre + half], dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Centre and size of boxes given by corners; (..., 4) to (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) * 0.5, high - low], dim=-1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    return intersection, (_area(a) + _area(b) - intersection).clamp(min=_TINY)


def elementwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of xyxy boxes, in [0, 1]; (..., 4) and (..., 4), broadcast, to (...)."""
    intersection, union = _intersection_and_union(a, b)
    return intersection / union


def elementwise_iou_giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (in [-1, 1]; Rezatofighi et al. 2019, algorithm 1) of xyxy boxes, broadcast as above."""
    intersection, union = _intersection_and_union(a, b)
    iou = intersection / union
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = _area(torch.cat([low, high], dim=-1)).clamp(min=_TINY)
    return iou, iou - (hull - union) / hull


def weighting_function(reg_max: int, up: float, reg_scale: float) -> Tensor:
    """The distances W(n) that the bins of an edge's distribution stand for: fine near zero, coarse at the ends.

    D-FINE (Peng et al., 2024), eq. 4. reg_max: even number of bins minus one. up: the largest inner distance is up *
    reg_scale; the two outermost bins stand for twice that. reg_scale: how flat the middle is.

    Returns (reg_max + 1,) float32, ascending and antisymmetric.
    """
    bound = abs(up) * abs(reg_scale)
    step = (bound + 1) ** (2 / (reg_max - 2))
    right = [step**i - 1 for i in range(1, reg_max // 2)]
    values = [-2 * bound, *(-v for v in reversed(right)), 0.0, *right, 2 * bound]
    return torch.tensor(values, dtype=torch.float32)

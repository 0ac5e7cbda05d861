"""Boxes as distributions over edge distances: fine-grained distribution refinement (D-FINE, Peng et al., 2024, §4.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def weighting_function(reg_max: int, up: float, reg_scale: float) -> Tensor:
    """The distances W(n) that the bins stand for (D-FINE, eq. 4): fine near zero, coarse at the ends.

    reg_max: even number of bins minus one. up: the largest inner distance is up * reg_scale; the two outermost bins
    stand for twice that. reg_scale: how flat the middle is.

    Returns (reg_max + 1,) float32, ascending and antisymmetric.
    """
    bound = abs(up) * abs(reg_scale)
    step = (bound + 1) ** (2 / (reg_max - 2))
    right = [step**i - 1 for i in range(1, reg_max // 2)]
    values = [-2 * bound, *(-v for v in reversed(right)), 0.0, *right, 2 * bound]
    return torch.tensor(values, dtype=torch.float32)


def integral(corners: Tensor, weights: Tensor) -> Tensor:
    """The expected distance of each edge, sum of Pr(n) W(n).

    corners: (..., 4 * bins) logits. weights: (bins,). Returns (..., 4): left, top, right, bottom.
    """
    probabilities = corners.unflatten(-1, (4, weights.shape[0])).softmax(dim=-1)
    return probabilities @ weights


def distance_to_box(reference: Tensor, distance: Tensor, reg_scale: float) -> Tensor:
    """Move the edges of reference boxes outward (D-FINE, eq. 3).

    reference: (..., 4) cxcywh. distance: (..., 4) left, top, right, bottom, in units of the box size / reg_scale.
    Returns (..., 4) cxcywh.
    """
    centre, size = reference[..., :2], reference[..., 2:]
    low, high = distance[..., :2], distance[..., 2:]
    # Corners are centre -/+ (reg_scale / 2 + distance) * size / reg_scale; this is their mean and difference.
    unit = size / abs(reg_scale)
    return torch.cat([centre + (high - low) * (0.5 * unit), size + (high + low) * unit], dim=-1)

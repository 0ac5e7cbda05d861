"""Boxes as distributions of edge distances: fine-grained distribution refinement (D-FINE, Peng et al. 2024, §4.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def integral(corners: Tensor, weights: Tensor) -> Tensor:
    """The expected distance of each edge, sum of Pr(n) W(n).

    corners: (..., 4 * bins) logits. weights: (bins,). Returns (..., 4): left, top, right, bottom.
    """
    probabilities: Tensor = corners.unflatten(-1, (4, weights.shape[0])).softmax(dim=-1)
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

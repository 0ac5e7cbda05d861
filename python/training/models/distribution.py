"""Boxes as distributions of edge distances: fine-grained distribution refinement (D-FINE, Peng et al. 2024, §4.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.layers import MLP, Activation


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


class QualityEstimator(nn.Module):
    """Corrects class logits by how peaked the edge distributions are (D-FINE's location quality estimator)."""

    def __init__(self, bins: int, activation: Activation, top: int = 4, hidden_dim: int = 64) -> None:
        super().__init__()
        self.bins, self.top = bins, top
        self.reg_conf = MLP(4 * (top + 1), hidden_dim, 1, 2, activation)
        self.reg_conf.zero_last()

    def forward(self, logits: Tensor, corners: Tensor) -> Tensor:
        """logits: (B, Q, C); corners: (B, Q, 4 * bins). Returns (B, Q, C)."""
        peaks = corners.unflatten(-1, (4, self.bins)).softmax(dim=-1).topk(self.top, dim=-1).values
        statistics = torch.cat([peaks, peaks.mean(dim=-1, keepdim=True)], dim=-1)
        return logits + self.reg_conf(statistics.flatten(2))  # type: ignore[no-any-return]

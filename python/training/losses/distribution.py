"""Losses on the distributions of edge distances (D-FINE, Peng et al. 2024): fine-grained localisation and DDF.

A box is a reference box whose four edges each moved by W(n) bins, n distributed as the softmax of reg_max + 1 logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TEMPERATURE = 5.0


def edge_targets(reference: Tensor, boxes: Tensor, *, bins: Tensor, reg_scale: float) -> tuple[Tensor, Tensor]:
    """Where the edges of `boxes` (M, 4) xyxy lie on the bins around `reference` (M, 4) cxcywh.

    Returns:
        left: (M, 4) int64, the bin at or below each edge (left, top, right, bottom), in [0, reg_max - 1].
        right_weight: (M, 4) in [0, 1], how far the edge is on its way to the next bin; outside the bins it is clipped.
    """
    centre, size = reference[:, :2], reference[:, 2:]
    outward = torch.cat([centre - boxes[:, :2], boxes[:, 2:] - centre], dim=1)
    distance = outward / (size.repeat(1, 2) / reg_scale + 1e-16) - 0.5 * reg_scale
    left = torch.searchsorted(bins, distance.contiguous(), right=True).sub_(1).clamp_(0, len(bins) - 2)
    low, high = bins[left], bins[left + 1]
    return left, ((distance - low) / (high - low)).clamp_(0, 1)


def fine_grained_localisation(corners: Tensor, left: Tensor, right_weight: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy with the two bins beside each edge, (M,): the four edges' sum, times `weight` (M,) (FGL, eq. 5).

    corners: (M, 4, reg_max + 1) logits.
    """
    at_left = corners.gather(-1, left.unsqueeze(-1)).squeeze(-1)
    at_right = corners.gather(-1, left.unsqueeze(-1) + 1).squeeze(-1)
    expected = at_left + right_weight * (at_right - at_left)
    return weight * (corners.logsumexp(-1) - expected).sum(-1)


def distillation_focal(
    student: Tensor, teacher_log_probs: Tensor, weight: Tensor, matched: Tensor
) -> tuple[Tensor, Tensor]:
    """Decoupled distillation focal loss of one layer towards the last one (DDF, eq. 6).

    student: (N, 4, reg_max + 1) logits of all N queries. teacher_log_probs: the last layer's, as `soften` gives them.
    weight: (N,) confidence in the teacher, the IoU where matched. matched: (K,) int64, the matched queries, each once.

    Returns two scalars: the sum over the matched and over the other queries, of the mean over their four edges.
    """
    log_probs = F.log_softmax(student / _TEMPERATURE, dim=-1)
    divergence = F.kl_div(log_probs, teacher_log_probs, reduction="none", log_target=True).sum(dim=(-1, -2))
    cost = divergence * weight * (_TEMPERATURE**2 / 4)
    inside = cost[matched].sum()
    return inside, cost.sum() - inside


def soften(corners: Tensor) -> Tensor:
    """Log-probabilities of the teacher's distributions at the temperature of `distillation_focal`, held constant."""
    return F.log_softmax(corners.detach() / _TEMPERATURE, dim=-1)

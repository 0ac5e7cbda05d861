"""Encoder maps like the teacher's, through a learned projection, and attention maps where both have them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distillation.pairing import map_projections, pair_maps
from training.models.outputs import DetectorOutput, TeacherOutput, Widths


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """attention: weight of the attention term beside the maps'."""

    attention: float = 0.5


class FeatureDistillation(nn.Module):
    """Mean squared error of projected maps, mean over scales (FitNets, Romero et al. 2015), + w (1 - cosine)."""

    def __init__(self, options: FeatureOptions, student: Widths, teacher: Widths) -> None:
        super().__init__()
        self.project = map_projections(student.features, teacher.features, "feature")
        self.attention = options.attention if student.attention and teacher.attention else 0.0

    def forward(self, student: DetectorOutput, teacher: TeacherOutput) -> Tensor:
        """A scalar, 0 where maps and attention agree."""
        pairs = pair_maps(student.features, teacher.features)
        errors = [
            F.mse_loss(project(ours.float()), theirs.float())
            for project, (ours, theirs) in zip(self.project, pairs, strict=True)
        ]
        loss = torch.stack(errors).mean()
        if self.attention:
            loss = loss + self.attention * attention_distance(student.attention, teacher.attention)
        return loss


def attention_distance(
    student: list[Tensor], teacher: list[Tensor], index: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """1 - cosine between cross-attention maps, averaged over heads first, then over layers and queries.

    student, teacher: per layer (B, heads, Q, L); layers are paired from the last on. index: (B, K) pairs of queries;
    None for those of the same number. Memories of different lengths are brought to the shorter one by averaging.
    """
    distances = []
    for ours, theirs in zip(student[::-1], teacher[::-1], strict=False):
        mine, other = ours.float().mean(1), theirs.float().mean(1)
        if index is None:
            count = min(mine.shape[1], other.shape[1])
            mine, other = mine[:, :count], other[:, :count]
        else:
            rows = torch.arange(len(mine), device=mine.device)[:, None]
            mine, other = mine[rows, index[0]], other[rows, index[1]]
        length = min(mine.shape[-1], other.shape[-1])
        mine, other = (F.adaptive_avg_pool1d(x, length) for x in (mine, other))
        distances.append(1 - F.cosine_similarity(mine, other, dim=-1).mean())
    return torch.stack(distances).mean()

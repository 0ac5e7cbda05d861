"""Channel-wise distillation (Shu et al. 2021): where in the map each channel responds, like the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distillation.pairing import map_projections, pair_maps
from training.models.outputs import DetectorOutput, TeacherOutput, Widths


@dataclass(frozen=True, kw_only=True)
class CwdOptions:
    """temperature: the paper's tau, of the softmax over places."""

    temperature: float = 1.0


class ChannelWiseDistillation(nn.Module):
    """tau² / C times the sum over channels of KL(teacher || student) of softmaxes over the places of a map (eq. 4).

    Mean over images and scales. The tau² is the paper's, restored where reimplementations lack it.
    """

    def __init__(self, options: CwdOptions, student: Widths, teacher: Widths) -> None:
        super().__init__()
        self.project = map_projections(student.features, teacher.features, "cwd")
        self.temperature = options.temperature

    def forward(self, student: DetectorOutput, teacher: TeacherOutput) -> Tensor:
        """A scalar, 0 where all channels respond alike."""
        losses = []
        pairs = pair_maps(student.features, teacher.features)
        for project, (ours, theirs) in zip(self.project, pairs, strict=True):
            mine = (project(ours.float()).flatten(2) / self.temperature).log_softmax(-1)
            other = (theirs.float().flatten(2) / self.temperature).log_softmax(-1)
            losses.append(F.kl_div(mine, other, reduction="none", log_target=True).sum(-1).mean())
        return self.temperature**2 * torch.stack(losses).mean()

"""Masked generative distillation (Yang et al. 2022): the teacher's map, generated from a part of the student's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distillation.pairing import map_projections, pair_maps
from training.models.outputs import DetectorOutput, TeacherOutput, Widths


@dataclass(frozen=True, kw_only=True)
class MgdOptions:
    """mask: share of places of the student's map that the generator does not see; 0.65 is the paper's for detectors."""

    mask: float = 0.65


class MaskedGenerativeDistillation(nn.Module):
    """Mean squared error between the teacher's map and what two convolutions make of the masked map (eq. 3 to 5).

    The mask is the same for all channels of an image. It is drawn from torch's generator, which training seeds anew
    for every step.
    """

    def __init__(self, options: MgdOptions, student: Widths, teacher: Widths) -> None:
        super().__init__()
        self.project = map_projections(student.features, teacher.features, "mgd")
        widths = teacher.features[::-1][: len(self.project)]
        self.generate = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for width in widths
        )
        self.mask = options.mask

    def forward(self, student: DetectorOutput, teacher: TeacherOutput) -> Tensor:
        """A scalar; what it can fall to is up to the generators, not 0."""
        losses = []
        pairs = pair_maps(student.features, teacher.features)
        for project, generate, (ours, theirs) in zip(self.project, self.generate, pairs, strict=True):
            batch, _, height, width = ours.shape
            seen = torch.rand(batch, 1, height, width, device=ours.device) >= self.mask
            losses.append(F.mse_loss(generate(project(ours.float()) * seen), theirs.float()))
        return torch.stack(losses).mean()

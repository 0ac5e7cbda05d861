"""Deep semantic injector (DSI; RT-DETRv4, Liao et al. 2025): in the coarsest map what a foundation model sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.distillation.pairing import project_map, resize
from training.models.outputs import DetectorOutput, TeacherOutput, Widths


@dataclass(frozen=True, kw_only=True)
class SemanticOptions:
    """Nothing to choose."""


class SemanticInjection(nn.Module):
    """1 - cosine between the projected map F5 and the teacher's patches, mean over places.

    F5 is the coarsest map after its self-attention; encoders without that give their coarsest map. A detector as the
    teacher gives its own in place of patches. The projector (one linear layer, as in the paper) is the distiller's:
    nothing of it is in the student.
    """

    def __init__(self, options: SemanticOptions, student: Widths, teacher: Widths) -> None:
        super().__init__()
        if student.semantic is None or teacher.semantic is None:
            raise InvalidInputError(
                "dsi: expected a teacher with a map of its own, got one without; "
                "choose a vision foundation model or a checkpoint of a detector"
            )
        self.project = project_map(student.semantic, teacher.semantic)

    def forward(self, student: DetectorOutput, teacher: TeacherOutput) -> Tensor:
        """A scalar in [0, 2], 0 where all places point the same way."""
        ours = student.features[-1] if student.aifi is None else student.aifi
        theirs = teacher.features[-1] if teacher.patches is None else teacher.patches
        projected = self.project(ours.float())
        return 1 - F.cosine_similarity(projected, resize(theirs, projected.shape[-2:]).float(), dim=1).mean()

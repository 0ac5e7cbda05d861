"""Class scores like the teacher's (Hinton et al. 2015), for heads of sigmoids and, to compare, of a softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from training.distillation.pairing import QueryMatching, gather_queries, need_classes, pair_queries
from training.models.outputs import DetectorOutput, Prediction, TeacherOutput, Widths


@dataclass(frozen=True, kw_only=True)
class LogitOptions:
    """kind: "binary" compares every class by itself, as heads of sigmoids are trained; "softmax" the classes together.

    temperature: what logits are divided by. matching: see `pair_queries`. layers: whether all decoder layers follow the
    teacher's last one, or the last alone.
    """

    kind: Literal["binary", "softmax"] = "binary"
    temperature: float = 2.0
    matching: QueryMatching = "hungarian"
    layers: Literal["last", "all"] = "last"


class LogitDistillation(nn.Module):
    """T² KL(teacher at T || student at T), summed over classes, mean over pairs of queries."""

    def __init__(self, options: LogitOptions, student: Widths, teacher: Widths) -> None:
        super().__init__()
        need_classes("logit", student.classes, teacher.classes)
        self.options = options

    def forward(self, student: DetectorOutput, teacher: TeacherOutput) -> Tensor:
        """A scalar, 0 where all pairs agree."""
        assert teacher.prediction is not None
        layers = [*student.auxiliary, student.final] if self.options.layers == "all" else [student.final]
        losses = [self._layer(layer, teacher.prediction) for layer in layers]
        return sum(losses[1:], losses[0]) / len(losses)

    def _layer(self, student: Prediction, teacher: Prediction) -> Tensor:
        own, other = pair_queries(student, teacher, self.options.matching)
        temperature = self.options.temperature
        mine = gather_queries(student.logits, own).float() / temperature
        theirs = gather_queries(teacher.logits, other).float() / temperature
        if self.options.kind == "softmax":
            divergence = F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True)
        else:
            # p log(p / q) + (1 - p) log((1 - p) / (1 - q)); log p - log q by softplus, so that nothing overflows.
            p = theirs.sigmoid()
            divergence = p * (F.softplus(-mine) - F.softplus(-theirs)) + (1 - p) * (
                F.softplus(mine) - F.softplus(theirs)
            )
        return temperature**2 * divergence.sum(-1).mean()

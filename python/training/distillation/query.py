"""Decoder queries like the teacher's: what each of them knows about its object."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.distillation.feature import attention_distance
from training.distillation.pairing import QueryMatching, first_queries, gather_queries, need_classes, pair_queries
from training.models.outputs import DetectorOutput, TeacherOutput, Widths


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """matching: see `pair_queries`. attention: weight of the attention term, where both have attention maps."""

    matching: QueryMatching = "hungarian"
    attention: float = 0.5


class QueryDistillation(nn.Module):
    """Mean squared error between states of paired queries after the last layer, through a learned projection."""

    def __init__(self, options: QueryOptions, student: Widths, teacher: Widths) -> None:
        super().__init__()
        if options.matching == "hungarian":
            need_classes("query", student.classes, teacher.classes)
        if student.queries is None or teacher.queries is None:
            raise InvalidInputError(
                "query: expected a teacher whose decoder states can be read, got one without; "
                "choose a checkpoint of a detector as the teacher, or the method logit"
            )
        self.project = nn.Linear(student.queries, teacher.queries)
        if student.queries == teacher.queries:
            nn.init.eye_(self.project.weight)
            nn.init.zeros_(self.project.bias)
        self.matching = options.matching
        self.attention = options.attention if student.attention and teacher.attention else 0.0

    def forward(self, student: DetectorOutput, teacher: TeacherOutput) -> Tensor:
        """A scalar, 0 where the states of all pairs agree."""
        assert teacher.queries is not None
        if self.matching == "index":
            own = other = first_queries(student.queries[-1], teacher.queries)
        else:
            assert teacher.prediction is not None
            own, other = pair_queries(student.final, teacher.prediction, self.matching)
        ours, theirs = gather_queries(student.queries[-1], own), gather_queries(teacher.queries, other)
        loss = F.mse_loss(self.project(ours.float()), theirs.float())
        if self.attention:
            loss = loss + self.attention * attention_distance(student.attention, teacher.attention, (own, other))
        return loss

"""Boxes like the teacher's: the distributions of their edges where both have them, else the boxes themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.boxes import box_cxcywh_to_xyxy, elementwise_iou, elementwise_iou_giou
from training.distillation.pairing import gather_queries, need_classes, pair_queries
from training.models.outputs import DetectorOutput, Prediction, TeacherOutput, Widths

_L1, _GIOU = 5.0, 2.0  # the weights of DETR's losses


@dataclass(frozen=True, kw_only=True)
class LocalisationOptions:
    """kind: "distribution" of each edge over D-FINE's bins, or "box". temperature: of the distributions."""

    kind: Literal["distribution", "box"] = "distribution"
    temperature: float = 5.0


class LocalisationDistillation(nn.Module):
    """What paired queries say of their edges, weighted by how sure the teacher is that there is an object.

    distribution: T² KL(teacher at T || student at T), mean over the four edges (localisation distillation, Zheng et al.
    2022, on the bins of D-FINE, Peng et al. 2024). Bins count from each query's first box, so a pair weighs only as
    much as these two overlap. box: 5 L1 + 2 (1 - GIoU), for any teacher.

    The weighted mean over the pairs; weights, the teacher's highest class probability (times that IoU), are constants.
    """

    def __init__(self, options: LocalisationOptions, student: Widths, teacher: Widths) -> None:
        super().__init__()
        need_classes("localisation", student.classes, teacher.classes)
        self.options = options
        if options.kind == "distribution" and (student.bins is None or student.bins != teacher.bins):
            raise InvalidInputError(
                f"localisation: expected student and teacher with the same bins of edge distributions, got "
                f"{student.bins or 'none'} and {teacher.bins or 'none'}; choose kind=box"
            )

    def forward(self, student: DetectorOutput, teacher: TeacherOutput) -> Tensor:
        """A scalar, 0 where all pairs agree."""
        assert teacher.prediction is not None
        own, other = pair_queries(student.final, teacher.prediction, "hungarian")
        ours = student.final.map(lambda each: gather_queries(each, own))
        theirs = teacher.prediction.map(lambda each: gather_queries(each, other))
        weight = theirs.logits.float().sigmoid().amax(-1)
        if self.options.kind == "box":
            mine, wanted = ours.boxes.float(), theirs.boxes.float()
            giou = elementwise_iou_giou(box_cxcywh_to_xyxy(mine), box_cxcywh_to_xyxy(wanted))[1]
            cost = _L1 * (mine - wanted).abs().sum(-1) + _GIOU * (1 - giou)
        else:
            cost = self._divergence(ours, theirs)
            assert ours.reference is not None
            assert theirs.reference is not None
            with torch.no_grad():
                places = (box_cxcywh_to_xyxy(each.float()) for each in (ours.reference, theirs.reference))
                weight = weight * elementwise_iou(*places)
        return (cost * weight).sum() / weight.sum().clamp(min=1e-6)

    def _divergence(self, student: Prediction, teacher: Prediction) -> Tensor:
        """(B, K)."""
        assert student.corners is not None
        assert teacher.corners is not None
        temperature = self.options.temperature
        mine, other = (
            (each.float().unflatten(-1, (4, -1)) / temperature).log_softmax(-1)
            for each in (student.corners, teacher.corners)
        )
        divergence = F.kl_div(mine, other, reduction="none", log_target=True)
        return temperature**2 * divergence.sum(-1).mean(-1)

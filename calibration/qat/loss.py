"""How far a student's tensors are from its teacher's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.qat.targets import Targets

# Weights of the terms: those of the set losses of DETR (Carion et al. 2020); maps count as much as classes.
WEIGHTS = {"class": 1.0, "l1": 5.0, "giou": 2.0, "map": 1.0}


def distillation_loss(
    student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], targets: Targets, size: tuple[int, int]
) -> dict[str, Tensor]:
    """The terms, each a scalar >= 0 that is 0 where student and teacher agree; `total` is their weighted sum.

    Args:
        student: values of `targets.compared`, rows paired with the teacher's.
        teacher: likewise, without gradients.
        targets: what is what.
        size: (width, height) of the network input, the unit of pixel boxes.
    """
    confidence = teacher[targets.confidence]
    if not targets.corners:
        confidence = confidence.sigmoid().amax(-1)
    unit = torch.tensor([*size, *size], dtype=torch.float32) if targets.corners else torch.ones(4)
    ours, theirs = student[targets.boxes] / unit, teacher[targets.boxes] / unit
    # Boxes that few will see hardly count: squared, because there are ten doubtful rows for every sure one.
    rows = confidence.square() / confidence.square().sum().clamp(min=1e-6)
    corners = (ours, theirs) if targets.corners else (_corners(ours), _corners(theirs))
    terms = {
        "class": _mean([_class_divergence(student[name], teacher[name]) for name in targets.logits]),
        "l1": ((ours - theirs).abs().sum(-1) * rows).sum(),
        "giou": ((1.0 - generalised_iou(*corners)) * rows).sum(),
        "map": _mean([_map_error(student[name], teacher[name]) for name in targets.maps]),
    }
    terms["total"] = torch.stack([WEIGHTS[name] * value for name, value in terms.items()]).sum()
    return terms


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """GIoU of pairs of boxes (Rezatofighi et al. 2019), in [-1, 1].

    Args:
        first: (..., 4) xyxy.
        second: likewise.
    """
    inner = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    outer = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    overlap, hull = inner.clamp(min=0).prod(-1), outer.clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (first, second)]
    union = areas[0] + areas[1] - overlap
    return overlap / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def _class_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Binary KL(teacher || student) of every class of every row, per object that the teacher sees."""
    p = teacher.sigmoid()
    # log p - log q and log (1 - p) - log (1 - q), by softplus so that nothing overflows
    present = F.softplus(-student) - F.softplus(-teacher)
    absent = F.softplus(student) - F.softplus(teacher)
    return (p * present + (1 - p) * absent).sum() / p.sum().clamp(min=1.0)


def _map_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error in units of the teacher's variance."""
    return F.mse_loss(student, teacher) / teacher.var().clamp(min=1e-12)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean() if values else torch.zeros(())


def _corners(boxes: Tensor) -> Tensor:
    """From cxcywh to xyxy."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)

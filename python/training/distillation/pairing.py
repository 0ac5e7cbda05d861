"""Which parts of a student answer for which parts of a teacher: queries of predictions, scales of feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.models.outputs import Prediction

QueryMatching = Literal["hungarian", "index"]

_BOX_COST = 5.0  # of L1 between boxes, beside L1 between class probabilities


def pair_queries(student: Prediction, teacher: Prediction, matching: QueryMatching) -> tuple[Tensor, Tensor]:
    """Pairs of a student's and a teacher's queries, as many per image: two (B, K) int64 indices.

    "index": the first ones of both. "hungarian": the K teacher queries of the highest scores, each with its own student
    query, so that they differ the least in class probabilities and boxes (L1) altogether. All of the teacher's would
    not do where it has more: the assignment would then leave out the objects that the student does not see yet. K is
    the smaller number of queries. One copy to the host.
    """
    if matching == "index":
        index = first_queries(student.logits, teacher.logits)
        return index, index
    count = min(student.logits.shape[1], teacher.logits.shape[1])
    with torch.no_grad():
        best = teacher.logits.amax(-1).topk(count, dim=1).indices  # (B, K)
        classes = gather_queries(teacher.logits, best).float().sigmoid()
        boxes = gather_queries(teacher.boxes, best).float()
        cost = torch.cdist(classes, student.logits.float().sigmoid(), p=1)
        cost += _BOX_COST * torch.cdist(boxes, student.boxes.float(), p=1)
        found = [linear_sum_assignment(image)[1] for image in cost.cpu().numpy()]  # rows come in order
        own = torch.stack([torch.from_numpy(columns) for columns in found]).to(best.device)
    return own, best


def first_queries(student: Tensor, teacher: Tensor) -> Tensor:
    """The index (B, K) of the first queries, as many as both (B, Q, ...) have."""
    count = min(student.shape[1], teacher.shape[1])
    return torch.arange(count, device=student.device).expand(len(student), -1)


def gather_queries(values: Tensor, index: Tensor) -> Tensor:
    """The rows of (B, Q, ...) that a (B, K) index names: (B, K, ...)."""
    shape = (*index.shape, *values.shape[2:])
    return values.gather(1, index.reshape(*index.shape, *[1] * (values.ndim - 2)).expand(shape))


def pair_maps(student: list[Tensor], teacher: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Maps (B, D, H, W) of the same place in the pyramid, from the coarsest on; further teacher scales are dropped.

    The teacher's map takes the student's size.
    """
    return [(ours, resize(theirs, ours.shape[-2:])) for ours, theirs in zip(student[::-1], teacher[::-1], strict=False)]


def resize(source: Tensor, size: Sequence[int]) -> Tensor:
    """A map or image (B, D, h, w) in another (height, width), bilinear, without aliasing where it shrinks."""
    size = (int(size[0]), int(size[1]))
    if tuple(source.shape[-2:]) == size:
        return source
    shrinks = source.shape[-2] > size[0] or source.shape[-1] > size[1]
    return F.interpolate(source.float(), size=size, mode="bilinear", align_corners=False, antialias=shrinks)


def map_projections(student: tuple[int, ...], teacher: tuple[int, ...], what: str) -> nn.ModuleList:
    """Student to teacher channels for each pair of maps, from the coarsest on.

    Raises InvalidInputError where the teacher has no maps. what: the method, for the message.
    """
    if not teacher:
        raise InvalidInputError(f"{what}: expected a teacher with encoder maps, got one without; choose a detector")
    pairs = zip(student[::-1], teacher[::-1], strict=False)
    return nn.ModuleList(project_map(ours, theirs) for ours, theirs in pairs)


def project_map(source: int, target: int) -> nn.Conv2d:
    """A 1x1 convolution between widths; where they agree it starts as the identity."""
    projection = nn.Conv2d(source, target, 1)
    if source == target:
        nn.init.dirac_(projection.weight)
        nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
    return projection


def need_classes(what: str, student: int | None, teacher: int | None) -> None:
    """Raises InvalidInputError unless both predict the same classes."""
    if teacher is None:
        raise InvalidInputError(
            f"{what}: expected a teacher that predicts the student's classes, got one that does not; "
            "train the teacher on these classes, or choose a method that compares features"
        )
    assert student == teacher  # teachers map their classes to the student's

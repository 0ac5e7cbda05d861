"""Box arithmetic on tensors, shared by models, losses and data.

Boxes are (..., 4) float. `cxcywh` is centre and size, `xyxy` two corners; both in one unit (pixels, or [0, 1] of the
network input).
"""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners of boxes given by centre and size; (..., 4) to (..., 4). A negative size counts as zero."""
    centre, half = boxes[..., :2], boxes[..., 2:].clamp(min=0) * 0.5
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Centre and size of boxes given by corners; (..., 4) to (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) * 0.5, high - low], dim=-1)


def inverse_sigmoid(values: Tensor, eps: float = 1e-5) -> Tensor:
    """The logit of values in [0, 1]; values nearer than eps to either end give the logit of eps or 1 - eps."""
    values = values.clamp(0, 1)
    return torch.log(values.clamp(min=eps) / (1 - values).clamp(min=eps))


def box_area(boxes: Tensor) -> Tensor:
    """Areas of xyxy boxes, (..., 4) to (...)."""
    size = boxes[..., 2:] - boxes[..., :2]
    return size[..., 0] * size[..., 1]


def _iou_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = box_area(a) + box_area(b) - intersection
    return intersection / union, union


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of xyxy boxes, elementwise with broadcasting: (..., 4) and (..., 4) to (...).

    All pairs of (N, 4) and (M, 4): `iou(a[:, None], b[None])`. Two boxes of zero area give NaN.
    """
    return _iou_and_union(a, b)[0]


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of xyxy boxes, in [-1, 1], elementwise with broadcasting (Rezatofighi et al., 2019, eq. 3)."""
    value, union = _iou_and_union(a, b)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0)
    area = hull[..., 0] * hull[..., 1]
    return value - (area - union) / area

"""Losses on boxes as a whole."""

from __future__ import annotations

from torch import Tensor

from training.boxes import box_cxcywh_to_xyxy, elementwise_iou_giou


def box_costs(boxes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L1 of cxcywh, 1 - GIoU, and the IoU held constant, of M matched cxcywh boxes: three (M,) tensors."""
    iou, giou = elementwise_iou_giou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(wanted))
    return (boxes - wanted).abs().sum(-1), 1 - giou, iou.detach()

"""What people write in torch around a network, and how results are compared with edgedet's on the CPU.

Runs on any device that torch has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# Of ImageNet, as published detectors have them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Detected = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


class Preprocess:
    """A BGR frame (H, W, 3) uint8 to the RGB network input (1, 3, side, side) float32."""

    def __init__(self, side: int, *, antialias: bool, device: str) -> None:
        self.side = side
        self.antialias = antialias
        self.scale = torch.tensor([1 / (255 * std) for std in STD], device=device).view(3, 1, 1)
        self.bias = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)], device=device).view(
            3, 1, 1
        )

    def __call__(self, frame: torch.Tensor) -> torch.Tensor:
        planes = frame.permute(2, 0, 1).flip(0)[None].float()
        small = torch.nn.functional.interpolate(
            planes, (self.side, self.side), mode="bilinear", antialias=self.antialias
        )
        return small * self.scale + self.bias


def decode(logits: torch.Tensor, boxes: torch.Tensor, size: torch.Tensor, top_k: int) -> torch.Tensor:
    """The best (query, class) pairs of each image, as (B, N, 6) float32: box xyxy, score, label; best first.

    One tensor, so that one copy brings it to the host.

    logits: (B, Q, C). boxes: (B, Q, 4) cxcywh in [0, 1]. size: (4,) width, height, width, height of the image, pixels.
    """
    classes = logits.shape[2]
    flat = logits.sigmoid().flatten(1)
    scores, index = flat.topk(min(top_k, flat.shape[1]))
    query = (index // classes)[..., None].expand(-1, -1, 4)
    picked = boxes.gather(1, query).float()
    centre, half = picked[..., :2], picked[..., 2:] / 2
    corners = torch.cat((centre - half, centre + half), -1).clamp(0, 1) * size
    labels = (index % classes)[..., None].float()
    return torch.cat((corners, scores[..., None].float(), labels), -1)


class ToHost:
    """Copies tensors of one shape to the host through pinned memory, with one synchronisation."""

    def __init__(self) -> None:
        self._pinned: torch.Tensor | None = None

    def __call__(self, tensor: torch.Tensor) -> NDArray[np.float32]:
        on_host = tensor
        if tensor.is_cuda:
            on_host = self._through_pinned(tensor)
        rows: NDArray[np.float32] = on_host.numpy().copy()
        return rows

    def _through_pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._pinned is None:
            self._pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._pinned.copy_(tensor, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return self._pinned


def as_rows(found: Detected | NDArray[np.float32]) -> NDArray[np.float32]:
    """The detections of one image as (N, 6), as `decode` has them: from rows, or from boxes, scores and labels."""
    if not isinstance(found, tuple):
        return found.reshape(-1, 6)
    boxes, scores, labels = found
    return np.concatenate([boxes, scores[:, None], labels[:, None].astype(np.float32)], axis=1)


def grey_levels(network_input: NDArray[Any]) -> NDArray[np.float64]:
    """The levels, 0 to 255, that a network input (3, H, W) was made from."""
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (MEAN, STD))
    levels: NDArray[np.float64] = (network_input.astype(np.float64) * std + mean) * 255
    return levels


def input_agreement(found: NDArray[Any], right: NDArray[Any]) -> dict[str, float]:
    """Differences of two network inputs, in grey levels."""
    difference = np.abs(grey_levels(found) - grey_levels(right))
    return {"largest_levels": round(float(difference.max()), 4), "mean_levels": round(float(difference.mean()), 5)}


def detection_agreement(rows: NDArray[np.float32], right: Detected) -> dict[str, Any]:
    """Rows (N, 6) against what edgedet.decode_logits gave, in order; boxes in pixels, of the rows of equal label."""
    boxes, scores, labels = right
    if len(rows) != len(scores):
        return {"detections": len(rows), "expected": len(scores)}
    same = rows[:, 5] == labels
    return {
        "detections": len(rows),
        "same_labels": float(same.mean()) if len(rows) else 1.0,
        "largest_score_difference": float(np.abs(rows[:, 4] - scores).max(initial=0)),
        "largest_box_difference_px": float(np.abs(rows[same, :4] - boxes[same]).max(initial=0)),
    }

"""The ground truth of a batch in one piece, without padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedet import InvalidInputError


@dataclass(frozen=True)
class PackedTargets:
    """The objects of all images, one after the other.

    labels: (T,) int64. boxes: (T, 4) float32, cxcywh in [0, 1] of the network input.
    sizes: how many objects each image has; they add up to T.
    """

    labels: Tensor
    boxes: Tensor
    sizes: tuple[int, ...]

    @property
    def offsets(self) -> list[int]:
        """Where each image's objects begin, and T at the end: one more than there are images."""
        offsets = [0]
        for size in self.sizes:
            offsets.append(offsets[-1] + size)
        return offsets


def pack_targets(targets: Sequence[Mapping[str, Tensor]], device: torch.device) -> PackedTargets:
    """Concatenate `targets` (per image `labels` (n,) int64 and `boxes` (n, 4) cxcywh) on `device`.

    Raises:
        InvalidInputError: No images, or labels and boxes of an image that do not belong together.
    """
    if not targets:
        raise InvalidInputError("expected the targets of at least one image, got none; pass one dict per image")
    for index, target in enumerate(targets):
        labels, boxes = target["labels"], target["boxes"]
        if labels.ndim != 1 or boxes.shape != (labels.shape[0], 4):
            raise InvalidInputError(
                f"target {index}: expected labels (n,) and boxes (n, 4), got {tuple(labels.shape)} and "
                f"{tuple(boxes.shape)}; an image without objects has labels (0,) and boxes (0, 4)"
            )
    return PackedTargets(
        labels=torch.cat([target["labels"] for target in targets]).to(device, torch.int64),
        boxes=torch.cat([target["boxes"] for target in targets]).to(device, torch.float32),
        sizes=tuple(target["labels"].shape[0] for target in targets),
    )

"""Contrastive denoising queries (DINO, Zhang et al. 2022, section 3.3): noisy ground truth as extra decoder queries.

Every group holds each object twice: once slightly moved, to be restored, and once further away, to be rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from training.models.outputs import DenoisingMeta

_CHANNELS = 10  # uniform numbers per query: whether its label changes, to what, four distances, four directions


@dataclass(frozen=True)
class DenoisingDraw:
    """What a part of a batch needs to draw the queries that it would get in the whole one.

    fullest: objects of the fullest image of the whole batch, which decides how many groups there are.
    seeds: per image of the part, what its noise comes from, each in [0, 2**63).
    """

    fullest: int
    seeds: tuple[int, ...]


class DenoisingQueries(NamedTuple):
    """What the decoder is given in front of its own queries.

    content: (B, D, dim). boxes_unact: (B, D, 4), cxcywh before the sigmoid.
    attention_mask: (D + Q, D + Q) bool, True where the row's query must not look at the column's.
    meta: where the queries to be restored are; its indices are on the host.
    """

    content: Tensor
    boxes_unact: Tensor
    attention_mask: Tensor
    meta: DenoisingMeta


def make_denoising_queries(
    targets: Sequence[Mapping[str, Tensor]],
    *,
    num_classes: int,
    num_queries: int,
    class_embedding: nn.Embedding,
    num_denoising: int = 100,
    label_noise_ratio: float = 0.5,
    box_noise_scale: float = 1.0,
    draw: DenoisingDraw | None = None,
) -> DenoisingQueries | None:
    """Make denoising queries of a batch, or None if there are no objects or `num_denoising` is 0.

    Args:
        targets: Per image `labels` (n,) int64 in [0, num_classes) and `boxes` (n, 4) cxcywh in [0, 1].
        num_classes: C. Padding (images with fewer objects than the fullest one) has the label C.
        num_queries: Q, the number of ordinary queries.
        class_embedding: C + 1 rows; its row C should be zero (`padding_idx`).
        num_denoising: How many restored queries to aim for. There are num_denoising // n groups of 2 n queries each,
            at least one group, n being the number of objects of the fullest image.
        label_noise_ratio: Twice the share of labels that are drawn anew, in [0, 1].
        box_noise_scale: How far a box's edges move: up to this many half sizes where it is to be restored, and
            between one and two times this where it is to be rejected.
        draw: Where the noise comes from, if not from PyTorch's global generator, and how full the whole batch is, if
            these images are a part of it.

    Raises:
        InvalidInputError: An option outside its range, or a draw for other images than these.
    """
    if num_denoising < 0 or not 0 <= label_noise_ratio <= 1 or box_noise_scale < 0:
        raise InvalidInputError(
            "expected num_denoising >= 0, label_noise_ratio in [0, 1] and box_noise_scale >= 0, "
            f"got {num_denoising}, {label_noise_ratio} and {box_noise_scale}; correct the config"
        )
    sizes = torch.tensor([target["labels"].shape[0] for target in targets])
    fullest = int(sizes.max()) if draw is None else draw.fullest
    if draw is not None and (len(draw.seeds) != len(targets) or fullest < int(sizes.max())):
        raise InvalidInputError(
            f"expected a draw for {len(targets)} images with up to {int(sizes.max())} objects, "
            f"got {len(draw.seeds)} seeds and {fullest} objects; take both from the whole batch"
        )
    if num_denoising == 0 or fullest == 0:
        return None
    groups = max(num_denoising // fullest, 1)
    total = groups * 2 * fullest
    device = class_embedding.weight.device

    present = torch.arange(fullest) < sizes[:, None]  # (B, n), on the host
    image, slot = present.nonzero(as_tuple=True)
    image, slot = image.to(device), slot.to(device)
    labels = torch.full(present.shape, num_classes, device=device)
    boxes = torch.zeros(*present.shape, 4, device=device)
    labels[image, slot] = torch.cat([target["labels"] for target in targets]).to(device)
    boxes[image, slot] = torch.cat([target["boxes"] for target in targets]).to(device, boxes.dtype)
    labels, boxes = labels.repeat(1, 2 * groups), boxes.repeat(1, 2 * groups, 1)

    noise = _uniform(len(targets), total, draw, device)
    drawn = noise[..., 0] < 0.5 * label_noise_ratio
    other = (noise[..., 1] * num_classes).long().clamp(max=num_classes - 1)
    labels = torch.where(drawn & (labels != num_classes), other, labels)

    distance, sign = noise[..., 2:6], torch.where(noise[..., 6:] < 0.5, -1, 1)
    distance.view(-1, groups, 2, fullest, 4)[:, :, 1] += 1  # the second half of each group is to be rejected
    edges = boxes[..., 2:].repeat(1, 1, 2) * (0.5 * box_noise_scale) * distance * sign
    boxes = box_xyxy_to_cxcywh((box_cxcywh_to_xyxy(boxes) + edges).clamp(0, 1)).abs()

    # Groups see themselves and the ordinary queries; ordinary queries see none of the groups, which know the answers.
    group = torch.full((total + num_queries,), -1, device=device)
    group[:total] = torch.arange(total, device=device) // (2 * fullest)
    blocked = (group[:, None] != group[None, :]) & (group[None, :] >= 0)

    starts = torch.arange(groups)[:, None] * (2 * fullest)
    positive = [(starts + torch.arange(size)).flatten() for size in sizes.tolist()]
    return DenoisingQueries(
        content=class_embedding(labels),
        boxes_unact=torch.logit(boxes, eps=1e-5),
        attention_mask=blocked,
        meta=DenoisingMeta(positive=positive, groups=groups, queries=total),
    )


def _uniform(images: int, queries: int, draw: DenoisingDraw | None, device: torch.device) -> Tensor:
    """Numbers in [0, 1), (images, queries, _CHANNELS); with a draw, each image's depend on its seed alone."""
    if draw is None:
        return torch.rand(images, queries, _CHANNELS, device=device)
    generator = torch.Generator()  # on the host, so that every device draws the same
    rows = [torch.rand(queries, _CHANNELS, generator=generator.manual_seed(seed)) for seed in draw.seeds]
    return torch.stack(rows).to(device)

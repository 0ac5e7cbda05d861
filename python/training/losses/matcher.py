"""Which query answers for which object: one-to-one assignment of least cost, per image (DETR, Carion et al. 2020).

All layers of a step are matched together: one cost tensor that holds only the pairs of one image, one copy to the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from edgedet import InvalidInputError, ModelError
from training.boxes import box_cxcywh_to_xyxy, elementwise_iou, elementwise_iou_giou
from training.losses.targets import PackedTargets
from training.models.outputs import Prediction

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Matching:
    """Pairs of a query and an object: `image`, `query` and `target` are (M,) int64 on the host.

    query counts within its image, target within the whole batch (`PackedTargets`).
    """

    image: Indices
    query: Indices
    target: Indices

    def __len__(self) -> int:
        return int(self.image.shape[0])


@dataclass(frozen=True)
class MatcherConfig:
    """What a pair costs.

    class_cost, l1_cost, giou_cost: weights of the class cost, L1 of cxcywh, and -GIoU.
    kind: the class cost is a focal loss with alpha and gamma (Deformable DETR), or minus the probability (DETR).
    change_epoch: from this epoch on a pair costs -(score x IoU ** iou_order) instead (DEIM), which prefers queries
        that are already right to queries that are merely close; None: never.
    """

    class_cost: float = 2.0
    l1_cost: float = 5.0
    giou_cost: float = 2.0
    kind: Literal["focal", "probability"] = "focal"
    alpha: float = 0.25
    gamma: float = 2.0
    change_epoch: int | None = None
    iou_order: float = 4.0

    def __post_init__(self) -> None:
        weights = (self.class_cost, self.l1_cost, self.giou_cost)
        if min(weights) < 0 or max(weights) == 0:
            raise InvalidInputError(f"expected matching costs >= 0 with one above 0, got {weights}; correct the config")
        if self.kind not in ("focal", "probability"):
            raise InvalidInputError(f"expected kind focal or probability, got {self.kind!r}; correct the config")
        if not 0 <= self.alpha <= 1 or self.gamma < 0 or self.iou_order < 0:
            raise InvalidInputError(
                "expected alpha in [0, 1], gamma >= 0 and iou_order >= 0, "
                f"got {self.alpha}, {self.gamma} and {self.iou_order}; correct the config"
            )


class HungarianMatcher:
    """Assigns every object of an image to its own query so that the costs add up to the least."""

    def __init__(self, config: MatcherConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(
        self, predictions: Mapping[str, Prediction], targets: PackedTargets, *, epoch: int = 0
    ) -> dict[str, Matching]:
        """Match every prediction of the step; they share their shapes, and their names serve the error message.

        An image with more objects than queries leaves the dearest objects unmatched. Targets are in ascending order.

        Raises:
            ModelError: A cost is not finite; it says which tensor of which prediction is to blame.
        """
        costs = self.costs(list(predictions.values()), targets, epoch=epoch).cpu().numpy()
        if not np.isfinite(costs).all():
            raise ModelError(_blame(predictions))
        return {name: _assign(costs[:, layer], targets.offsets) for layer, name in enumerate(predictions)}

    def costs(self, predictions: Sequence[Prediction], targets: PackedTargets, *, epoch: int = 0) -> Tensor:
        """The cost of every object with every query of its own image: (T, layers, Q) float32."""
        config = self.config
        image = torch.repeat_interleave(
            torch.arange(len(targets.sizes), device=targets.labels.device),
            torch.tensor(targets.sizes, device=targets.labels.device),
            output_size=sum(targets.sizes),
        )
        logits = torch.stack([prediction.logits for prediction in predictions]).float()
        score = logits[:, image, :, targets.labels].sigmoid()  # (T, layers, Q)
        boxes = torch.stack([prediction.boxes for prediction in predictions]).float()
        # Coordinates outermost: each is then one contiguous plane, which elementwise operations go through fastest.
        boxes = boxes.permute(3, 1, 0, 2)[:, image]  # (4, T, layers, Q)
        wanted = targets.boxes.t()[:, :, None, None]  # (4, T, 1, 1)
        corners = box_cxcywh_to_xyxy(boxes.movedim(0, -1)), box_cxcywh_to_xyxy(wanted.movedim(0, -1))

        if config.change_epoch is not None and epoch >= config.change_epoch:
            return score.neg() * elementwise_iou(*corners).pow(config.iou_order)

        if config.kind == "focal":
            positive = -config.alpha * (1 - score).pow(config.gamma) * (score + 1e-8).log()
            negative = -(1 - config.alpha) * score.pow(config.gamma) * (1 - score + 1e-8).log()
            class_cost = positive - negative
        else:
            class_cost = score.neg()
        l1 = (boxes - wanted).abs().sum(0)
        giou = elementwise_iou_giou(*corners)[1]
        cost: Tensor = config.class_cost * class_cost + config.l1_cost * l1 - config.giou_cost * giou
        return cost


def _assign(costs: NDArray[np.float32], offsets: Sequence[int]) -> Matching:
    """Solve one prediction: `costs` is (T, Q), and the rows between two offsets are one image's objects."""
    images, queries, targets = [], [], []
    for image, (begin, end) in enumerate(pairwise(offsets)):
        target, query = linear_sum_assignment(costs[begin:end])
        images.append(np.full(len(query), image, dtype=np.int64))
        queries.append(query.astype(np.int64, copy=False))
        targets.append(target.astype(np.int64, copy=False) + begin)
    return Matching(image=np.concatenate(images), query=np.concatenate(queries), target=np.concatenate(targets))


def union_matching(matchings: Sequence[Matching]) -> Matching:
    """One set of pairs for all layers: each query that any layer matched, with the object most layers gave it.

    The "global optimal" set of D-FINE (Peng et al. 2024): an object may then have several queries. Where layers are
    split evenly the object that comes first wins.
    """
    pairs = np.stack(
        [np.concatenate([getattr(matching, name) for matching in matchings]) for name in ("image", "query", "target")]
    )
    pairs, votes = np.unique(pairs, axis=1, return_counts=True)  # sorted by image, query, target
    image, query, target = pairs[:, np.lexsort((pairs[2], -votes, pairs[1], pairs[0]))]
    first = np.ones(len(image), dtype=bool)
    first[1:] = (image[1:] != image[:-1]) | (query[1:] != query[:-1])
    return Matching(image=image[first], query=query[first], target=target[first])


def _blame(predictions: Mapping[str, Prediction]) -> str:
    """What to say when a cost is not finite."""
    tensors = (
        (f"{part} of the {name} prediction", getattr(prediction, part))
        for name, prediction in predictions.items()
        for part in ("logits", "boxes")
    )
    culprits = [what for what, tensor in tensors if not torch.isfinite(tensor).all()] or ["boxes of the targets"]
    return (
        f"matching expected finite numbers, got NaN or infinity in the {', the '.join(culprits)}; "
        "lower the learning rate, clip gradients, or look for the layer that overflows"
    )

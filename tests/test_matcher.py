"""Matching against a plain per-image, per-pair reference in NumPy, and against transformers' matcher."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from edgedet import InvalidInputError, ModelError
from training.losses.matcher import HungarianMatcher, MatcherConfig, Matching, union_matching
from training.losses.targets import PackedTargets, pack_targets
from training.models.outputs import Prediction

QUERIES, CLASSES = 12, 4
SIZES = [3, 0, 1, 12, 15]  # an image without objects, as many as queries, more than queries

Targets = list[dict[str, Tensor]]


def random_boxes(*shape: int) -> Tensor:
    return torch.cat([torch.rand(*shape, 2) * 0.8 + 0.1, torch.rand(*shape, 2) * 0.3 + 0.02], dim=-1)


def random_targets(sizes: list[int]) -> Targets:
    return [{"labels": torch.randint(CLASSES, (size,)), "boxes": random_boxes(size)} for size in sizes]


def packed(targets: Targets) -> PackedTargets:
    return pack_targets(targets, torch.device("cpu"))


def random_prediction(images: int = len(SIZES), queries: int = QUERIES) -> Prediction:
    return Prediction(torch.randn(images, queries, CLASSES) * 2, random_boxes(images, queries))


def corners(box: list[float]) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def overlap(first: list[float], second: list[float]) -> tuple[float, float]:
    """IoU and GIoU of two cxcywh boxes, number by number."""
    ax1, ay1, ax2, ay2 = corners(first)
    bx1, by1, bx2, by2 = corners(second)
    inside = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inside
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return inside / union, inside / union - (hull - union) / hull


def pair_cost(logit: float, box: list[float], wanted: list[float], *, kind: str) -> float:
    score = 1 / (1 + math.exp(-logit))
    iou, giou = overlap(box, wanted)
    if kind == "iou":
        return -score * iou**4
    if kind == "probability":
        return -2 * score + 5 * sum(abs(a - b) for a, b in zip(box, wanted, strict=True)) - 2 * giou
    positive = -0.25 * (1 - score) ** 2 * math.log(score + 1e-8)
    negative = -0.75 * score**2 * math.log(1 - score + 1e-8)
    return 2 * (positive - negative) + 5 * sum(abs(a - b) for a, b in zip(box, wanted, strict=True)) - 2 * giou


def reference(
    prediction: Prediction, targets: Targets, *, kind: str
) -> tuple[set[tuple[int, int, int]], dict[tuple[int, int, int], float]]:
    """The (image, query, object of the image) triples of least cost, and the cost of every possible one."""
    chosen, costs = set(), {}
    for image, target in enumerate(targets):
        logits, boxes = prediction.logits[image].tolist(), prediction.boxes[image].tolist()
        cost = np.array(
            [
                [
                    pair_cost(logits[query][label], boxes[query], wanted, kind=kind)
                    for label, wanted in zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True)
                ]
                for query in range(len(boxes))
            ]
        ).reshape(len(boxes), -1)
        costs |= {(image, query, index): float(value) for (query, index), value in np.ndenumerate(cost)}
        chosen |= {(image, int(query), int(index)) for query, index in zip(*linear_sum_assignment(cost), strict=True)}
    return chosen, costs


def triples(matching: Matching, targets: Targets) -> set[tuple[int, int, int]]:
    starts = np.cumsum([0] + [len(target["labels"]) for target in targets])
    local = matching.target - starts[matching.image]
    found = set(zip(matching.image.tolist(), matching.query.tolist(), local.tolist(), strict=True))
    assert len(found) == len(matching)
    return found


@pytest.mark.parametrize("kind", ["focal", "probability", "iou"])
@pytest.mark.parametrize("seed", range(4))
def test_matches_the_plain_reference_for_all_layers_at_once(
    seed: int, kind: Literal["focal", "probability", "iou"]
) -> None:
    torch.manual_seed(seed)
    targets = random_targets(SIZES)
    predictions = {name: random_prediction() for name in ("final", "aux0", "pre", "encoder")}
    matcher = HungarianMatcher(MatcherConfig(kind="focal" if kind == "iou" else kind, change_epoch=3))
    matchings = matcher(predictions, packed(targets), epoch=3 if kind == "iou" else 2)
    assert list(matchings) == list(predictions)
    for name, prediction in predictions.items():
        found = triples(matchings[name], targets)
        wanted, costs = reference(prediction, targets, kind=kind)
        if (
            kind == "iou"
        ):  # boxes that do not touch all cost nothing, so that the best assignment is seldom the only one
            assert Counter(image for image, _, _ in found) == Counter(image for image, _, _ in wanted)
            assert sum(costs[place] for place in found) == pytest.approx(
                sum(costs[place] for place in wanted), abs=1e-6
            )
        else:
            assert found == wanted


@pytest.mark.parametrize("seed", range(3))
def test_matches_transformers(seed: int) -> None:
    loss_rt_detr = pytest.importorskip("transformers.loss.loss_rt_detr", reason="transformers is the oracle here")
    torch.manual_seed(seed)
    targets = random_targets(SIZES)
    prediction = random_prediction()
    config = SimpleNamespace(
        matcher_class_cost=2, matcher_bbox_cost=5, matcher_giou_cost=2, matcher_alpha=0.25, matcher_gamma=2.0
    )
    config.use_focal_loss = True
    theirs = loss_rt_detr.RTDetrHungarianMatcher(config)(
        {"logits": prediction.logits, "pred_boxes": prediction.boxes},
        [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets],
    )
    wanted = {
        (image, query, index)
        for image, pair in enumerate(theirs)
        for query, index in zip(*(indices.tolist() for indices in pair), strict=True)
    }
    together = packed(targets)
    assert triples(HungarianMatcher(MatcherConfig())({"final": prediction}, together)["final"], targets) == wanted


def test_costs_hold_only_pairs_of_one_image() -> None:
    targets = random_targets(SIZES)
    costs = HungarianMatcher(MatcherConfig()).costs([random_prediction()] * 3, packed(targets))
    assert costs.shape == (sum(SIZES), 3, QUERIES)


def test_order_of_targets_does_not_matter() -> None:
    targets = random_targets(SIZES)
    prediction = {"final": random_prediction()}
    orders = [torch.randperm(size) for size in SIZES]
    shuffled = [
        {name: values[order] for name, values in target.items()} for target, order in zip(targets, orders, strict=True)
    ]
    matcher = HungarianMatcher(MatcherConfig())
    first = triples(matcher(prediction, packed(targets))["final"], targets)
    second = triples(matcher(prediction, packed(shuffled))["final"], shuffled)
    assert {(image, query, int(orders[image][index])) for image, query, index in second} == first


def test_no_objects_at_all() -> None:
    targets = packed(random_targets([0, 0]))
    matching = HungarianMatcher(MatcherConfig())({"final": random_prediction(2)}, targets)["final"]
    assert len(matching) == 0
    assert len(union_matching([matching, matching])) == 0


def test_half_precision_predictions_match_like_their_float_values() -> None:
    targets = random_targets(SIZES)
    together = packed(targets)
    half = random_prediction()
    half = Prediction(half.logits.bfloat16(), half.boxes.half())
    whole = Prediction(half.logits.float(), half.boxes.float())
    matcher = HungarianMatcher(MatcherConfig())
    found = matcher({"half": half}, together)["half"], matcher({"whole": whole}, together)["whole"]
    assert triples(found[0], targets) == triples(found[1], targets)


@pytest.mark.parametrize("part", ["logits", "boxes"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_named(part: str, value: float) -> None:
    good, bad = random_prediction(), random_prediction()
    getattr(bad, part)[0] = value
    if part == "logits" and math.isinf(value):
        bad.logits[0] = math.nan  # an infinite logit alone has a finite cost: its score is 1
    targets = packed(random_targets(SIZES))
    with pytest.raises(ModelError, match=f"in the {part} of the aux1 prediction; lower the learning rate"):
        HungarianMatcher(MatcherConfig())({"final": good, "aux1": bad}, targets)


def test_targets_that_are_not_finite_are_named() -> None:
    targets = random_targets(SIZES)
    targets[0]["boxes"][0, 0] = math.nan
    with pytest.raises(ModelError, match="boxes of the targets"):
        HungarianMatcher(MatcherConfig())({"final": random_prediction()}, packed(targets))


def test_malformed_targets() -> None:
    with pytest.raises(InvalidInputError, match="at least one image"):
        packed([])
    with pytest.raises(InvalidInputError, match=r"target 1: expected labels \(n,\) and boxes \(n, 4\)"):
        packed([*random_targets([2]), {"labels": torch.zeros(2, dtype=torch.int64), "boxes": torch.zeros(3, 4)}])


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "softmax"},
        {"class_cost": 0, "l1_cost": 0, "giou_cost": 0},
        {"l1_cost": -1},
        {"alpha": 1.5},
        {"gamma": -1},
        {"iou_order": -1},
    ],
)
def test_bad_config(options: dict[str, float | str]) -> None:
    with pytest.raises(InvalidInputError, match="correct the config"):
        MatcherConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_union_takes_the_object_that_most_layers_chose(seed: int) -> None:
    torch.manual_seed(seed)
    targets = random_targets([3, 0, 4])
    together = packed(targets)
    predictions = {str(layer): random_prediction(3, 5) for layer in range(4)}
    matchings = list(HungarianMatcher(MatcherConfig())(predictions, together).values())

    votes: dict[tuple[int, int], Counter[int]] = {}
    for matching in matchings:
        for image, query, target in zip(matching.image, matching.query, matching.target, strict=True):
            votes.setdefault((int(image), int(query)), Counter())[int(target)] += 1
    wanted = {
        (*place, min(target for target, count in counter.items() if count == max(counter.values())))
        for place, counter in votes.items()
    }

    union = union_matching(matchings)
    assert set(zip(union.image.tolist(), union.query.tolist(), union.target.tolist(), strict=True)) == wanted
    assert len(union) == len(wanted) > len(matchings[0])

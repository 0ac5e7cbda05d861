"""How far the detections of one engine are from those of another on the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edgedet import Detections

#: Score from which a detection counts as one that the float engine is sure of.
CONFIDENT: Final = 0.3
#: IoU from which two boxes are taken for the same object.
OVERLAP: Final = 0.5


def pairwise_iou(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Intersection over union of every pair.

    Args:
        first: (N, 4) xyxy.
        second: (M, 4) xyxy, same unit.

    Returns:
        (N, M) in [0, 1]; 0 where both boxes have no area.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = np.clip(sides, 0.0, None).prod(axis=2)
    areas_a = np.clip(a[:, 2:] - a[:, :2], 0.0, None).prod(axis=1)
    areas_b = np.clip(b[:, 2:] - b[:, :2], 0.0, None).prod(axis=1)
    union = areas_a[:, None] + areas_b[None, :] - overlap
    result: npt.NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return result


@dataclass(frozen=True)
class Drift:
    """Detections of the float engine above `score` against those of the other engine.

    Attributes:
        score: detections of the float engine below it are not looked at.
        iou: overlap that makes a pair.
        detections: number of float detections looked at.
        matched: share of them with a partner of the same class and at least half their score, in [0, 1]; 1 where there
            are none.
        box_mean_px: mean over pairs of the largest coordinate difference, pixels of the source image.
        box_p95_px: 95th percentile of the same.
        score_mean: mean over pairs of |score difference|.
        score_p95: 95th percentile of the same.
    """

    score: float
    iou: float
    detections: int
    matched: float
    box_mean_px: float
    box_p95_px: float
    score_mean: float
    score_p95: float

    def to_json(self) -> dict[str, float]:
        """Plain values, rounded to what is meaningful."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Pairs:
    """How the confident detections of one engine on an image were found again by another.

    Attributes:
        confident: (N,) rows of the first engine at or above the score.
        ours: (P,) rows of the first engine that have a partner.
        theirs: (P,) their partners.
        box_px: (P,) largest coordinate difference, pixels of the source image.
        score: (P,) |score difference|.
    """

    confident: npt.NDArray[np.intp]
    ours: npt.NDArray[np.intp]
    theirs: npt.NDArray[np.intp]
    box_px: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]

    @property
    def lost(self) -> int:
        """Number of confident detections without a partner."""
        return len(self.confident) - len(self.ours)


def pair(ours: Detections, theirs: Detections, *, score: float = CONFIDENT, iou: float = OVERLAP) -> Pairs:
    """Match per class, best overlap first, each detection at most once; a partner has at least half the score."""
    confident = np.flatnonzero(ours.scores >= score)
    overlap = pairwise_iou(ours.boxes[confident], theirs.boxes)
    overlap[ours.labels[confident][:, None] != theirs.labels[None, :]] = 0.0
    overlap[theirs.scores[None, :] < 0.5 * ours.scores[confident][:, None]] = 0.0
    rows, columns = np.nonzero(overlap >= iou)
    best_first = np.argsort(-overlap[rows, columns], kind="stable")
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[best_first].tolist(), columns[best_first].tolist()):
        if row not in partner and column not in taken:
            partner[row] = column
            taken.add(column)
    first = confident[list(partner)] if partner else confident[:0]
    second = np.array(list(partner.values()), np.intp)
    moved = np.abs(ours.boxes[first].astype(np.float64) - theirs.boxes[second])
    change = np.abs(ours.scores[first].astype(np.float64) - theirs.scores[second])
    return Pairs(confident, first, second, moved.max(axis=1, initial=0.0), change)


def drift(
    reference: Sequence[Detections], other: Sequence[Detections], *, score: float = CONFIDENT, iou: float = OVERLAP
) -> Drift:
    """Match image by image, as `pair` does."""
    found = [pair(ours, theirs, score=score, iou=iou) for ours, theirs in _image_by_image(reference, other)]
    seen = sum(len(image.confident) for image in found)
    matched = sum(len(image.ours) for image in found)
    boxes = np.concatenate([image.box_px for image in found]) if matched else np.zeros(1)
    scores = np.concatenate([image.score for image in found]) if matched else np.zeros(1)
    return Drift(
        score=score,
        iou=iou,
        detections=seen,
        matched=matched / seen if seen else 1.0,
        box_mean_px=float(boxes.mean()),
        box_p95_px=float(np.percentile(boxes, 95)),
        score_mean=float(scores.mean()),
        score_p95=float(np.percentile(scores, 95)),
    )


@dataclass(frozen=True)
class Confusion:
    """A class of the float engine that comes out as another one.

    Attributes:
        label: the class.
        other: the class that most of its objects get instead.
        detections: confident float detections of the class.
        confused: how many of them get `other`.
    """

    label: int
    other: int
    detections: int
    confused: int


def confusions(
    reference: Sequence[Detections],
    other: Sequence[Detections],
    *,
    score: float = CONFIDENT,
    iou: float = OVERLAP,
    least: int = 5,
) -> list[Confusion]:
    """Classes most of whose confident detections get one and the same other class.

    Of a detection that is not found again, the best-scored one in its place with at least half its score says what it
    became. Classes with fewer than `least` confident detections say nothing.
    """
    seen: Counter[int] = Counter()
    became: dict[int, Counter[int]] = {}
    for ours, theirs in _image_by_image(reference, other):
        found = pair(ours, theirs, score=score, iou=iou)
        seen.update(ours.labels[found.confident].tolist())
        lost = np.setdiff1d(found.confident, found.ours)
        overlap = pairwise_iou(ours.boxes[lost], theirs.boxes)
        for row, detection in enumerate(lost.tolist()):
            here = (overlap[row] >= iou) & (theirs.scores >= 0.5 * ours.scores[detection])
            if here.any():
                best = int(np.argmax(np.where(here, theirs.scores, -1.0)))
                became.setdefault(int(ours.labels[detection]), Counter())[int(theirs.labels[best])] += 1
    result = []
    for label, counts in sorted(became.items()):
        counts.pop(label, None)
        instead, confused = max(counts.items(), key=lambda item: item[1], default=(label, 0))
        if seen[label] >= least and 2 * confused > seen[label]:
            result.append(Confusion(label, instead, seen[label], confused))
    return result


def _image_by_image(
    first: Sequence[Detections], second: Sequence[Detections]
) -> Iterable[tuple[Detections, Detections]]:
    if len(first) != len(second):
        raise ValueError(f"expected detections of the same images, got {len(first)} and {len(second)}")
    return zip(first, second)

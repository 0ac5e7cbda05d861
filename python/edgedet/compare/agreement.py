"""How far two detectors agree on an image, and which images are the worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedet.detections import Detections
from edgedet.matching import OVERLAP, pair, pairwise_iou


@dataclass(frozen=True)
class ImageAgreement:
    """One image. Rows are places in the detections of A and of B.

    A detection at or above the score is found again if the other side has one of its class in its place with at least
    half its score. One whose partner is of another class is renamed.

    Attributes:
        pairs: (P, 2) rows of A and of B that are the same object: what either side was sure of.
        only_a, only_b: Rows of confident detections that the other side has not, renamed ones aside.
        renamed: Rows (of A, of B) in one place under two names.
        box_px: (P,) largest coordinate difference of each pair, pixels.
        score: (P,) |score difference| of each pair.
    """

    pairs: NDArray[np.intp]
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    renamed: tuple[tuple[int, int], ...]
    box_px: NDArray[np.float64]
    score: NDArray[np.float64]

    @property
    def objects(self) -> int:
        """All that either side was sure of, each once."""
        return len(self.pairs) + len(self.only_a) + len(self.only_b) + len(self.renamed)

    def severity(self, a: Detections, b: Detections) -> float:
        """How bad the disagreement is: the scores of what one side has alone, one point for each other name."""
        alone = float(a.scores[list(self.only_a)].sum() + b.scores[list(self.only_b)].sum())
        return alone + sum(max(float(a.scores[i]), float(b.scores[j])) for i, j in self.renamed)


@dataclass(frozen=True)
class Agreement:
    """Of all images.

    Attributes:
        score: Detections below it are not looked at.
        iou: Overlap from which two boxes are one object.
        objects: What either side was sure of, each once.
        agreed: Found by both, under one name.
        only_a, only_b: Found by one side.
        renamed: Found by both, under two names.
        box_mean_px, box_p95_px: Largest coordinate difference of those agreed on, pixels of the source image.
        score_mean, score_p95: |score difference| of the same.
    """

    score: float
    iou: float
    objects: int
    agreed: int
    only_a: int
    only_b: int
    renamed: int
    box_mean_px: float
    box_p95_px: float
    score_mean: float
    score_p95: float

    @property
    def share(self) -> float:
        """Agreed on of all objects, in [0, 1]; 1 where there are none."""
        return self.agreed / self.objects if self.objects else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"share": round(self.share, 5), **{key: round(value, 5) for key, value in asdict(self).items()}}


def compare_image(a: Detections, b: Detections, *, score: float) -> ImageAgreement:
    """Matches the detections of two sides, whose labels mean the same."""
    forth, back = pair(a, b, score=score), pair(b, a, score=score)
    # What B was sure of and A was not is not in `forth`; what is in both is in both ways the same pair but for ties.
    partners = dict(zip(forth.ours.tolist(), forth.theirs.tolist()))
    taken = set(partners.values())
    for theirs, ours in zip(back.ours.tolist(), back.theirs.tolist()):
        if ours not in partners and theirs not in taken:
            partners[ours] = theirs
            taken.add(theirs)
    only_a = [row for row in forth.confident.tolist() if row not in partners]
    only_b = [row for row in back.confident.tolist() if row not in taken]
    renamed = _renamed(a, b, only_a, only_b)
    pairs = np.array(sorted(partners.items()), np.intp).reshape(-1, 2)
    moved = np.abs(a.boxes[pairs[:, 0]].astype(np.float64) - b.boxes[pairs[:, 1]]).max(axis=1, initial=0.0)
    change = np.abs(a.scores[pairs[:, 0]].astype(np.float64) - b.scores[pairs[:, 1]])
    return ImageAgreement(
        pairs,
        tuple(row for row in only_a if row not in {i for i, _ in renamed}),
        tuple(row for row in only_b if row not in {j for _, j in renamed}),
        tuple(renamed),
        moved,
        change,
    )


def summarise(images: Sequence[ImageAgreement], *, score: float) -> Agreement:
    """Adds up."""
    agreed = sum(len(image.pairs) for image in images)
    boxes = np.concatenate([image.box_px for image in images]) if agreed else np.zeros(1)
    scores = np.concatenate([image.score for image in images]) if agreed else np.zeros(1)
    return Agreement(
        score=score,
        iou=OVERLAP,
        objects=sum(image.objects for image in images),
        agreed=agreed,
        only_a=sum(len(image.only_a) for image in images),
        only_b=sum(len(image.only_b) for image in images),
        renamed=sum(len(image.renamed) for image in images),
        box_mean_px=float(boxes.mean()),
        box_p95_px=float(np.percentile(boxes, 95)),
        score_mean=float(scores.mean()),
        score_p95=float(np.percentile(scores, 95)),
    )


def _renamed(a: Detections, b: Detections, only_a: Sequence[int], only_b: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs in one place, best overlap first, each row once."""
    overlap = pairwise_iou(a.boxes[list(only_a)], b.boxes[list(only_b)])
    rows, columns = np.nonzero(overlap >= OVERLAP)
    found: list[tuple[int, int]] = []
    for place in np.argsort(-overlap[rows, columns], kind="stable").tolist():
        i, j = only_a[rows[place]], only_b[columns[place]]
        if all(i != first and j != second for first, second in found):
            found.append((i, j))
    return found

"""How far the detections of one engine are from those of another on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from edgedet import Detections


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


def drift(
    reference: Sequence[Detections], other: Sequence[Detections], *, score: float = 0.3, iou: float = 0.5
) -> Drift:
    """Match per image and class, best overlap first, each detection at most once."""
    seen = 0
    box_errors: list[float] = []
    score_errors: list[float] = []
    for ours, theirs in zip(reference, other, strict=True):
        confident = np.flatnonzero(ours.scores >= score)
        seen += len(confident)
        overlap = pairwise_iou(ours.boxes[confident], theirs.boxes)
        overlap[ours.labels[confident][:, None] != theirs.labels[None, :]] = 0.0
        overlap[theirs.scores[None, :] < 0.5 * ours.scores[confident][:, None]] = 0.0
        rows, columns = np.nonzero(overlap >= iou)
        best_first = np.argsort(-overlap[rows, columns], kind="stable")
        used_rows: set[int] = set()
        used_columns: set[int] = set()
        for row, column in zip(rows[best_first].tolist(), columns[best_first].tolist(), strict=True):
            if row in used_rows or column in used_columns:
                continue
            used_rows.add(row)
            used_columns.add(column)
            source = int(confident[row])
            box_errors.append(float(np.abs(ours.boxes[source] - theirs.boxes[column]).max()))
            score_errors.append(float(abs(ours.scores[source] - theirs.scores[column])))
    boxes, scores = np.array(box_errors or [0.0]), np.array(score_errors or [0.0])
    return Drift(
        score=score,
        iou=iou,
        detections=seen,
        matched=len(box_errors) / seen if seen else 1.0,
        box_mean_px=float(boxes.mean()),
        box_p95_px=float(np.percentile(boxes, 95)),
        score_mean=float(scores.mean()),
        score_p95=float(np.percentile(scores, 95)),
    )

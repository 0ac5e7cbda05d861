"""Whether two runs of one detector on different processors found the same: order, scores and boxes within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Comparison:
    """What comparing two lists of COCO results found.

    rows: matched rows. score, box: the largest difference among them (boxes in pixels). swapped: pairs of near-ties
    whose order differs. problems: what breaks the rule of :func:`compare`, in words.
    """

    rows: int = 0
    score: float = 0.0
    box: float = 0.0
    swapped: int = 0
    problems: list[str] = field(default_factory=list)


def compare(
    expected: Sequence[dict[str, Any]], got: Sequence[dict[str, Any]], *, score_bound: float, box_bound: float
) -> Comparison:
    """Compares COCO results, rows of each image in the order they were written.

    Every row needs a partner of its category with a score within `score_bound` and a box within `box_bound` pixels, but
    for rows so close to the lowest score kept that they may fall off the list. Rows whose scores differ by more than
    `score_bound` come in the same order in both.
    """
    result = Comparison()
    images = sorted({row["image_id"] for row in [*expected, *got]})
    for image in images:
        _compare_image(
            image,
            [row for row in expected if row["image_id"] == image],
            [row for row in got if row["image_id"] == image],
            score_bound,
            box_bound,
            result,
        )
    return result


def _distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    return max(abs(x - y) for x, y in zip(a["bbox"], b["bbox"], strict=True))


def _compare_image(
    image: int,
    expected: list[dict[str, Any]],
    got: list[dict[str, Any]],
    score_bound: float,
    box_bound: float,
    result: Comparison,
) -> None:
    lowest = max((rows[-1]["score"] for rows in (expected, got) if rows), default=0.0) + score_bound
    free = dict(enumerate(got))
    places: list[tuple[float, int]] = []  # score and the partner's place, in the order of `expected`
    for row in expected:
        near = [
            place
            for place, other in free.items()
            if other["category_id"] == row["category_id"]
            and abs(other["score"] - row["score"]) <= score_bound
            and _distance(row, other) <= box_bound
        ]
        if near:
            place = min(near, key=lambda place: (_distance(row, free[place]), place))
            other = free.pop(place)
            result.rows += 1
            result.score = max(result.score, abs(other["score"] - row["score"]))
            result.box = max(result.box, _distance(row, other))
            places.append((row["score"], place))
        elif row["score"] > lowest:
            result.problems.append(f"image {image}: nothing like {row}")
    result.problems += [f"image {image}: unexpected {row}" for row in free.values() if row["score"] > lowest]
    for i, (score, place) in enumerate(places):
        for later_score, later_place in places[i + 1 :]:
            if place > later_place:
                if score - later_score > score_bound:
                    result.problems.append(f"image {image}: scores {score} and {later_score} come in the other order")
                else:
                    result.swapped += 1

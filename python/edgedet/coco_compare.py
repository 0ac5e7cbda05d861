"""AP of two engines on the same labelled images, overall and per class, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgedet.coco_eval import CocoDataset, CocoImage, average_precision, match
from edgedet.coco_subsets import SubsetAP
from edgedet.detections import Detections

#: Groups of the jackknife; their number bounds how well the error itself is known (16 % for 20).
GROUPS: Final = 20


@dataclass(frozen=True)
class ClassDrop:
    """One class of the evaluation data.

    Attributes:
        name: of the category in the annotations.
        objects: number of them in the images.
        fp32: AP of the float engine.
        candidate: AP of the other engine.
        drop_se: standard error of the difference; None where a group of images holds all objects of the class.
    """

    name: str
    objects: int
    fp32: float
    candidate: float
    drop_se: float | None

    @property
    def drop(self) -> float:
        """How much AP is lost."""
        return self.fp32 - self.candidate

    def to_json(self, precision: str) -> dict[str, Any]:
        """Plain values for report.json.

        Args:
            precision: name of the candidate.
        """
        return {
            "name": self.name,
            "objects": self.objects,
            "fp32": round(self.fp32, 5),
            precision: round(self.candidate, 5),
            "drop": round(self.drop, 5),
            "drop_se": None if self.drop_se is None else round(self.drop_se, 5),
        }


@dataclass(frozen=True)
class Accuracy:
    """AP of both engines on the same images.

    Attributes:
        fp32: AP of the float engine.
        candidate: AP of the other engine.
        fp32_se: standard error of `fp32`: what another draw of as many images would change.
        drop_se: standard error of `fp32 - candidate`, which is smaller: both engines see the same images.
        classes: of the classes that have objects, the largest drop first.
    """

    fp32: float
    candidate: float
    fp32_se: float
    drop_se: float
    classes: tuple[ClassDrop, ...]

    @property
    def drop(self) -> float:
        """How much AP is lost."""
        return self.fp32 - self.candidate


def match_run(
    detections: Sequence[Detections], dataset: CocoDataset, images: Sequence[CocoImage], categories: Sequence[int]
) -> tuple[SubsetAP, dict[str, float]]:
    """Match one engine's detections to the objects.

    Args:
        detections: per image of `images`.
        dataset: the annotations.
        images: those that were run.
        categories: the dataset's category of each class, -1 for a class that it does not have.

    Returns:
        AP of any subset of the images, and pycocotools' figures of all of them.
    """
    if len(detections) != len(images):
        raise ValueError(f"expected detections of {len(images)} images, got {len(detections)}")
    results = [
        entry
        for found, image in zip(detections, images)
        for entry in found.to_coco(image.id, categories)
        if entry["category_id"] >= 0
    ]
    matched = match(results, dataset, image_ids=[image.id for image in images])
    return SubsetAP(matched), average_precision(matched)


def compare(
    engines: Mapping[str, SubsetAP], names: Mapping[int, str], keep: NDArray[np.bool_] | None = None
) -> Accuracy:
    """AP of the engine "fp32" and of the other one with standard errors by a delete-group jackknife over images.

    The images are cut into `GROUPS` runs of neighbours, because neighbours are often frames of one scene. Each group is
    left out in turn, for both engines alike. With d_g the figure without group g and G groups, the variance of the
    figure is (G - 1) / G * sum over g of (d_g - mean d)^2.

    Args:
        engines: "fp32" and the candidate's precision, from `match_run`, of the same images.
        names: category names by id.
        keep: (N,) which images count; all if not given.
    """
    float_ap = engines["fp32"]
    (candidate_ap,) = (found for name, found in engines.items() if name != "fp32")
    if keep is None:
        keep = np.ones(len(float_ap.image_ids), bool)
    groups = [group for group in np.array_split(np.flatnonzero(keep), GROUPS) if len(group)]
    left_out = []
    for group in groups:
        mask = keep.copy()
        mask[group] = False
        left_out.append((float_ap.per_category(mask), candidate_ap.per_category(mask)))
    reference, candidate = float_ap.per_category(keep), candidate_ap.per_category(keep)
    per_class = np.array([first - second for first, second in left_out])
    errors = [_standard_error(per_class[:, at]) for at in range(len(reference))]
    objects = float_ap.count(keep)
    classes = [
        ClassDrop(
            names[number],
            int(objects[at]),
            float(reference[at]),
            float(candidate[at]),
            None if np.isnan(errors[at]) else errors[at],
        )
        for at, number in enumerate(float_ap.category_ids)
        if objects[at]
    ]
    return Accuracy(
        fp32=_mean(reference),
        candidate=_mean(candidate),
        fp32_se=_standard_error(np.array([_mean(first) for first, _ in left_out])),
        drop_se=_standard_error(np.array([_mean(first) - _mean(second) for first, second in left_out])),
        classes=tuple(sorted(classes, key=lambda entry: (-entry.drop, entry.name))),
    )


def allowed_drop(max_drop: float, drop_se: float) -> float:
    """The largest loss of AP that is accepted: `max_drop` and one standard error, twice `max_drop` at the most."""
    return max_drop + min(drop_se, max_drop)


def _mean(per_category: NDArray[np.float64]) -> float:
    """COCO's AP of figures per category: over those with objects; 0 where there is none."""
    present = per_category[~np.isnan(per_category)]
    return float(present.mean()) if len(present) else 0.0


def _standard_error(left_out: NDArray[np.float64]) -> float:
    """(G,) figures, each without one group, to the standard error of the figure of all; NaN if one of them is."""
    groups = len(left_out)
    return float(np.sqrt((groups - 1) / groups * np.square(left_out - left_out.mean()).sum()))

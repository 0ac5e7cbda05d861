"""AP of any subset of the images from one matching: for standard errors, halves and single classes in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_MOST: Final = 100  # detections per image that count, as in COCO's AP


@dataclass(frozen=True)
class _Category:
    """All detections of a category, best first.

    Attributes:
        image: (D,) position of each detection's image.
        hit: (T, D) it matches an object at IoU threshold T.
        miss: (T, D) it matches nothing; what is neither lies on a crowd.
        objects: (N,) number of objects that count in each image.
    """

    image: NDArray[np.intp]
    hit: NDArray[np.bool_]
    miss: NDArray[np.bool_]
    objects: NDArray[np.intp]


class SubsetAP:
    """AP (IoU 0.50:0.95, all sizes, 100 detections per image) per category, on any subset of the images.

    Args:
        matched: What :func:`edgedet.coco_eval.match` returned.

    Attributes:
        image_ids: The images, in the order of the masks that the methods take.
        category_ids: The categories, in the order of the figures.
    """

    def __init__(self, matched: Any) -> None:
        parameters = matched.params
        self.image_ids: tuple[int, ...] = tuple(int(number) for number in parameters.imgIds)
        self.category_ids: tuple[int, ...] = tuple(int(number) for number in parameters.catIds)
        self._recalls: NDArray[np.float64] = np.asarray(parameters.recThrs)
        self._thresholds = len(parameters.iouThrs)
        per_image, per_category = len(self.image_ids), len(self.image_ids) * len(parameters.areaRng)
        # The first area range of pycocotools is "all".
        self._categories = [
            self._category(matched.evalImgs[at * per_category : at * per_category + per_image])
            for at in range(len(self.category_ids))
        ]

    def per_category(self, keep: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """AP of each category, NaN where the images hold no object of it.

        Args:
            keep: (N,) which images count, in the order of `image_ids`; all of them if not given.

        Returns:
            (K,) in [0, 1] or NaN.
        """
        return np.array([self._precision(category, keep) for category in self._categories])

    def count(self, keep: NDArray[np.bool_] | None = None) -> NDArray[np.intp]:
        """(K,) number of objects of each category that count, in the images of `keep`."""
        return np.array([_objects(category, keep) for category in self._categories])

    def mean(self, keep: NDArray[np.bool_] | None = None) -> float:
        """COCO's AP: the mean over the categories that have objects; -1 where none has."""
        found = self.per_category(keep)
        present = ~np.isnan(found)
        return float(found[present].mean()) if present.any() else -1.0

    def _category(self, entries: list[dict[str, Any] | None]) -> _Category:
        scores, images, hits, misses = [], [], [], []
        objects = np.zeros(len(entries), np.intp)
        for at, entry in enumerate(entries):
            if entry is None:
                continue
            objects[at] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
            matches = np.asarray(entry["dtMatches"])[:, :_MOST] != 0
            counts = ~np.asarray(entry["dtIgnore"])[:, :_MOST].astype(bool)
            scores.append(np.asarray(entry["dtScores"])[:_MOST])
            images.append(np.full(matches.shape[1], at, np.intp))
            hits.append(matches & counts)
            misses.append(~matches & counts)
        if not scores:
            nothing = np.zeros((self._thresholds, 0), bool)
            return _Category(np.zeros(0, np.intp), nothing, nothing, objects)
        # pycocotools' order: ties stay in the order of the images. A subset of it is the order of the subset.
        order = np.argsort(-np.concatenate(scores), kind="mergesort")
        return _Category(
            np.concatenate(images)[order],
            np.concatenate(hits, axis=1)[:, order],
            np.concatenate(misses, axis=1)[:, order],
            objects,
        )

    def _precision(self, category: _Category, keep: NDArray[np.bool_] | None) -> float:
        objects = _objects(category, keep)
        if objects == 0:
            return float("nan")
        hit, miss = category.hit, category.miss
        if keep is not None:
            kept = keep[category.image]
            hit, miss = hit[:, kept], miss[:, kept]
        if hit.shape[1] == 0:
            return 0.0
        hits = np.cumsum(hit, axis=1, dtype=np.float64)
        precision = hits / (hits + np.cumsum(miss, axis=1) + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total = 0.0
        for recall, best in zip(hits / objects, envelope):
            at = np.searchsorted(recall, self._recalls, side="left")
            total += float(best[at[at < len(best)]].sum())
        return total / (self._thresholds * len(self._recalls))


def _objects(category: _Category, keep: NDArray[np.bool_] | None) -> int:
    return int((category.objects if keep is None else category.objects[keep]).sum())

"""AP of subsets from one matching, against pycocotools run on each subset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedet.coco_eval import average_precision, evaluate, load_annotations, match
from edgedet.coco_subsets import SubsetAP

IMAGES, CLASSES = 24, 4  # the last class has no object


def world(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects and detections that overlap them more or less, with tied scores, crowds and classes without objects."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, IMAGES + 1):
        for _ in range(rng.integers(0, 5)):
            category = int(rng.integers(1, CLASSES))
            box = [*rng.uniform(0, 60, 2), *rng.uniform(5, 40, 2)]
            crowd = int(rng.random() < 0.1)
            annotations.append({"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd})
            for _ in range(rng.integers(0, 3)):
                moved = [max(value + rng.normal(0, 3), 1.0) for value in box]
                wrong = int(rng.integers(1, CLASSES + 1)) if rng.random() < 0.2 else category
                score = round(float(rng.random()), 1)
                results.append({"image_id": image, "category_id": wrong, "bbox": moved, "score": score})
    for at, entry in enumerate(annotations):
        entry["id"] = at + 1
    document = {
        "images": [{"id": image, "file_name": f"{image}.png"} for image in range(1, IMAGES + 1)],
        "categories": [{"id": number, "name": f"c{number}"} for number in range(1, CLASSES + 1)],
        "annotations": annotations,
    }
    return document, results


@pytest.mark.parametrize("seed", range(3))
def test_every_subset_agrees_with_pycocotools(seed: int) -> None:
    document, results = world(seed)
    dataset = load_annotations(document)
    subsets = SubsetAP(match(results, dataset))
    rng = np.random.default_rng(seed)
    for size in (IMAGES, IMAGES // 2, 5, 1):
        chosen = np.sort(rng.choice(IMAGES, size, replace=False))
        keep = np.isin(np.arange(IMAGES), chosen)
        ids = [subsets.image_ids[at] for at in chosen]
        expected = evaluate([entry for entry in results if entry["image_id"] in ids], dataset, image_ids=ids)
        assert subsets.mean(keep) == pytest.approx(expected["AP"], abs=1e-12)
    assert subsets.mean() == pytest.approx(evaluate(results, dataset)["AP"], abs=1e-12)


def test_categories_agree_with_pycocotools_precision() -> None:
    document, results = world(7)
    matched = match(results, document)
    figures = average_precision(matched)
    subsets = SubsetAP(matched)
    precision = matched.eval["precision"][:, :, :, 0, 2]  # thresholds, recalls, categories
    expected = np.where((precision > -1).all(axis=(0, 1)), precision.mean(axis=(0, 1)), np.nan)
    np.testing.assert_allclose(subsets.per_category(), expected, atol=1e-12)
    assert subsets.category_ids == (1, 2, 3, 4)
    assert np.isnan(subsets.per_category()[3])
    assert np.nanmean(subsets.per_category()) == pytest.approx(figures["AP"])
    counts = [
        sum(e["category_id"] == number and not e["iscrowd"] for e in document["annotations"]) for number in (1, 2, 3, 4)
    ]
    assert subsets.count().tolist() == counts
    assert subsets.count(np.zeros(IMAGES, bool)).tolist() == [0, 0, 0, 0]


def test_nothing_found_is_zero_and_nothing_to_find_is_minus_one() -> None:
    document, _ = world(1)
    subsets = SubsetAP(match([], document))
    assert subsets.mean() == 0.0
    assert subsets.mean(np.zeros(IMAGES, bool)) == -1.0

"""Average precision: against pycocotools used by hand, against cases worked out on paper, and on real models."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedet
from edgedet import coco_eval
from edgedet.coco_eval import evaluate, load_annotations, match_categories
from edgedet.labels import COCO80
from edgedet.onnx_import import import_model

IMAGES = 328
# Reference figures of the published models on this subset: onnxruntime FP32, OpenCV bilinear stretch, pycocotools.
PUBLISHED = {"femto": (0.341, 0.494, 0.363, 0.136, 0.363, 0.523), "atto": (0.256, 0.392, 0.274, 0.087, 0.266, 0.426)}


def dataset(**changes: Any) -> dict[str, Any]:
    """Two images, two classes with a gap in the ids, three objects of 20x20, 50x50 and 100x100 pixels."""
    return {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "hot dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 10, 20, 20]},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [50, 60, 50, 50]},
            {"id": 3, "image_id": 9, "category_id": 2, "bbox": [0, 0, 100, 100]},
        ],
        **changes,
    }


def result(image_id: int, category_id: int, bbox: list[float], score: float = 0.9) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


PERFECT = [result(7, 2, [10, 10, 20, 20]), result(7, 5, [50, 60, 50, 50]), result(9, 2, [0, 0, 100, 100])]


def test_perfect_and_empty_results() -> None:
    assert evaluate(PERFECT, dataset()) == pytest.approx(dict.fromkeys(coco_eval.METRICS, 1.0))
    assert evaluate([], dataset()) == dict.fromkeys(coco_eval.METRICS, 0.0)


def test_half_found_is_half_and_absent_sizes_are_minus_one() -> None:
    # Class 2 has two objects, the small one is found: precision 1 up to recall 0.5 (51 of 101 recall points). The
    # class without a result counts 0.
    figures = evaluate(PERFECT[:1], dataset())
    assert figures["AP"] == pytest.approx((51 / 101 + 0) / 2)
    assert figures["AP_small"] == pytest.approx(1.0)
    assert evaluate(PERFECT, dataset(annotations=dataset()["annotations"][:1]))["AP_large"] == -1.0


def test_a_shifted_box_counts_at_the_thresholds_it_reaches() -> None:
    # 100x100 moved by 25 pixels: IoU 75 * 100 / 12500 = 0.6, reached by 0.50, 0.55 and 0.60 of the ten thresholds.
    only = dataset(annotations=dataset()["annotations"][2:])
    figures = evaluate([result(9, 2, [25, 0, 100, 100])], only)
    assert (figures["AP50"], figures["AP75"]) == pytest.approx((1.0, 0.0))
    assert figures["AP"] == pytest.approx(0.3)


def test_images_can_be_chosen() -> None:
    assert evaluate(PERFECT[2:], dataset(), image_ids=[9])["AP"] == pytest.approx(1.0)
    with pytest.raises(edgedet.InvalidInputError, match="image_ids"):
        evaluate([], dataset(), image_ids=[1])


def test_nothing_is_printed_and_nothing_changed(capsys: pytest.CaptureFixture[str]) -> None:
    document = dataset()
    before = copy.deepcopy(document)
    results = copy.deepcopy(PERFECT)
    evaluate(results, document)
    assert capsys.readouterr().out == ""
    assert document == before
    assert results == PERFECT


def noisy_results(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a dataset, moved, some lost, some of a wrong class; float32 like a detector's."""
    random = np.random.default_rng(5)
    ids = [category["id"] for category in document["categories"]]
    results = []
    for entry in document["annotations"]:
        for _ in range(random.integers(0, 4)):
            noise = random.normal(0, 0.08, 4) * (entry["bbox"][2:] * 2)
            bbox = (np.array(entry["bbox"]) + noise).astype(np.float32)
            category = entry["category_id"] if random.random() < 0.8 else int(random.choice(ids))
            bbox[2:] = np.maximum(bbox[2:], 1)
            results.append(result(entry["image_id"], category, bbox.tolist(), float(np.float32(random.random()))))
    return results


def pycocotools_by_hand(document: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(document)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:6]]


def test_equals_pycocotools_on_real_annotations(shared: Path) -> None:
    path = shared / "data" / "coco_val2017_subset" / "instances.json"
    document = json.loads(path.read_text())
    results = noisy_results(document)
    figures = evaluate(results, path)
    assert list(figures.values()) == pycocotools_by_hand(document, results)
    assert 0.1 < figures["AP"] < 0.9


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.pop(key)


def edit(key: str, at: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document[key][at].update(changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("images"), 'no such "images"'),
        (drop("annotations"), 'no such "annotations"'),
        (lambda d: d.update(categories={"1": "cat"}), 'no such "categories"'),
        (lambda d: d.update(annotations=[]), 'at least one entry in "annotations"'),
        (lambda d: d.update(images=[]), 'at least one entry in "images"'),
        (lambda d: d.update(annotations=[1]), 'no such "annotations"'),
        (edit("images", 1, id=7), "image id 7 appears more than once"),
        (edit("categories", 1, id=2), "category id 2 appears more than once"),
        (edit("images", 0, id="7"), r"images\[0\] has id '7'; expected an integer"),
        (edit("images", 0, file_name=None), r"images\[0\] has file_name None; expected a text"),
        (edit("annotations", 2, image_id=8), r"annotations\[2\] has image_id 8"),
        (edit("annotations", 2, category_id=3), r"annotations\[2\] has category_id 3"),
        (edit("annotations", 1, bbox=[0, 0, 1]), r"annotations\[1\] has bbox"),
        (edit("annotations", 1, bbox=[0, 0, float("nan"), 1]), r"annotations\[1\] has bbox"),
        (edit("annotations", 1, bbox=[0, 0, -1, 1]), r"annotations\[1\] has bbox"),
        (edit("annotations", 1, bbox=None), r"annotations\[1\] has bbox"),
    ],
)
def test_ill_formed_annotations(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    document = dataset()
    spoil(document)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document))
    with pytest.raises(edgedet.InvalidInputError, match=message) as caught:
        load_annotations(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"images": 1}'])
def test_files_that_are_no_dataset(tmp_path: Path, text: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with pytest.raises(edgedet.InvalidInputError, match="expected a COCO"):
        load_annotations(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(edgedet.InvalidInputError, match="No such file"):
        load_annotations(tmp_path / "nothing.json")


def test_results_for_an_unknown_image() -> None:
    with pytest.raises(edgedet.InvalidInputError, match=r"results\[0\] is for image 8"):
        evaluate([result(8, 2, [0, 0, 1, 1])], dataset())


@pytest.mark.parametrize(
    "entry", [{}, {"image_id": 7, "bbox": [0, 0, 1], "category_id": 2, "score": 1}, [7, 2, [0, 0, 1, 1], 0.5]]
)
def test_ill_formed_results(entry: Any) -> None:
    with pytest.raises(edgedet.InvalidInputError, match=r"results\[1\]: expected image_id, category_id"):
        evaluate([PERFECT[0], entry], dataset())


def test_a_missing_pycocotools_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(edgedet.Error, match="pip install pycocotools"):
        evaluate([], dataset())


@pytest.mark.parametrize(
    ("classes", "ids", "by", "expected"),
    [
        (["cat", "hot dog"], [2, 5], "auto", [2, 5]),
        (["hot_dog", "bird", "Cat"], [1, 2, 3], "auto", [5, -1, 2]),  # ids mean other things, names count
        (["feline", "sausage"], [2, 5], "id", [2, 5]),
        (["cat", "hot dog"], [5, 2], "auto", [2, 5]),
        (["cat", "hot dog", "cow"], [2, 5, 8], "id", [2, 5, -1]),
    ],
)
def test_categories_are_matched(classes: list[str], ids: list[int], by: Any, expected: list[int]) -> None:
    assert match_categories(load_annotations(dataset()), classes, ids, by=by) == expected


def test_categories_without_annotations_need_no_class() -> None:
    document = dataset()
    document["categories"].insert(0, {"id": 0, "name": "everything"})
    assert match_categories(load_annotations(document), ["cat", "hot dog"], [1, 2]) == [2, 5]


def test_unmatched_categories_are_named() -> None:
    data = load_annotations(dataset())
    with pytest.raises(edgedet.InvalidInputError, match=r"category 5 \(hot dog\).*rename its categories"):
        match_categories(data, ["cat", "dog"], [1, 3])
    with pytest.raises(edgedet.InvalidInputError, match=r"category 5 \(hot dog\).*match by id"):
        match_categories(data, ["cat", "hotdog sandwich"], [2, 5])
    with pytest.raises(edgedet.InvalidInputError, match=r"category 2 \(cat\), 5"):
        match_categories(data, ["cat", "hot dog"], [1, 3], by="id")


def test_collecting_needs_the_images(tmp_path: Path) -> None:
    data = load_annotations(dataset())
    (tmp_path / "a.png").touch()
    with pytest.raises(edgedet.InvalidInputError, match=r"1 of the 2 images .* b\.png for one"):
        coco_eval.collect_results(lambda image: pytest.fail("not to be called"), data, tmp_path, [2, 5])


def test_collecting_keeps_order_and_drops_unknown_classes(tmp_path: Path) -> None:
    from PIL import Image

    for name, grey in (("a.png", 10), ("b.png", 20)):
        Image.new("RGB", (40, 30), (grey, grey, grey)).save(tmp_path / name)

    def detect(image: np.ndarray) -> edgedet.Detections:
        boxes = np.array([[0, 0, image[0, 0, 0], 5], [1, 2, 3, 4]], np.float32)
        return edgedet.Detections(boxes, np.array([0.5, 0.25], np.float32), np.array([1, 0], np.int32), ["x", "y"])

    seen: list[tuple[int, int]] = []
    results = coco_eval.collect_results(
        detect, load_annotations(dataset()), tmp_path, [-1, 5], progress=lambda *at: seen.append(at)
    )
    assert results == [result(7, 5, [0, 0, 10, 5], 0.5), result(9, 5, [0, 0, 20, 5], 0.5)]
    assert seen == [(1, 2), (2, 2)]


def evaluate_published(shared: Path, folder: Path, name: str, count: int) -> tuple[dict[str, float], list[Any]]:
    bundle = import_model(shared / "models" / f"deimv2_hgnetv2_{name}_coco.onnx", folder / name, labels=COCO80)
    root = shared / "data" / "coco_val2017_subset"
    data = load_annotations(root / "instances.json")
    chosen = coco_eval.CocoDataset(data.source, data.images[:count], data.categories, data.document)
    detector = edgedet.Detector(bundle, precision="fp32")
    ids = match_categories(data, detector.info.classes, detector.info.category_ids)
    assert tuple(ids) == COCO80.category_ids
    results = coco_eval.collect_results(detector, chosen, root / "images", ids)
    return evaluate(results, data, image_ids=[image.id for image in chosen.images]), results


@pytest.mark.slow
@pytest.mark.parametrize("name", ["atto", "femto"])
def test_published_models_reach_their_published_figures(shared: Path, tmp_path: Path, name: str) -> None:
    figures, results = evaluate_published(shared, tmp_path, name, IMAGES)
    assert len(results) == IMAGES * 300
    np.testing.assert_allclose(list(figures.values()), PUBLISHED[name], atol=0.002)

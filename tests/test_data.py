"""The reader of COCO json: repairs are counted, everything else is an error that names the place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgedet import ImageError, InvalidInputError
from training.data.coco import SplitPaths, find_split, load_coco
from training.data.dataset import Categories
from training.data.store import ImageStore, decode


def make_document() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 9, "file_name": "b.png", "width": 30, "height": 30},
        ],
        "categories": [{"id": 90, "name": "kite"}, {"id": 4, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 5, 20, 10]},
            {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 8, 8]},
        ],
    }


def write_split(folder: Path, document: object, *, images: bool = True) -> SplitPaths:
    (folder / "train" / "images").mkdir(parents=True, exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "train" / "instances.json").write_text(text)
    if images and isinstance(document, dict):
        for entry in document.get("images", []):
            picture = Image.new("RGB", (entry["width"], entry["height"]), (200, 30, 90))
            picture.save(folder / "train" / "images" / entry["file_name"])
    return find_split(folder, "train")


def test_reads_boxes_in_image_fractions_and_maps_ids_with_gaps(tmp_path: Path) -> None:
    dataset = load_coco(write_split(tmp_path, make_document()))
    assert dataset.categories == Categories(names=("cat", "kite"), ids=(4, 90))
    first, second = dataset.samples
    assert (first.image_id, first.width, first.height) == (7, 40, 20)
    np.testing.assert_allclose(first.boxes, [[0.25, 0.25, 0.75, 0.75], [0, 0, 0.2, 0.4]])
    assert first.labels.tolist() == [1, 0]
    assert first.boxes.dtype == np.float32
    assert second.boxes.shape == (0, 4)
    assert second.labels.shape == (0,)
    assert (dataset.report.images, dataset.report.boxes, dataset.report.without_boxes) == (2, 2, 1)


def test_clips_drops_and_leaves_out_with_counts(tmp_path: Path) -> None:
    document = make_document()
    document["annotations"] = [
        {"image_id": 7, "category_id": 4, "bbox": [-10, 5, 20, 10]},  # clipped at the left
        {"image_id": 7, "category_id": 4, "bbox": [30, 10, 50, 50]},  # clipped at two sides
        {"image_id": 7, "category_id": 4, "bbox": [50, 5, 10, 10]},  # wholly outside
        {"image_id": 7, "category_id": 4, "bbox": [5, 5, 0, 10]},  # no width
        {"image_id": 7, "category_id": 4, "bbox": [5, 5, 10, -3]},  # negative height
        {"image_id": 7, "category_id": 4, "bbox": [0, 0, 40.004, 20]},  # rounding, not worth a report
        {"image_id": 9, "category_id": 4, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]
    dataset = load_coco(write_split(tmp_path, document))
    report = dataset.report
    assert (report.boxes, report.clipped, report.dropped, report.crowd, report.without_boxes) == (3, 2, 3, 1, 1)
    np.testing.assert_allclose(dataset.samples[0].boxes[0], [0, 0.25, 0.25, 0.75])
    np.testing.assert_allclose(dataset.samples[0].boxes[1], [0.75, 0.5, 1, 1])
    assert dataset.samples[0].boxes.max() <= 1
    assert "2 boxes clipped" in str(report)
    assert "3 boxes of no area dropped" in str(report)


def _set(path: str, value: object) -> Any:
    """A change of the document: `path` is keys and indices joined by dots; None deletes."""

    def change(document: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place: Any = document
        for part in parents:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("images", None, 'list of objects under "images", got nothing'),
        ("images", [], "at least one image"),
        ("images", {"id": 1}, 'list of objects under "images", got a dict'),
        ("images.0.id", "x", r'images\[0\]: expected an integer "id", got \'x\''),
        ("images.1.id", 7, r"images\[1\]: expected unique image ids, got 7 again"),
        ("images.0.width", 0, "positive width and height .*, got 0x20"),
        ("images.0.width", 10**400, "of at most 1000000 pixels"),
        ("images.0.file_name", "", 'expected a text "file_name"'),
        ("images.0.file_name", "absent.png", "1 of 2 missing .*absent.png"),
        ("images.0.file_name", "x" * 5000, "1 of 2 missing"),
        ("images.0.file_name", "a\0.png", "1 of 2 missing"),
        ("categories", [], "at least one category"),
        ("categories.1.id", 90, "unique category ids, got 90 again"),
        ("categories.1.name", 3, 'expected a text "name", got 3'),
        ("annotations", None, 'list of objects under "annotations"'),
        ("annotations", [], "at least one usable box, got none"),
        ("annotations.0.image_id", 1, r"annotations\[0\]: expected the id of a listed image, got image_id 1"),
        ("annotations.1.category_id", 5, r"annotations\[1\]: expected a listed category id \(4, 90\), got 5"),
        ("annotations.0.bbox", [1, 2, 3], r"four finite numbers .* got \[1, 2, 3\]"),
        ("annotations.0.bbox", [1, 2, float("nan"), 3], "four finite numbers"),
        ("annotations.0.bbox", [1, 2, 10**400, 3], "four finite numbers"),
        ("annotations.0.category_id", [4], r"expected an integer .category_id., got \[4\]"),
        ("annotations.0.bbox", [1, 2, "3", 3], "four finite numbers"),
    ],
)
def test_refuses_bad_documents(tmp_path: Path, path: str, value: object, message: str) -> None:
    paths = write_split(tmp_path, make_document())
    document = make_document()
    _set(path, value)(document)
    with pytest.raises(InvalidInputError, match=message):
        load_coco(write_split(tmp_path, document, images=False))
    assert paths.annotations.is_file()


@pytest.mark.parametrize(
    "text", ['{"images": [', "[]", "[" * 100_000, '{"images": ' + "1" * 5000 + "}", "", "\x00\x01", '"COCO"']
)
def test_refuses_broken_json(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"instances\.json: expected"):
        load_coco(write_split(tmp_path, text))


def test_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    paths = write_split(tmp_path, make_document())
    paths.annotations.write_bytes(b"\xff\xfe{}")
    with pytest.raises(InvalidInputError, match="expected UTF-8"):
        load_coco(paths)


def test_missing_dataset(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"got {tmp_path / 'no'}, which does not exist")):
        find_split(tmp_path / "no", "train")
    with pytest.raises(InvalidInputError, match=r"expected COCO annotations at .*val.instances\.json.*--val-json"):
        find_split(tmp_path, "val")


def test_images_may_lie_beside_the_json(tmp_path: Path) -> None:
    paths = write_split(tmp_path, make_document())
    moved = tmp_path / "flat"
    moved.mkdir()
    for image in (paths.annotations.parent / "images").iterdir():
        image.rename(moved / image.name)
    (moved / "labels.json").write_bytes(paths.annotations.read_bytes())
    assert len(load_coco(find_split(tmp_path, "train", annotations=moved / "labels.json"))) == 2


def test_validation_must_use_the_categories_of_training(tmp_path: Path) -> None:
    paths = write_split(tmp_path, make_document())
    more = Categories(("dog", "cat", "kite"), (1, 4, 90))
    assert load_coco(paths, categories=more).samples[0].labels.tolist() == [2, 1]
    with pytest.raises(InvalidInputError, match="got boxes of the further ids 90"):
        load_coco(paths, categories=Categories(("cat",), (4,)))
    with pytest.raises(InvalidInputError, match="expected category 90 to be 'plane'"):
        load_coco(paths, categories=Categories(("cat", "plane"), (4, 90)))


def test_decoded_size_must_be_the_stated_one(tmp_path: Path) -> None:
    sample = load_coco(write_split(tmp_path, make_document())).samples[0]
    assert decode(sample).shape == (20, 40, 3)
    Image.new("RGB", (20, 40)).save(sample.file)
    with pytest.raises(InvalidInputError, match=r"expected 40x20 pixels .* got 20x40"):
        decode(sample)
    sample.file.write_bytes(sample.file.read_bytes()[:60])
    with pytest.raises(ImageError):
        decode(sample)


def test_store_keeps_within_its_limit_and_shrinks(tmp_path: Path) -> None:
    samples = load_coco(write_split(tmp_path, make_document())).samples
    store = ImageStore(samples, longest=24, limit_bytes=24 * 20 * 3)
    first = store[0]
    assert first.shape == (20, 24, 3)
    assert store.bytes_kept == first.nbytes
    assert store[0] is first
    assert store[1].shape == (24, 24, 3)  # decoded, but there is no room to keep it
    assert store[1] is not store[1]
    assert store.bytes_kept == first.nbytes


def test_reads_a_real_dataset(shared: Path) -> None:
    dataset = load_coco(find_split(shared / "data" / "bccd", "train"))
    assert (dataset.report.images, dataset.report.boxes) == (292, 3941)
    assert dataset.categories == Categories(("Platelets", "RBC", "WBC"), (1, 2, 3))

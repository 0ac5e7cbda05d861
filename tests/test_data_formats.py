"""Datasets as people have them: layouts of COCO json, Ultralytics data.yaml, Roboflow exports of both kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_data import make_dataset, tiny_config

from edgedet import InvalidInputError
from edgedet.coco_eval import evaluate
from edgedet.images import read_header
from training.data.coco import find_splits
from training.data.dataset import CocoDataset, Finding
from training.data.formats import load_split, load_splits, read_categories
from training.data.store import decode
from training.data.yolo import label_file
from training.publish import evaluate_checkpoint
from training.trainer import train


def write_image(file: Path, width: int = 40, height: int = 20, *, orientation: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), (90, 120, 30)).save(file, exif=exif)


def write_coco(annotations: Path, images: Path, *, prefix: str = "", categories: Any = None) -> None:
    """One image, named after the json's folder, with one box of category 4."""
    name = f"{annotations.parent.name}_{annotations.stem}.png"
    write_image(images / name)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": prefix + name, "width": 40, "height": 20}],
                "categories": categories or [{"id": 4, "name": "cat"}, {"id": 90, "name": "kite"}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [10, 5, 20, 10]}],
            }
        )
    )


def write_yolo(root: Path, yaml: str, rows: dict[str, str | None], *, file: str = "data.yaml") -> Path:
    """rows: text of the txt of each image; None for an image without a txt. Paths are relative to the root."""
    root.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(yaml)
    for image, text in rows.items():
        write_image(root / image)
        if text is not None:
            labels = label_file(root / image)
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(text)
    return root


# Nested aliases: 9 lists of 9 of the next, which printed in full would be gigabytes.
BOMB = (
    "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)) + "names: *a9\n"
)
YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: kite\n"
ROWS: dict[str, str | None] = {
    "images/train/a.png": "1 0.5 0.5 0.5 0.5\n\n0 0.25 0.25 0.1 0.2\n",
    "images/train/sub/b.png": "",
    "images/train/c.png": None,
    "images/val/d.png": "0 0.5 0.5 1 1\n",
}


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("{}/instances.json", "{}/images"),
        ("{}/_annotations.coco.json", "{}"),
        ("{}/labels.json", "{}/images"),
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2017.json", "images/{}2017"),
        ("annotations/instances_{}.json", "images"),
        ("annotations/{}.json", "{}"),
        ("{}.json", "images"),
        ("instances_{}.json", "."),
        ("{}_annotations.coco.json", "{}"),
    ],
)
@pytest.mark.parametrize("val", ["val", "valid"])
def test_coco_layouts(tmp_path: Path, annotations: str, images: str, val: str) -> None:
    for split in ("train", val):
        write_coco(tmp_path / annotations.format(split), tmp_path / images.format(split))
    # The official archive has these beside the instances; they are not mistaken for them.
    if annotations.startswith("annotations/instances"):
        (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
    train, validation = load_splits(tmp_path)
    assert [sample.file.is_file() for sample in (*train.samples, *validation.samples)] == [True, True]
    assert train.samples[0].file != validation.samples[0].file
    assert train.categories.ids == (4, 90)


def test_one_json_without_a_split(tmp_path: Path) -> None:
    write_coco(tmp_path / "result.json", tmp_path / "images", prefix="images\\")
    assert list(find_splits(tmp_path)) == ["all"]
    assert len(load_split(tmp_path, "all")) == 1
    with pytest.raises(InvalidInputError, match=r"expected a train split in .*, got only all; .*--train-json"):
        load_splits(tmp_path)
    assert len(load_splits(None, tmp_path / "result.json", tmp_path / "result.json")[1]) == 1


def test_a_named_json_finds_the_images_of_its_layout(tmp_path: Path) -> None:
    write_coco(tmp_path / "annotations" / "instances_val2017.json", tmp_path / "val2017")
    assert len(load_split(None, "val", annotations=tmp_path / "annotations" / "instances_val2017.json")) == 1


def test_two_json_files_that_could_be_meant(tmp_path: Path) -> None:
    for year in (2014, 2017):
        write_coco(tmp_path / "annotations" / f"instances_train{year}.json", tmp_path / f"train{year}")
    with pytest.raises(InvalidInputError, match=r"one json for the train split, got .*2014\.json, .*2017\.json; name"):
        load_splits(tmp_path)


def test_roboflows_group_of_categories_is_no_class(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 4, "name": "cat", "supercategory": "cells"},
        {"id": 5, "name": "person", "supercategory": "person"},
    ]
    for split in ("train", "valid"):
        write_coco(tmp_path / split / "_annotations.coco.json", tmp_path / split, categories=categories)
    train, _ = load_splits(tmp_path)
    assert train.categories.names == ("cat", "person")
    assert read_categories(tmp_path) == train.categories


def test_yolo_rows_become_boxes(tmp_path: Path) -> None:
    train, validation = load_splits(write_yolo(tmp_path, YAML, ROWS))
    assert [sample.file.name for sample in train.samples] == ["a.png", "c.png", "b.png"]
    assert (train.report.images, train.report.boxes, train.report.without_boxes) == (3, 2, 2)
    np.testing.assert_allclose(train.samples[0].boxes, [[0.25, 0.25, 0.75, 0.75], [0.2, 0.15, 0.3, 0.35]], atol=1e-6)
    assert train.samples[0].labels.tolist() == [1, 0]
    assert (train.samples[0].width, train.samples[0].height) == (40, 20)
    assert train.categories.names == validation.categories.names == ("cat", "kite")
    assert read_categories(tmp_path / "data.yaml").ids == (0, 1)


def test_evaluation_knows_the_boxes_of_a_yolo_dataset(tmp_path: Path) -> None:
    """Detections equal to the labels have AP 1; one of the two boxes missing halves the AP of its class."""
    train = load_splits(write_yolo(tmp_path, YAML, ROWS))[0]
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 10], "score": 0.9},
        {"image_id": 1, "category_id": 0, "bbox": [8, 3, 4, 4], "score": 0.8},
    ]
    assert isinstance(train.annotations, dict)
    assert evaluate(results, train.annotations)["AP"] == pytest.approx(1.0)
    assert evaluate(results[:1], train.annotations)["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train\nval: images/val\nnc: 2\nnames: [cat, kite]\n",
        "train: ../images/train\nval: ../images/val\nnames: ['cat', 'kite']\nroboflow:\n  license: MIT\n",
        "path: no_such_root\ntrain: [images/train]\nvalidation: images/val # names\nnames: {0: cat, 1: kite}\n",
        "path: ROOT\ntrain: images/train/\nval: images/val\nnames:\n- cat\n- kite\ndownload: |\n  import os\n  x: 1\n",
        "train: train.txt\nval: ./val.txt\nnames:\n  0: cat\n  1: kite\n",
    ],
)
def test_ways_to_write_a_yaml(tmp_path: Path, yaml: str) -> None:
    root = write_yolo(tmp_path / "data", yaml.replace("ROOT", str(tmp_path / "data")), ROWS)
    (root / "train.txt").write_text("./images/train/a.png\nimages/train/c.png\n\nimages/train/sub/b.png\n")
    (root / "val.txt").write_text(f"{root / 'images/val/d.png'}\n")
    train, validation = load_splits(root)
    assert (len(train), len(validation), train.categories.names) == (3, 1, ("cat", "kite"))


def test_roboflows_yolo_export(tmp_path: Path) -> None:
    yaml = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['no']\n"
    rows = {f"{split}/images/x.png": "0 0.5 0.5 0.2 0.2" for split in ("train", "valid", "test")}
    train, validation = load_splits(write_yolo(tmp_path, yaml, dict(rows)))
    assert train.categories.names == ("no",)  # YAML 1.1 would make it False
    assert validation.report.boxes == 1


def test_class_ids_with_gaps_become_labels_without(tmp_path: Path) -> None:
    rows: dict[str, str | None] = {"images/train/a.png": "7 .5 .5 .2 .2\n2 .5 .5 .1 .1"}
    root = write_yolo(tmp_path, "train: images/train\nnames: {7: dog, 2: cat}\n", rows)
    found: list[Finding] = []
    train = load_split(root, "train", on_finding=found.append)
    assert (train.categories.names, train.categories.ids) == (("cat", "dog"), (2, 7))
    assert train.samples[0].labels.tolist() == [1, 0]
    assert [finding.kind for finding in found] == ["category-gaps"]
    assert isinstance(train.annotations, dict)
    assert [entry["category_id"] for entry in train.annotations["annotations"]] == [7, 2]


def load_rows(tmp_path: Path, rows: str, *, more: str = "") -> CocoDataset:
    yaml = "train: images\nnames: [cat, kite]\n" + more
    return load_split(write_yolo(tmp_path, yaml, {"images/a.png": rows}), "train")


def test_polygons_give_their_surrounding_box(tmp_path: Path) -> None:
    sample = load_rows(tmp_path, "0 .1 .2 .5 .1 .4 .6\n1 .2 .2 .4 .2 .4 .6 .2 .6").samples[0]
    np.testing.assert_allclose(sample.boxes, [[0.1, 0.1, 0.5, 0.6], [0.2, 0.2, 0.4, 0.6]], atol=1e-6)


def test_keypoints_are_not_taken_for_corners(tmp_path: Path) -> None:
    sample = load_rows(tmp_path, "0 .5 .5 .2 .4 .9 .9 .1 .1", more="kpt_shape: [2, 2]\n").samples[0]
    np.testing.assert_allclose(sample.boxes, [[0.4, 0.3, 0.6, 0.7]], atol=1e-6)


def test_yolo_boxes_are_clipped_and_dropped_with_counts(tmp_path: Path) -> None:
    report = load_rows(tmp_path, "0 0 .5 .5 .5\n0 .5 .5 0 .1\n0 1.5 .5 .1 .1\n0 .5 .5 1.0000004 1").report
    assert (report.boxes, report.clipped, report.dropped) == (2, 1, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0 .5 .5 .1 .1\n2 .5 .5 .1 .1", r"labels.a\.txt:2: expected a listed class id \(0, 1\), got 2"),
        ("0.5 .5 .5 .1 .1", r"a\.txt:1: expected a listed class id .* got 0\.5"),
        ("0 .5 .5 .1", r"a\.txt:1: expected class x y width height.* got 4 numbers"),
        ("0 .5 .5 .1 .1 .9", "got 6 numbers"),
        ("0 .5 .5 .1 cat", "expected numbers, got '0 .5 .5 .1 cat'"),
        ("0 20 10 5 5", r"fractions of the image in \[0, 1\].*divide pixels"),
        ("0 .5 nan .1 .1", "fractions of the image"),
        ("0 .5 .5 inf .1", "fractions of the image"),
        ("", "at least one usable box"),
    ],
)
def test_refuses_bad_rows(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_rows(tmp_path, rows)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\n", "expected names, .* got None"),
        ("train: images\nnames: []\n", "expected names"),
        ("train: images\nnames: [a, [b]]\n", "expected names"),
        ("train: images\nnames: {x: a}\n", "class ids from 0 in names, got 'x'"),
        ("train: images\nnames: [a]\nnc: 2\n", "expected nc names, got nc 2 and 1 names"),
        ("train: images\nnc: -1\n", "expected nc, .*got '-1'"),
        ("names: [a]\n", "expected train and val"),
        ("train: {a: b}\nnames: [a]\n", "expected folders or txt files under path and train"),
        ("train: elsewhere\nnames: [a]\n", "expected the images of train at .*elsewhere, got no such folder"),
        ("train: images\n\tnames: [a]", "expected yaml, got broken text"),
        ("- train\n- val\n", "expected a mapping .* got a list"),
        ("", "expected a mapping"),
        ("!!python/object/apply:os.system ['true']", "expected a mapping"),
        ("[" * 5000, "expected yaml"),
        ("train: empty\nnames: [a]", "expected images in .*empty, got none"),
        (f"train: {'x' * 5000}\nnames: [a]", "got no such folder"),
        ('train: "a\\0b"\nnames: [a]', "got no such folder"),
        (BOMB, "expected names"),
        (BOMB.replace("names", "train") + "names: [a]", "expected folders or txt"),
    ],
)
def test_refuses_bad_yaml(tmp_path: Path, yaml: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match=message):
        load_split(write_yolo(tmp_path, yaml, {"images/a.png": "0 .5 .5 .1 .1"}), "train")


def test_refuses_what_is_no_text(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images\nnames: [a]\n", {"images/a.png": None})
    label_file(root / "images" / "a.png").parent.mkdir(exist_ok=True)
    label_file(root / "images" / "a.png").write_bytes(b"\xff\xfe0")
    with pytest.raises(InvalidInputError, match=r"a\.txt: expected UTF-8"):
        load_split(root, "train")
    (root / "data.yaml").write_bytes(b"\xff\xfe0")
    with pytest.raises(InvalidInputError, match=r"data\.yaml: expected UTF-8"):
        load_split(root, "train")
    (root / "data.yaml").write_text("#" * (5 << 20))
    with pytest.raises(InvalidInputError, match=r"expected a data\.yaml of a few kilobytes"):
        load_split(root, "train")


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images\nnames: [a]\n", {"images/a.png": "0 .5 .5 .1 .1"})
    (root / "images" / "._a.png").write_bytes(b"Mac OS X")
    assert len(load_split(root, "train")) == 1


def test_a_real_dataset_reads_the_same_in_both_formats(shared: Path, tmp_path: Path) -> None:
    """BCCD as COCO json, and written as a Roboflow export with centres and sizes of six decimals."""
    coco = load_splits(shared / "data" / "bccd")
    for split, name in zip(coco, ("train", "valid"), strict=True):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "labels").mkdir()
        for sample in split.samples:
            (tmp_path / name / "images" / sample.file.name).symlink_to(sample.file)
            rows = [
                f"{label} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}\n"
                for label, (x0, y0, x1, y1) in zip(sample.labels, sample.boxes, strict=True)
            ]
            (tmp_path / name / "labels" / f"{sample.file.stem}.txt").write_text("".join(rows))
    (tmp_path / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\nnc: 3\nnames: {list(coco[0].categories.names)}\n"
    )
    for expected, got in zip(coco, load_splits(tmp_path), strict=True):
        assert got.report == expected.report
        assert got.categories.names == expected.categories.names
        by_name = {sample.file.name: sample for sample in expected.samples}
        for sample in got.samples:
            same = by_name[sample.file.name]
            assert (sample.width, sample.height, sample.labels.tolist()) == (
                same.width, same.height, same.labels.tolist(),
            )  # fmt: skip
            np.testing.assert_allclose(sample.boxes, same.boxes, atol=2e-6)


def test_images_that_are_none_are_named(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images\nnames: [a]\n", {"images/a.png": "0 .5 .5 .1 .1"})
    (root / "images" / "b.jpg").write_bytes(b"not an image")
    with pytest.raises(InvalidInputError, match=r"b\.jpg: not an image"):
        load_split(root, "train")


def test_yolo_sizes_are_those_of_the_image_as_shown(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "train: images\nnames: [a]\n", {"images/a.png": "0 .5 .5 .5 .5"})
    (root / "images" / "a.png").unlink()
    write_image(root / "images" / "a.jpg", orientation=6)
    sample = load_split(root, "train").samples[0]
    assert (sample.width, sample.height) == (20, 40)
    assert decode(sample).shape == (40, 20, 3)
    header = read_header(sample.file)
    assert (header.orientation, header.format, header.mode) == (6, "JPEG", "RGB")


def test_validation_of_other_classes_is_refused(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, YAML, ROWS)
    weights = load_split(root, "val").categories
    (root / "data.yaml").write_text(YAML.replace("kite", "plane"))
    with pytest.raises(InvalidInputError, match="expected the classes cat, kite, got cat, plane"):
        load_split(root, "val", categories=weights)


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("d/images/train/x.jpg", "d/labels/train/x.txt"),
        ("images/images/x.y.png", "images/labels/x.y.txt"),
        ("d/train/x.jpg", "d/train/x.txt"),
        ("d/images", "d/images.txt"),
    ],
)
def test_label_file(image: str, labels: str) -> None:
    assert label_file(Path(image)) == Path(labels)


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="which does not exist"):
        load_splits(tmp_path / "no")
    with pytest.raises(InvalidInputError, match=r"expected annotations in .*no data\.yaml; lay the folder out"):
        load_splits(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("")
    with pytest.raises(InvalidInputError, match=r"expected one data\.yaml, got .*a\.yaml"):
        load_splits(tmp_path)


def test_a_missing_validation_split_says_what_to_do(tmp_path: Path) -> None:
    write_coco(tmp_path / "train" / "_annotations.coco.json", tmp_path / "train")
    with pytest.raises(InvalidInputError, match=r"expected a val split in .*got only train; add one.*--val-json"):
        load_splits(tmp_path)


def test_training_takes_a_data_yaml(tmp_path: Path) -> None:
    """A run on txt labels validates on their boxes, and its weights are evaluated on them again."""
    make_dataset(tmp_path / "coco")
    for split, dataset in zip(("train", "val"), load_splits(tmp_path / "coco"), strict=True):
        for sample in dataset.samples:
            image = tmp_path / "yolo" / "images" / split / sample.file.name
            label_file(image).parent.mkdir(parents=True, exist_ok=True)
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(sample.file.read_bytes())
            rows = zip(sample.labels, (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2, strict=True)
            label_file(image).write_text("".join(f"{label} {x} {y} 0.3 0.375\n" for label, (x, y) in rows))
    (tmp_path / "yolo" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [red, blue]\n")
    result = train(tiny_config(tmp_path / "yolo", tmp_path / "run", epochs=1, eval_every=1))
    again = evaluate_checkpoint(tmp_path / "run", data=None, val_json=None, device="cpu", batch=2)
    assert again["AP"] == pytest.approx(result.best["AP"])

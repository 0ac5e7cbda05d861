"""Datasets in whatever format they come: found by their content, read into one type."""

from __future__ import annotations

from pathlib import Path

from edgedet import InvalidInputError
from training.data import coco, yolo
from training.data.dataset import Categories, CocoDataset, OnFinding, refuse_errors

Split = coco.SplitPaths | yolo.YoloSplit


def load_splits(
    data: Path | None, train_json: Path | None = None, val_json: Path | None = None
) -> tuple[CocoDataset, CocoDataset]:
    """Reads the training and the validation split, with the classes of the former.

    data: a dataset folder or data.yaml. train_json, val_json: COCO json files to be taken instead.
    Raises InvalidInputError if a split is missing, or broken.
    """
    train = load_split(data, "train", annotations=train_json)
    return train, load_split(data, "val", annotations=val_json, categories=train.categories)


def load_split(
    data: Path | None,
    split: str,
    *,
    annotations: Path | None = None,
    categories: Categories | None = None,
    on_finding: OnFinding = refuse_errors,
) -> CocoDataset:
    """Reads one split: train, val, test, or `all` where there is but one without a name.

    data: a dataset folder, data.yaml or COCO json. annotations: a COCO json to be taken instead.
    categories, on_finding: see `load_coco`.
    """
    if annotations is not None:
        return coco.load_coco(
            coco.find_split(annotations.parent, split, annotations=annotations),
            categories=categories,
            on_finding=on_finding,
        )
    source = find_splits(data or Path())
    if split not in source:
        raise InvalidInputError(
            f"dataset: expected a {split} split in {data}, got only {', '.join(source)}; "
            f"add one, such as {split}/instances.json with {split}/images/, or name a COCO json with --{split}-json"
        )
    return read_split(source[split], categories=categories, on_finding=on_finding)


def find_splits(path: Path) -> dict[str, Split]:
    """The splits of a dataset folder, data.yaml or COCO json, by name; found, not yet read.

    Raises InvalidInputError for what is no dataset, or where two files could be meant.
    """
    if path.suffix in (".yaml", ".yml"):
        return dict(yolo.read_yaml(path))
    if path.is_file():
        return {"all": coco.find_split(path.parent, "all", annotations=path)}
    if not path.is_dir():
        raise InvalidInputError(f"dataset: expected a folder or file, got {path}, which does not exist; check the path")
    if found := coco.find_splits(path):
        return dict(found)
    if (file := yolo.find_yaml(path)) is not None:
        return dict(yolo.read_yaml(file))
    raise InvalidInputError(
        f"dataset: expected annotations in {path}, got none: no train/instances.json, no train/_annotations.coco.json, "
        f"no annotations/instances_train*.json and no data.yaml; lay the folder out in one of these ways"
    )


def read_split(
    split: Split, *, categories: Categories | None = None, on_finding: OnFinding = refuse_errors
) -> CocoDataset:
    """Reads a split that was found. Raises as `load_coco` and `load_yolo` do."""
    if isinstance(split, yolo.YoloSplit):
        return yolo.load_yolo(split, categories=categories, on_finding=on_finding)
    return coco.load_coco(split, categories=categories, on_finding=on_finding)


def read_categories(path: Path) -> Categories:
    """The classes of a COCO json, of a data.yaml, or of a dataset folder: of its val split if it has one."""
    found = find_splits(path)
    split = found.get("val") or next(iter(found.values()))
    return split.categories if isinstance(split, yolo.YoloSplit) else coco.read_categories(split.annotations)

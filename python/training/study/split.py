"""The training images of a study in two: what is trained on, and what checkpoints are picked on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedet import InvalidInputError
from edgedet.files import write_atomically
from training.data.dataset import Categories, CocoDataset
from training.data.formats import load_splits
from training.study.grid import Grid

_BOX = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")


@dataclass(frozen=True)
class StudyData:
    """The images of a study.

    train, select: content of COCO json, file names absolute. identity: of all that the figures of runs depend on.
    report: a line for people.
    """

    train: Mapping[str, Any]
    select: Mapping[str, Any]
    identity: Mapping[str, Any]
    report: str


def split_files(out: Path) -> tuple[Path, Path]:
    """Where a study keeps the two parts of its training images."""
    return out / "split" / "train.json", out / "split" / "select.json"


def divide(grid: Grid) -> StudyData:
    """Reads the dataset and sets a part of its training images aside.

    Which part depends on the ids of the images and split_seed alone: not on the seeds of runs, nor on their order.
    Raises InvalidInputError for data that training would refuse, and for a share that leaves a part without boxes.
    """
    train, validation = load_splits(grid.data, grid.train_json, grid.val_json)
    count = round(grid.select * len(train))
    order = sorted((sample.image_id for sample in train.samples), key=lambda number: _rank(number, grid.split_seed))
    aside, rest = set(order[:count]), set(order[count:])
    for name, ids in (("training", rest), ("selection", aside)):
        if not any(len(sample.labels) for sample in train.samples if sample.image_id in ids):
            raise InvalidInputError(
                f"select: expected a share that leaves the {name} part an image with boxes, got {grid.select:g} of "
                f"{len(train)} images; change it, or split_seed"
            )
    return StudyData(
        train=_part(train, rest),
        select=_part(train, aside),
        identity={
            "train": _digest(train),
            "val": _digest(validation),
            "select": grid.select,
            "split_seed": grid.split_seed,
        },
        report=f"{len(rest)} images to train on, {len(aside)} to pick checkpoints on, {len(validation)} to judge by",
    )


def write_split(out: Path, data: StudyData) -> None:
    """Writes both parts."""
    for file, content in zip(split_files(out), (data.train, data.select), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(content).encode())


def _rank(image_id: int, seed: int) -> bytes:
    """A random order that is the same with every version of every library."""
    return hashlib.sha256(f"{seed}/{image_id}".encode()).digest()


def _part(dataset: CocoDataset, ids: set[int]) -> dict[str, Any]:
    """The images of these ids with what boxes they have, crowd regions included; outlines are left out."""
    entries = (entry for entry in _content(dataset)["annotations"] if entry["image_id"] in ids)
    return {
        "images": [
            {"id": each.image_id, "file_name": str(each.file.absolute()), "width": each.width, "height": each.height}
            for each in dataset.samples
            if each.image_id in ids
        ],
        "categories": _categories(dataset.categories),
        "annotations": [{key: entry[key] for key in _BOX if key in entry} for entry in entries],
    }


def _categories(categories: Categories) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in zip(categories.ids, categories.names, strict=True)]


def _content(dataset: CocoDataset) -> Mapping[str, Any]:
    if isinstance(dataset.annotations, Path):
        content: dict[str, Any] = json.loads(dataset.annotations.read_text(encoding="utf-8"))
        return content
    return dataset.annotations


def _digest(dataset: CocoDataset) -> str:
    """Of annotations, and of names and sizes of image files; not of the folder they are in."""
    files = [(each.image_id, each.file.name, each.file.stat().st_size) for each in dataset.samples]
    content = [_categories(dataset.categories), files, _content(dataset)["annotations"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

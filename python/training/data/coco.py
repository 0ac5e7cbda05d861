"""COCO json datasets, read strictly: what can be repaired is repaired and counted, the rest is a precise error."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedet import InvalidInputError

_LISTED = 5  # offenders named in an error message


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    boxes: (n, 4) float32, xyxy in [0, 1] of the image. labels: (n,) int64 in [0, classes).
    width, height: pixels, as the json states them.
    """

    image_id: int
    file: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Categories:
    """The classes of a dataset: index = label of the network, ids = what the json calls them (gaps allowed)."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class DatasetReport:
    """What was read and what had to be repaired. All are counts."""

    images: int
    boxes: int
    without_boxes: int
    clipped: int
    dropped: int
    crowd: int

    def __str__(self) -> str:
        """One line for people; repairs are mentioned only where there were any."""
        parts = [f"{self.images} images, {self.boxes} boxes"]
        if self.without_boxes:
            parts.append(f"{self.without_boxes} images without boxes")
        if self.clipped:
            parts.append(f"{self.clipped} boxes clipped to their image")
        if self.dropped:
            parts.append(f"{self.dropped} boxes of no area dropped")
        if self.crowd:
            parts.append(f"{self.crowd} crowd regions left out")
        return ", ".join(parts)


@dataclass(frozen=True)
class CocoDataset:
    """A split of a dataset: its samples in the order of the json, its classes and where it came from."""

    samples: tuple[Sample, ...]
    categories: Categories
    report: DatasetReport
    annotations: Path
    images: Path

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)


@dataclass(frozen=True)
class SplitPaths:
    """Where the json and the image folder of one split are."""

    annotations: Path
    images: Path


def find_split(root: Path, split: str, *, annotations: Path | None = None) -> SplitPaths:
    """Finds one split of a dataset folder: ROOT/SPLIT/instances.json beside ROOT/SPLIT/images/.

    annotations: another json file; its images are then looked for in `images/` beside it, or beside it directly.
    Raises InvalidInputError if a part is missing.
    """
    if annotations is None and not root.is_dir():
        raise InvalidInputError(f"dataset: expected a folder, got {root}, which does not exist; check the path")
    file = annotations if annotations is not None else root / split / "instances.json"
    if not file.is_file():
        raise InvalidInputError(
            f"dataset: expected COCO annotations at {file}, which is missing; lay the folder out as "
            f"{split}/instances.json with {split}/images/, or name the file with --{split}-json"
        )
    images = file.parent / "images"
    return SplitPaths(annotations=file, images=images if images.is_dir() else file.parent)


def read_categories(annotations: Path) -> Categories:
    """The classes that a COCO json lists, in ascending order of id. Raises InvalidInputError as `load_coco` does."""
    return _categories(_entries(_read_json(annotations), "categories", str(annotations)), str(annotations))


def load_coco(paths: SplitPaths, *, categories: Categories | None = None) -> CocoDataset:
    """Reads one split.

    Boxes are clipped to their image; boxes of no area are dropped; crowd regions are left out; images without boxes
    stay. Category ids are mapped to 0..classes-1 in ascending order of id.

    categories: the classes of the split that was trained on; this split must use no other ones.
    Raises InvalidInputError, naming the entry, for a missing or empty dataset, broken json, ill-typed entries, unknown
    or repeated ids, and image files that do not exist.
    """
    where = str(paths.annotations)
    content = _read_json(paths.annotations)
    own = _categories(_entries(content, "categories", where), where)
    if categories is None:
        categories = own
    elif extra := sorted(set(own.ids) - set(categories.ids)):
        raise InvalidInputError(
            f"{where}: expected the categories of the training split ({_some(categories.ids)}), "
            f"got the further ids {_some(extra)}; use the same categories in both files"
        )
    else:
        _check_same_names(own, categories, where)
    images = _entries(content, "images", where)
    if not images:
        raise InvalidInputError(f"{where}: expected at least one image, got none; check how the dataset was exported")

    boxes: dict[int, list[tuple[float, float, float, float]]] = {}
    labels: dict[int, list[int]] = {}
    sizes: dict[int, tuple[int, int]] = {}
    files: dict[int, Path] = {}
    for index, image in enumerate(images):
        at = f"{where}: images[{index}]"
        image_id = _integer(image, "id", at)
        if image_id in sizes:
            raise InvalidInputError(f"{at}: expected unique image ids, got {image_id} again; renumber the images")
        width, height = _integer(image, "width", at), _integer(image, "height", at)
        if width < 1 or height < 1:
            raise InvalidInputError(f"{at}: expected a positive width and height, got {width}x{height}")
        sizes[image_id] = (width, height)
        files[image_id] = paths.images / _string(image, "file_name", at)
        boxes[image_id], labels[image_id] = [], []
    _check_files(files, where)

    label_of = {category_id: label for label, category_id in enumerate(categories.ids)}
    counts: Counter[str] = Counter()
    for index, annotation in enumerate(_entries(content, "annotations", where)):
        at = f"{where}: annotations[{index}]"
        image_id = _integer(annotation, "image_id", at)
        if image_id not in sizes:
            raise InvalidInputError(f"{at}: expected the id of a listed image, got image_id {image_id}")
        category_id = _integer(annotation, "category_id", at)
        if category_id not in label_of:
            raise InvalidInputError(
                f"{at}: expected a listed category id ({_some(categories.ids)}), got {category_id}; "
                f'add it to "categories" or correct the annotation'
            )
        if annotation.get("iscrowd", 0):
            counts["crowd"] += 1
            continue
        box, clipped = _clipped(_box(annotation, at), *sizes[image_id])
        if box is None:
            counts["dropped"] += 1
            continue
        counts["clipped"] += clipped
        boxes[image_id].append(box)
        labels[image_id].append(label_of[category_id])

    samples = tuple(
        Sample(
            image_id=image_id,
            file=files[image_id],
            width=width,
            height=height,
            boxes=np.asarray(boxes[image_id], dtype=np.float32).reshape(-1, 4),
            labels=np.asarray(labels[image_id], dtype=np.int64),
        )
        for image_id, (width, height) in sizes.items()
    )
    report = DatasetReport(
        images=len(samples),
        boxes=sum(len(sample.labels) for sample in samples),
        without_boxes=sum(len(sample.labels) == 0 for sample in samples),
        clipped=counts["clipped"],
        dropped=counts["dropped"],
        crowd=counts["crowd"],
    )
    if report.boxes == 0:
        raise InvalidInputError(f"{where}: expected at least one usable box, got none ({report}); label some images")
    return CocoDataset(
        samples=samples,
        categories=categories,
        report=report,
        annotations=paths.annotations,
        images=paths.images,
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"{file}: cannot be read ({error.strerror}); check the path and its rights") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file}: expected UTF-8 text, got byte {error.start} that is not") from error
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"{file}: expected json, got broken text at line {error.lineno} column {error.colno} ({error.msg}); "
            f"was the file cut short?"
        ) from error
    if not isinstance(content, dict):
        raise InvalidInputError(
            f"{file}: expected a COCO object with images, annotations and categories, got a {type(content).__name__}"
        )
    return content


def _entries(content: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        got = "nothing" if entries is None else f"a {type(entries).__name__}"
        raise InvalidInputError(f'{where}: expected a list of objects under "{key}", got {got}; is this COCO json?')
    return entries


def _integer(entry: dict[str, Any], key: str, at: str) -> int:
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(f'{at}: expected an integer "{key}", got {value!r}')
    return value


def _string(entry: dict[str, Any], key: str, at: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f'{at}: expected a text "{key}", got {value!r}')
    return value


def _categories(entries: Sequence[dict[str, Any]], where: str) -> Categories:
    if not entries:
        raise InvalidInputError(f"{where}: expected at least one category, got none")
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        at = f"{where}: categories[{index}]"
        category_id = _integer(entry, "id", at)
        if category_id in names:
            raise InvalidInputError(f"{at}: expected unique category ids, got {category_id} again")
        names[category_id] = _string(entry, "name", at)
    ids = tuple(sorted(names))
    return Categories(names=tuple(names[category_id] for category_id in ids), ids=ids)


def _check_same_names(own: Categories, expected: Categories, where: str) -> None:
    names = dict(zip(expected.ids, expected.names, strict=True))
    for category_id, name in zip(own.ids, own.names, strict=True):
        if names[category_id] != name:
            raise InvalidInputError(
                f"{where}: expected category {category_id} to be {names[category_id]!r} as in the training split, "
                f"got {name!r}; use the same categories in both files"
            )


def _check_files(files: dict[int, Path], where: str) -> None:
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise InvalidInputError(
            f"{where}: expected every listed image to exist, got {len(missing)} of {len(files)} missing "
            f"({_some(missing)}); images are looked for in images/ beside the json, or beside it"
        )


def _box(annotation: dict[str, Any], at: str) -> tuple[float, float, float, float]:
    value = annotation.get("bbox")
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(isinstance(number, int | float) and math.isfinite(number) for number in value)
    ):
        raise InvalidInputError(f'{at}: expected "bbox" as four finite numbers [x, y, width, height], got {value!r}')
    x, y, width, height = (float(number) for number in value)
    return x, y, width, height


def _clipped(
    box: tuple[float, float, float, float], width: int, height: int
) -> tuple[tuple[float, float, float, float] | None, bool]:
    """Box xywh in pixels to (xyxy in [0, 1] or None where no area is left, whether it was cut)."""
    x, y, w, h = box
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if right <= left or bottom <= top:
        return None, False
    # Boxes rounded to two decimals in the json may end a hair outside; that is no repair worth a report.
    cut = max(left - x, top - y, x + w - right, y + h - bottom) > 0.01
    return (left / width, top / height, right / width, bottom / height), cut


def _some(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:_LISTED])
    return shown if len(items) <= _LISTED else f"{shown}, … {len(items) - _LISTED} more"

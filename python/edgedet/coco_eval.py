"""Average precision on a COCO dataset: the one definition of AP in edgedet.

``edgedet eval``, the validation of training and the verification of calibration all come here, so their figures can be
compared. The measure is pycocotools' ``bbox`` evaluation (IoU 0.50:0.95, at most 100 detections per image).
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgedet._core import Error, InvalidInputError
from edgedet.detections import Detections
from edgedet.images import read_image

#: Names of the figures, in the order of pycocotools' ``stats``.
METRICS: Final = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@dataclass(frozen=True)
class CocoImage:
    """One image of a dataset: its id and its file name relative to the image folder."""

    id: int
    file_name: str


@dataclass(frozen=True)
class CocoDataset:
    """An annotation file that :func:`load_annotations` found well formed.

    Attributes:
        source: Where it came from, for messages.
        images: In the order of the file.
        categories: Category names by id.
        document: The annotation document, ``area`` and ``iscrowd`` filled in where they were left out.
    """

    source: str
    images: tuple[CocoImage, ...]
    categories: dict[int, str]
    document: dict[str, Any]


def load_annotations(source: str | os.PathLike[str] | Mapping[str, Any]) -> CocoDataset:
    """Reads COCO annotations and checks what an evaluation relies on.

    Boxes must be four finite numbers with a width and height that are not negative. ``area`` may be left out (width x
    height is used), so may ``iscrowd`` (0).

    Args:
        source: Path of the JSON file, or the parsed document (not changed).

    Raises:
        InvalidInputError: The file is missing, not JSON, not a COCO dataset, has no annotation, or contradicts itself;
            the message names the entry.
    """
    if isinstance(source, Mapping):
        name, document = "annotations", dict(source)
    else:
        name = str(Path(source))
        try:
            document = json.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidInputError(f"{name}: cannot be read ({error.strerror}); expected a COCO JSON file") from None
        except ValueError as error:
            raise InvalidInputError(f"{name}: not JSON ({error}); expected a COCO annotation file") from None
    lists = {}
    for key in ("images", "categories", "annotations"):
        value = document.get(key) if isinstance(document, dict) else None
        if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
            raise InvalidInputError(
                f'{name}: expected a COCO dataset with lists "images", "categories" and "annotations" of objects, '
                f'got no such "{key}"',
            )
        if not value:
            raise InvalidInputError(f'{name}: expected at least one entry in "{key}", got an empty list')
        lists[key] = value

    images = tuple(
        CocoImage(_integer(entry, "id", name, "images", at), _text(entry, "file_name", name, "images", at))
        for at, entry in enumerate(lists["images"])
    )
    _check_unique((image.id for image in images), name, "image")
    category_list = [
        (_integer(entry, "id", name, "categories", at), _text(entry, "name", name, "categories", at))
        for at, entry in enumerate(lists["categories"])
    ]
    _check_unique((number for number, _ in category_list), name, "category")
    categories = dict(category_list)
    image_ids = {image.id for image in images}
    annotations = [_annotation(entry, at, name, image_ids, categories) for at, entry in enumerate(lists["annotations"])]
    return CocoDataset(name, images, categories, {**document, "annotations": annotations})


def match_categories(
    dataset: CocoDataset,
    classes: Sequence[str],
    category_ids: Sequence[int],
    *,
    by: Literal["auto", "id", "name"] = "auto",
) -> list[int]:
    """Finds which category of the dataset each class of a model is.

    Only categories that have annotations must be found; a model may know more classes than the dataset.

    Args:
        dataset: The annotations.
        classes: The model's class names.
        category_ids: The model's category id of each class.
        by: "id" trusts the ids. "name" compares names without regard to case, blanks and underscores. "auto" takes the
            ids where id and name agree for every category, else the names.

    Returns:
        For each class the dataset's category id, or -1 for a class that the dataset does not have.

    Raises:
        InvalidInputError: A category with annotations has no class.
    """
    used = {entry["category_id"] for entry in dataset.document["annotations"]}
    by_id = [number if number in dataset.categories else -1 for number in category_ids]
    wanted = {normal_name(name): number for number, name in dataset.categories.items()}
    by_name = [wanted.get(normal_name(name), -1) for name in classes]
    agree = used <= {number for number, same in zip(by_id, by_name) if number == same}
    chosen = by_id if by == "id" or (by == "auto" and agree) else by_name
    missing = sorted(used - set(chosen))
    if missing:
        names = ", ".join(f"{number} ({dataset.categories[number]})" for number in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        remedy = (
            "the ids of all of them are known, so match by id if only the names differ"
            if by != "id" and used <= set(by_id)
            else "use the dataset that belongs to the model, or rename its categories"
        )
        raise InvalidInputError(
            f"{dataset.source}: no class of the model for category {names}{more}; the model knows "
            f"{', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}; {remedy}",
        )
    return chosen


def collect_results(
    detect: Callable[[NDArray[np.uint8]], Detections],
    dataset: CocoDataset,
    images: str | os.PathLike[str],
    category_ids: Sequence[int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Runs a detector over the dataset, reading the next images while it works.

    Args:
        detect: From an (H, W, 3) RGB image to detections, a :class:`edgedet.Detector` for one.
        dataset: The annotations.
        images: Folder of the image files.
        category_ids: The dataset's category of each class, from :func:`match_categories`; classes with -1 are dropped.
        progress: Called after each image with the number done and the number of all.

    Returns:
        COCO results of all images, best first within each.

    Raises:
        InvalidInputError: Image files are missing from the folder.
        ImageError: A file that cannot be read.
    """
    root = Path(images)
    absent = [image.file_name for image in dataset.images if not (root / image.file_name).is_file()]
    if absent:
        raise InvalidInputError(
            f"{root}: {len(absent)} of the {len(dataset.images)} images of {dataset.source} are not there, "
            f"{absent[0]} for one; expected the folder that its file names are relative to",
        )
    results: list[dict[str, Any]] = []
    pixels = _read_ahead([root / image.file_name for image in dataset.images])
    for done, (image, array) in enumerate(zip(dataset.images, pixels), start=1):
        found = detect(array).to_coco(image.id, category_ids)
        results.extend(entry for entry in found if entry["category_id"] >= 0)
        if progress is not None:
            progress(done, len(dataset.images))
    return results


def require_pycocotools() -> None:
    """Raises Error if pycocotools is not installed: to be called before the work whose result `evaluate` will judge."""
    try:
        import pycocotools.coco
        import pycocotools.cocoeval  # noqa: F401
    except ModuleNotFoundError:
        raise Error("evaluation needs pycocotools, which is not installed; run: pip install pycocotools") from None


def match(
    results: Iterable[Mapping[str, Any]],
    annotations: str | os.PathLike[str] | Mapping[str, Any] | CocoDataset,
    *,
    image_ids: Collection[int] | None = None,
) -> Any:
    """Matches COCO results to the objects of each image: the slow part of an evaluation, done once.

    Args:
        results: One mapping per detection: image_id, category_id, bbox (x, y, width, height), score.
        annotations: The dataset, its document or the path of its file.
        image_ids: Evaluate on these images only; all of the dataset if not given.

    Returns:
        A `pycocotools.cocoeval.COCOeval` after `evaluate()`, for :func:`average_precision` and
        :class:`edgedet.coco_subsets.SubsetAP`.

    Raises:
        InvalidInputError: Ill-formed annotations or results, or results for images that the dataset does not have.
        Error: pycocotools is not installed.
    """
    require_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    dataset = annotations if isinstance(annotations, CocoDataset) else load_annotations(annotations)
    known = {image.id for image in dataset.images}
    chosen = sorted(known if image_ids is None else image_ids)
    if not set(chosen) <= known:
        raise InvalidInputError(f"{dataset.source}: image_ids has ids that the dataset does not, {set(chosen) - known}")
    rows = [_result(entry, at, known) for at, entry in enumerate(results)]

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        # Copies, because pycocotools writes "ignore" into annotations.
        truth.dataset = {**dataset.document, "annotations": [dict(entry) for entry in dataset.document["annotations"]]}
        truth.createIndex()
        found = COCO()
        found.dataset = {**dataset.document, "annotations": rows}
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.imgIds = chosen
        evaluation.evaluate()
    return evaluation


def average_precision(matched: Any) -> dict[str, float]:
    """The figures of :func:`evaluate` from what :func:`match` returned."""
    with contextlib.redirect_stdout(io.StringIO()):
        matched.accumulate()
        matched.summarize()
    return {name: float(value) for name, value in zip(METRICS, matched.stats[:6])}


def evaluate(
    results: Iterable[Mapping[str, Any]],
    annotations: str | os.PathLike[str] | Mapping[str, Any] | CocoDataset,
    *,
    image_ids: Collection[int] | None = None,
) -> dict[str, float]:
    """Average precision of COCO results; arguments and errors as :func:`match`.

    Returns:
        AP, AP50, AP75, AP_small, AP_medium, AP_large, each in [0, 1], or -1 where the dataset has no object of that
        size (pycocotools' convention).
    """
    return average_precision(match(results, annotations, image_ids=image_ids))


def _read_ahead(paths: Sequence[Path], *, depth: int = 4) -> Iterator[NDArray[np.uint8]]:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="edgedet-read") as pool:
        waiting: list[Future[NDArray[np.uint8]]] = []
        try:
            for path in paths:
                waiting.append(pool.submit(read_image, path))
                if len(waiting) > depth:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _annotation(
    entry: Mapping[str, Any],
    at: int,
    name: str,
    image_ids: Collection[int],
    categories: Collection[int],
) -> dict[str, Any]:
    box = entry.get("bbox")
    if (
        not isinstance(box, (list, tuple))
        or len(box) != 4
        or not all(isinstance(value, (int, float)) and math.isfinite(value) for value in box)
        or min(box[2:]) < 0
    ):
        raise InvalidInputError(
            f"{name}: annotations[{at}] has bbox {box!r}; expected [x, y, width, height], four finite numbers, width "
            "and height not negative",
        )
    for key, known in (("image_id", image_ids), ("category_id", categories)):
        if _integer(entry, key, name, "annotations", at) not in known:
            raise InvalidInputError(
                f"{name}: annotations[{at}] has {key} {entry[key]}, which the dataset does not list"
            )
    # pycocotools looks annotations up by id and takes the id 0 for "not matched".
    return {"iscrowd": 0, "area": float(box[2] * box[3]), **entry, "id": at + 1}


def _result(entry: Mapping[str, Any], at: int, known: Collection[int]) -> dict[str, Any]:
    try:
        image_id, (_, _, width, height) = entry["image_id"], entry["bbox"]
        row = {"category_id": entry["category_id"], "score": entry["score"]}
    except (KeyError, TypeError, ValueError):
        raise InvalidInputError(
            f"results[{at}]: expected image_id, category_id, bbox [x, y, width, height] and score, got {entry!r}",
        ) from None
    if image_id not in known:
        raise InvalidInputError(f"results[{at}] is for image {image_id}, which the dataset does not have")
    return {**row, "image_id": image_id, "bbox": entry["bbox"], "id": at + 1, "area": width * height, "iscrowd": 0}


def _integer(entry: Mapping[str, Any], key: str, name: str, where: str, at: int) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(f"{name}: {where}[{at}] has {key} {value!r}; expected an integer")
    return value


def _text(entry: Mapping[str, Any], key: str, name: str, where: str, at: int) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{name}: {where}[{at}] has {key} {value!r}; expected a text")
    return value


def _check_unique(numbers: Iterable[int], name: str, what: str) -> None:
    seen: set[int] = set()
    for number in numbers:
        if number in seen:
            raise InvalidInputError(f"{name}: {what} id {number} appears more than once; expected unique ids")
        seen.add(number)


def normal_name(name: str) -> str:
    """A class name without what people spell differently: case, blanks, underscores and hyphens."""
    return name.lower().replace("_", "").replace(" ", "").replace("-", "")

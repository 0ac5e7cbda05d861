"""Runs both sides on the same images, and holds what came out against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgedet import Detector, ImageError, InvalidInputError, coco_eval
from edgedet.coco_compare import Accuracy, match_run
from edgedet.coco_compare import compare as compare_accuracy
from edgedet.compare.agreement import Agreement, ImageAgreement, compare_image, summarise
from edgedet.compare.classes import SharedClasses, relabel, shared_classes
from edgedet.compare.side import Side, facts
from edgedet.detections import Detections
from edgedet.images import find_images, read_image
from edgedet.turns import ratio_of_medians, take_turns

_MOST_FRAMES: Final = 16  # that stay in memory to be timed on
_MOST_PIXELS: Final = 64_000_000  # of all of them


@dataclass(frozen=True)
class CompareOptions:
    """What is compared.

    Attributes:
        score: Detections below it are not looked at, but for AP.
        limit: First images only, 0 for all.
        turns: Frames that both are timed on, by turns.
        classes: Only these; all that both know if empty.
    """

    score: float = 0.3
    limit: int = 0
    turns: int = 100
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 < self.score <= 1.0 or self.limit < 0 or self.turns < 1:
            raise InvalidInputError(f"expected a score in (0, 1], limit >= 0 and turns >= 1, got {self}")


@dataclass(frozen=True)
class ComparedImage:
    """One image and what both sides found in it, labels of the shared classes."""

    path: Path
    a: Detections
    b: Detections
    agreement: ImageAgreement

    @property
    def severity(self) -> float:
        """How bad the disagreement is, see :meth:`ImageAgreement.severity`."""
        return self.agreement.severity(self.a, self.b)


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        sides: A and B.
        facts: Of both, see :func:`edgedet.compare.side.facts`.
        classes: That were compared.
        images: In the order they were read.
        agreement: Of all of them.
        milliseconds: (2, turns) of the calls of A and B.
        accuracy: AP of A ("fp32") and of B (the candidate), None without annotations.
        not_judged: Categories with labels that count in no AP, because a side does not know them.
        unreadable: What was wrong with images that were left out.
    """

    sides: tuple[Side, Side]
    facts: tuple[dict[str, Any], dict[str, Any]]
    classes: SharedClasses
    images: Sequence[ComparedImage]
    agreement: Agreement
    milliseconds: NDArray[np.float64]
    accuracy: Accuracy | None
    not_judged: tuple[str, ...]
    unreadable: tuple[str, ...]

    def worst(self, count: int) -> list[ComparedImage]:
        """The images on which they disagree most, the worst first; never one on which they agree."""
        found = sorted(self.images, key=lambda image: (-image.severity, image.path))
        return [image for image in found[:count] if image.severity > 0.0]

    def speed(self) -> dict[str, float]:
        """Medians in milliseconds, and the ratio of B to A with its standard error (NaN of very few turns)."""
        ratio, error = ratio_of_medians(self.milliseconds[1], self.milliseconds[0])
        a, b = np.median(self.milliseconds, axis=1).tolist()
        return {"a_p50_ms": a, "b_p50_ms": b, "ratio": ratio, "ratio_se": error}


def compare(
    sides: tuple[Side, Side],
    detectors: tuple[Detector, Detector],
    *,
    images: Path,
    annotations: Path | None,
    options: CompareOptions,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Comparison:
    """Detects with both, one image at a time.

    Args:
        sides: Who they are.
        detectors: That run, with a score threshold of 0.
        images: Folder of the images.
        annotations: COCO file of them; then its images are taken, and AP is computed.
        options: What is compared.
        progress: Told (stage, done, total).

    Raises:
        InvalidInputError: The bundles share no class, or the images do not fit the annotations.
        ImageError: No image can be read.
    """
    infos = [detector.info for detector in detectors]
    shared = shared_classes(infos[0].classes, infos[1].classes, options.classes)
    dataset = None
    if annotations is None:
        paths = find_images(images)[: options.limit or None]
    else:
        coco_eval.require_pycocotools()
        dataset = coco_eval.load_annotations(annotations)
        paths = _listed(dataset, images, options.limit)
    ids = [number for number, place in zip(infos[0].category_ids, shared.of_a.tolist()) if place >= 0]
    judged = None if dataset is None else _judged(dataset, shared.names, ids)

    compared: list[ComparedImage] = []
    unreadable: list[str] = []
    frames: list[NDArray[np.uint8]] = []
    keep = 0.0 if dataset is not None else options.score / 2  # a partner has at least half the score
    for done, path in enumerate(paths, start=1):
        try:
            image = read_image(path)
        except ImageError as error:
            if dataset is not None:
                raise
            unreadable.append(str(error))
        else:
            if not frames or (len(frames) < _MOST_FRAMES and sum(map(_pixels, [*frames, image])) <= _MOST_PIXELS):
                frames.append(image)
            a, b = (
                relabel(detector(image).filter(keep), places, shared.names)
                for detector, places in zip(detectors, (shared.of_a, shared.of_b))
            )
            compared.append(ComparedImage(path, a, b, compare_image(a, b, score=options.score)))
        progress("detect", done, len(paths))
    if not compared:
        raise ImageError(f"{images}: none of the {len(paths)} images can be read; {unreadable[0]}")
    taken = take_turns(
        detectors, frames, turns=options.turns, progress=lambda done, total: progress("time", done, total)
    )
    return Comparison(
        sides=sides,
        facts=(facts(sides[0], detectors[0]), facts(sides[1], detectors[1])),
        classes=shared,
        images=compared,
        agreement=summarise([image.agreement for image in compared], score=options.score),
        milliseconds=taken,
        accuracy=None if judged is None else _accuracy(compared, judged),
        not_judged=() if judged is None else judged.left_out,
        unreadable=tuple(unreadable),
    )


@dataclass(frozen=True)
class _Judged:
    """The part of a dataset that both sides can be judged by, the category of each class, and what was left out."""

    dataset: coco_eval.CocoDataset
    categories: list[int]
    left_out: tuple[str, ...]


def _judged(dataset: coco_eval.CocoDataset, names: Sequence[str], ids: Sequence[int]) -> _Judged:
    known = {coco_eval.normal_name(name) for name in names}
    entries = dataset.document["annotations"]
    used = {entry["category_id"] for entry in entries}
    shared = {number for number in used if coco_eval.normal_name(dataset.categories[number]) in known}
    if used == shared or not shared:  # where no name is known the ids may be, or it is an error that says so
        return _Judged(dataset, coco_eval.match_categories(dataset, names, ids), ())
    kept = [entry for entry in entries if entry["category_id"] in shared]
    part = coco_eval.CocoDataset(
        dataset.source, dataset.images, dataset.categories, {**dataset.document, "annotations": kept}
    )
    left_out = tuple(dataset.categories[number] for number in sorted(used - shared))
    return _Judged(part, coco_eval.match_categories(part, names, ids, by="name"), left_out)


def _accuracy(images: Sequence[ComparedImage], judged: _Judged) -> Accuracy:
    dataset = judged.dataset
    chosen = dataset.images[: len(images)]
    a, b = (
        match_run(found, dataset, chosen, judged.categories)[0]
        for found in ([image.a for image in images], [image.b for image in images])
    )
    return compare_accuracy({"fp32": a, "b": b}, dataset.categories)


def _listed(dataset: coco_eval.CocoDataset, folder: Path, limit: int) -> list[Path]:
    paths = [folder / image.file_name for image in dataset.images[: limit or None]]
    if absent := [path for path in paths if not path.is_file()]:
        raise InvalidInputError(f"{absent[0]}: not there; expected the images of {dataset.source} in {folder}")
    return paths


def _pixels(image: NDArray[np.uint8]) -> int:
    return int(image.shape[0]) * int(image.shape[1])

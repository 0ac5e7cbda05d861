"""What a split of a dataset is, whatever its format, and how it is put together: repaired, checked and counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgedet import InvalidInputError

_LISTED = 5  # offenders named in an error message
_LONGEST = 1_000_000  # pixels of one side


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
    """A split of a dataset: its samples in the order of the source, its classes and its annotations as COCO has them.

    annotations: the COCO json, or where the labels are in another format, the same content in memory.
    """

    samples: tuple[Sample, ...]
    categories: Categories
    report: DatasetReport
    annotations: Path | dict[str, Any]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)


@dataclass(frozen=True)
class Finding:
    """One remark about a dataset.

    level: "error" is what training refuses; "warning" what is repaired, or likely a mistake; "note" the rest.
    kind: stable name of the sort of remark. message: what and where; expected, got and remedy for errors.
    """

    level: Literal["error", "warning", "note"]
    kind: str
    message: str


OnFinding = Callable[[Finding], None]


def refuse_errors(finding: Finding) -> None:
    """What training does with a finding: an error ends the reading as InvalidInputError, all else is repaired."""
    if finding.level == "error":
        raise InvalidInputError(finding.message)


class SplitBuilder:
    """Collects the images and boxes of a split, whatever their format: repairs, checks and counts."""

    def __init__(self, categories: Categories, where: str, on_finding: OnFinding) -> None:
        """where: the source, for messages. on_finding: told of every repair and error."""
        self._categories = categories
        self._where = where
        self._on_finding = on_finding
        self._images: dict[int, tuple[Path, int, int]] = {}
        self._boxes: dict[int, list[tuple[float, float, float, float]]] = {}
        self._labels: dict[int, list[int]] = {}
        self._left_out: set[int] = set()
        self._counts: Counter[str] = Counter()

    def entry(self, kind: str) -> AbstractContextManager[None]:
        """For `with`, around each entry that is read: an InvalidInputError inside becomes a finding of that kind."""
        return _Entry(self._on_finding, kind)

    def add_image(self, image_id: int, file: Path, width: int, height: int, *, at: str) -> None:
        """Adds an image, its size in pixels as shown. Raises InvalidInputError for a repeated id or no size."""
        if image_id in self._images:
            raise InvalidInputError(f"{at}: expected unique image ids, got {image_id} again; renumber the images")
        if not (1 <= width <= _LONGEST and 1 <= height <= _LONGEST):
            raise InvalidInputError(
                f"{at}: expected a positive width and height of at most {_LONGEST} pixels, got {width}x{height}"
            )
        self._images[image_id] = (file, width, height)
        self._boxes[image_id], self._labels[image_id] = [], []

    def check_files(self, remedy: str) -> None:
        """Reports the images whose files do not exist, as one error, and leaves them out."""
        missing = {image_id: file for image_id, (file, _, _) in self._images.items() if not os.path.isfile(file)}
        if missing:
            self._on_finding(
                Finding(
                    "error",
                    "missing-image",
                    f"{self._where}: expected every listed image to exist, got {len(missing)} of {len(self._images)} "
                    f"missing ({some(list(missing.values()))}); {remedy}",
                )
            )
        for image_id in missing:
            del self._images[image_id]
        self._left_out.update(missing)

    def add_box(
        self, image_id: int, label: int, box: tuple[float, float, float, float], *, crowd: bool = False, at: str
    ) -> None:
        """Adds a box, (x, y, width, height) in pixels: clipped, or dropped where no area is left.

        Raises InvalidInputError for an unknown image.
        """
        if image_id in self._left_out:
            return
        if image_id not in self._images:
            raise InvalidInputError(f"{at}: expected the id of a listed image, got image_id {image_id}")
        if crowd:
            self._counts["crowd"] += 1
            return
        file, width, height = self._images[image_id]
        inside, cut = _clipped(box, width, height)
        if inside is None or cut:
            kind, verb = ("dropped", "no area in") if inside is None else ("clipped", "a part outside")
            self._counts[kind] += 1
            shown = ", ".join(f"{value:.6g}" for value in box)
            text = f"{at}: box [{shown}] has {verb} the {width}x{height} pixels of {file.name}"
            self._on_finding(Finding("warning", f"box-{kind}", text))
        if inside is not None:
            self._boxes[image_id].append(inside)
            self._labels[image_id].append(label)

    def build(self, annotations: Path | None = None) -> CocoDataset:
        """The finished split. annotations: its COCO json; made from the samples if None.

        Raises InvalidInputError if no box is left.
        """
        samples = tuple(
            Sample(
                image_id=image_id,
                file=file,
                width=width,
                height=height,
                boxes=np.asarray(self._boxes[image_id], dtype=np.float32).reshape(-1, 4),
                labels=np.asarray(self._labels[image_id], dtype=np.int64),
            )
            for image_id, (file, width, height) in self._images.items()
        )
        report = DatasetReport(
            images=len(samples),
            boxes=sum(len(sample.labels) for sample in samples),
            without_boxes=sum(len(sample.labels) == 0 for sample in samples),
            clipped=self._counts["clipped"],
            dropped=self._counts["dropped"],
            crowd=self._counts["crowd"],
        )
        if report.boxes == 0:
            message = f"{self._where}: expected at least one usable box, got none ({report}); label some images"
            self._on_finding(Finding("error", "no-boxes", message))
        return CocoDataset(
            samples=samples,
            categories=self._categories,
            report=report,
            annotations=annotations or to_coco(samples, self._categories),
        )


class _Entry(AbstractContextManager[None]):
    """See `SplitBuilder.entry`. One object serves a million entries, which a generator could not."""

    def __init__(self, on_finding: OnFinding, kind: str) -> None:
        self._on_finding = on_finding
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, InvalidInputError):
            return False
        self._on_finding(Finding("error", self._kind, str(error)))
        return True


def to_coco(samples: Sequence[Sample], categories: Categories) -> dict[str, Any]:
    """The content of a COCO json: what evaluation compares with, for labels of another format."""
    annotations: list[dict[str, Any]] = []
    for sample in samples:
        scale = np.asarray([sample.width, sample.height] * 2)
        for box, label in zip((sample.boxes * scale).tolist(), sample.labels.tolist(), strict=True):
            x0, y0, x1, y1 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": sample.image_id,
                    "category_id": categories.ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    return {
        "images": [{"id": s.image_id, "file_name": str(s.file), "width": s.width, "height": s.height} for s in samples],
        "categories": [
            {"id": number, "name": name} for number, name in zip(categories.ids, categories.names, strict=True)
        ],
        "annotations": annotations,
    }


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


def some(items: Sequence[object]) -> str:
    """The first few of a list, for a message."""
    shown = ", ".join(str(item) for item in items[:_LISTED])
    return shown if len(items) <= _LISTED else f"{shown}, … {len(items) - _LISTED} more"

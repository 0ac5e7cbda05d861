"""The linter of datasets: reads every label and decodes every image, and tells what training would trip over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edgedet import ImageError, InvalidInputError
from edgedet.coco_eval import load_annotations
from edgedet.images import ImageHeader, read_header
from training.boxes import elementwise_iou
from training.data.dataset import CocoDataset, Finding, Sample, some
from training.data.duplicates import Fingerprint, alike_images, equal_images, fingerprint
from training.data.formats import find_splits, read_split
from training.data.store import decode
from training.data.yolo import is_image, label_file

#: What the kinds of findings mean, in the order of a report.
KINDS: Final = {
    "unreadable": "splits that cannot be read",
    "missing-image": "images that are listed and do not exist",
    "broken-image": "images that cannot be decoded",
    "image-size": "images of another size than the annotations state",
    "image-entry": "image entries that are not usable",
    "box-entry": "annotations that are not usable",
    "label-file": "label files that cannot be read",
    "label-row": "label rows that are not usable",
    "no-boxes": "splits without a usable box",
    "evaluation": "annotations that evaluation refuses",
    "leak": "pictures that are in more than one split",
    "duplicate": "pictures that are in one split more than once",
    "box-dropped": "boxes of no area, dropped",
    "box-clipped": "boxes partly outside their image, clipped",
    "box-duplicate": "boxes that lie on another one of the same class",
    "box-tiny": "splits with boxes too small for the network",
    "class-absent": "classes without boxes",
    "class-rare": "classes with few boxes in training",
    "image-odd": "images of an odd size or shape",
    "unlisted-image": "images beside the others that no split lists",
    "unused-labels": "label files without an image",
    "category-gaps": "class ids that are not 0, 1, 2, …",
    "rotated": "images that EXIF data rotates; labels must fit them as shown",
    "not-rgb": "images that are not RGB and become it",
}

_EXAMPLES = 20  # messages kept of each kind
_SAME_BOX = 0.95  # IoU of two boxes of one class that are one box drawn twice
_FEW_BOXES = 20
_SMALLEST_SIDE, _LONGEST_SHAPE = 32, 10.0  # pixels; longer side / shorter side
_STRIDE = 8  # network pixels: the finest grid that the detectors of the family look at
# COCO's limits of small and medium boxes: areas of 32 x 32 and 96 x 96 image pixels.
_SMALL, _MEDIUM = 32**2, 96**2


@dataclass(frozen=True)
class FindingGroup:
    """All findings of one kind. level: see `Finding`. examples: the first messages."""

    level: str
    kind: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """How a quantity is spread."""

    least: float
    median: float
    mean: float
    most: float


@dataclass(frozen=True)
class SplitSummary:
    """Figures of one split. Counts, unless said otherwise.

    boxes_per_class: by class name, classes without boxes included. width, height: of the images in pixels, as shown.
    formats, modes: of the image files, in Pillow's words. small, medium, large: boxes by COCO's areas in image pixels.
    below_pixel, below_stride: boxes whose shorter side is below one pixel, and whose sides are both below 8 pixels, of
    the network's input.
    """

    images: int
    without_boxes: int
    boxes: int
    crowd: int
    boxes_per_class: dict[str, int]
    boxes_per_image: Spread
    width: Spread
    height: Spread
    formats: dict[str, int]
    modes: dict[str, int]
    small: int
    medium: int
    large: int
    below_pixel: int
    below_stride: int


@dataclass(frozen=True)
class CheckReport:
    """What the linter found. size: side of the network input in pixels, for which small boxes were counted."""

    path: Path
    size: int
    splits: dict[str, SplitSummary]
    findings: tuple[FindingGroup, ...]

    def count(self, level: str) -> int:
        """Number of findings of a level."""
        return sum(group.count for group in self.findings if group.level == level)

    def to_json(self) -> dict[str, Any]:
        """The report in json's types."""
        return {
            **asdict(self),
            "path": str(self.path),
            "errors": self.count("error"),
            "warnings": self.count("warning"),
        }


@dataclass(frozen=True)
class _Look:
    """What decoding an image told."""

    header: ImageHeader
    fingerprint: Fingerprint


class _Findings:
    """Counts findings by kind and keeps the first of each."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], list[str]] = {}

    def add(self, finding: Finding) -> None:
        key = (finding.level, finding.kind)
        self._counts[key] += 1
        examples = self._examples.setdefault(key, [])
        if len(examples) < _EXAMPLES:
            examples.append(finding.message)

    def groups(self) -> tuple[FindingGroup, ...]:
        """Errors first, then warnings and notes."""
        levels, kinds = ("error", "warning", "note"), list(KINDS)
        keys = sorted(self._counts, key=lambda key: (levels.index(key[0]), kinds.index(key[1])))
        return tuple(FindingGroup(*key, self._counts[key], tuple(self._examples[key])) for key in keys)


def check_dataset(
    path: Path, *, size: int = 640, on_image: Callable[[int, int], None] | None = None
) -> tuple[CheckReport, dict[str, CocoDataset]]:
    """Checks a dataset folder, data.yaml or COCO json.

    size: side of the network input in pixels, to which images are stretched; for what is said about small boxes.
    on_image: called after each decoded image with the number done and the number of all.
    Returns the report, and the splits as they were read, without what cannot be used.
    Raises InvalidInputError for what is no dataset at all.
    """
    findings = _Findings()
    datasets = _read(path, findings)
    samples = [sample for dataset in datasets.values() for sample in dataset.samples]
    looks = dict(zip((sample.file for sample in samples), _decoded(samples, findings, on_image), strict=True))
    _check_duplicates(datasets, looks, findings)
    _check_classes(datasets, findings)
    _check_files(samples, findings)
    summaries = {}
    for name, dataset in datasets.items():
        _check_boxes(dataset, findings)
        summary = _summary(dataset, looks, size)
        if summary.below_pixel:
            text = (
                f"{name}: {summary.below_pixel} boxes have a side below one pixel at {size}x{size}; use a larger --size"
            )
            findings.add(Finding("warning", "box-tiny", text))
        summaries[name] = summary
    return CheckReport(path, size, summaries, findings.groups()), datasets


def _read(path: Path, findings: _Findings) -> dict[str, CocoDataset]:
    datasets: dict[str, CocoDataset] = {}
    for name, split in find_splits(path).items():
        categories = datasets["train"].categories if "train" in datasets else None
        try:
            datasets[name] = read_split(split, categories=categories, on_finding=findings.add)
        except InvalidInputError as error:
            findings.add(Finding("error", "unreadable", f"{name}: {error}"))
            continue
        if name != "train" and datasets[name].report.boxes:
            try:
                load_annotations(datasets[name].annotations)
            except InvalidInputError as error:
                findings.add(Finding("error", "evaluation", str(error)))
    return datasets


def _decoded(
    samples: Sequence[Sample], findings: _Findings, on_image: Callable[[int, int], None] | None
) -> Iterator[_Look | None]:
    """Decodes the images in threads; None for each that cannot be used."""

    def look(sample: Sample) -> _Look | Finding:
        try:
            header = read_header(sample.file)
            return _Look(header, fingerprint(decode(sample)))
        except ImageError as error:
            return Finding("error", "broken-image", str(error))
        except InvalidInputError as error:
            return Finding("error", "image-size", str(error))

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="edgedet-check") as pool:
        try:
            for done, (sample, result) in enumerate(zip(samples, pool.map(look, samples), strict=True), start=1):
                if isinstance(result, Finding):
                    findings.add(result)
                    yield None
                else:
                    _check_header(sample.file, result.header, findings)
                    yield result
                if on_image is not None:
                    on_image(done, len(samples))
        finally:
            pool.shutdown(cancel_futures=True)


def _check_header(file: Path, header: ImageHeader, findings: _Findings) -> None:
    if header.orientation != 1:
        findings.add(Finding("note", "rotated", f"{file}: orientation {header.orientation}"))
    if header.mode != "RGB":
        findings.add(Finding("note", "not-rgb", f"{file}: {header.format} of mode {header.mode}"))
    shorter, longer = sorted((header.width, header.height))
    if shorter < _SMALLEST_SIDE or longer > _LONGEST_SHAPE * shorter:
        findings.add(Finding("warning", "image-odd", f"{file}: {header.width}x{header.height} pixels"))


def _check_duplicates(
    datasets: Mapping[str, CocoDataset], looks: Mapping[Path, _Look | None], findings: _Findings
) -> None:
    places: list[tuple[str, Path]] = []
    prints: list[Fingerprint] = []
    for name, dataset in datasets.items():
        for sample in dataset.samples:
            look = looks[sample.file]
            if look is not None:
                places.append((name, sample.file))
                prints.append(look.fingerprint)
    for groups, verb in ((equal_images(prints), "have the same pixels"), (alike_images(prints), "look the same")):
        for group in groups:
            leak = len({places[index][0] for index in group}) > 1
            text = f"{some([f'{places[index][0]}: {places[index][1].name}' for index in group])} {verb}"
            remedy = "; keep them in one split" if leak else ""
            kind = "leak" if leak else "duplicate"
            findings.add(Finding("error" if leak else "warning", kind, text + remedy))


def _check_classes(datasets: Mapping[str, CocoDataset], findings: _Findings) -> None:
    counts = {name: _boxes_per_class(dataset) for name, dataset in datasets.items()}
    train = counts.get("train") or counts.get("all", {})
    for name, of_split in counts.items():
        for label, count in of_split.items():
            if count == 0 and (of_split is train or train.get(label)):
                findings.add(Finding("warning", "class-absent", f"{name}: class {label} has no boxes"))
    for label, count in train.items():
        if 0 < count < _FEW_BOXES:
            text = f"class {label} has {count} boxes to learn from; expected {_FEW_BOXES} or more"
            findings.add(Finding("warning", "class-rare", text))


def _check_files(samples: Sequence[Sample], findings: _Findings) -> None:
    """What lies on the disk beside the images and labels that are used."""
    listed = {sample.file for sample in samples}
    for folder in sorted({file.parent for file in listed}):
        for file in sorted(folder.iterdir()):
            if is_image(file) and file not in listed:
                findings.add(Finding("warning", "unlisted-image", str(file)))
    labels = {label_file(file) for file in listed}
    for folder in sorted({file.parent for file in labels if "labels" in file.parts and file.parent.is_dir()}):
        for file in sorted(folder.glob("*.txt")):
            if file not in labels and file.name != "classes.txt":
                findings.add(Finding("warning", "unused-labels", str(file)))


def _check_boxes(dataset: CocoDataset, findings: _Findings) -> None:
    for sample in dataset.samples:
        twice = _boxes_drawn_twice(sample.boxes, sample.labels)
        if twice:
            text = f"{sample.file}: {twice} boxes lie on another one of the same class (IoU above {_SAME_BOX})"
            findings.add(Finding("warning", "box-duplicate", text))


def _boxes_drawn_twice(boxes: NDArray[np.float32], labels: NDArray[np.int64]) -> int:
    """How many boxes have an earlier one of their class on which they lie."""
    if len(labels) < 2:
        return 0
    tensor = torch.from_numpy(boxes)
    iou = elementwise_iou(tensor[:, None], tensor[None]).numpy()
    same = np.tril((iou > _SAME_BOX) & (labels[:, None] == labels[None]), k=-1)
    return int(same.any(axis=1).sum())


def _boxes_per_class(dataset: CocoDataset) -> dict[str, int]:
    names = dataset.categories.names
    labels = np.concatenate([sample.labels for sample in dataset.samples] or [np.zeros(0, np.int64)])
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def _summary(dataset: CocoDataset, looks: Mapping[Path, _Look | None], size: int) -> SplitSummary:
    samples = dataset.samples
    headers = [look.header for sample in samples if (look := looks[sample.file]) is not None]
    relative = np.concatenate([sample.boxes[:, 2:] - sample.boxes[:, :2] for sample in samples] or [np.zeros((0, 2))])
    counts = [len(sample.labels) for sample in samples]
    areas = relative.prod(axis=1) * np.repeat([sample.width * sample.height for sample in samples], counts)
    return SplitSummary(
        images=dataset.report.images,
        without_boxes=dataset.report.without_boxes,
        boxes=dataset.report.boxes,
        crowd=dataset.report.crowd,
        boxes_per_class=_boxes_per_class(dataset),
        boxes_per_image=_spread(counts),
        width=_spread([sample.width for sample in samples]),
        height=_spread([sample.height for sample in samples]),
        formats=dict(Counter(header.format for header in headers).most_common()),
        modes=dict(Counter(header.mode for header in headers).most_common()),
        small=int((areas < _SMALL).sum()),
        medium=int(((areas >= _SMALL) & (areas < _MEDIUM)).sum()),
        large=int((areas >= _MEDIUM).sum()),
        below_pixel=int((relative.min(axis=1, initial=1) * size < 1).sum()),
        below_stride=int((relative.max(axis=1, initial=0) * size < _STRIDE).sum()),
    )


def _spread(values: Sequence[int]) -> Spread:
    array = np.asarray(values or [0])
    return Spread(float(array.min()), float(np.median(array)), float(array.mean()), float(array.max()))

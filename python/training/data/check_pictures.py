"""The linter's pictures: samples with their boxes, balance of the classes, sizes of the boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgedet import Detections, Error, read_image
from edgedet.draw import class_colour, draw_detections
from training.data.check import CheckReport
from training.data.dataset import CocoDataset, Sample

_COLUMNS, _ROWS = 4, 4  # of a sheet
_WIDTH, _HEIGHT = 360, 288  # of a cell in pixels
_CLASSES = 40  # bars of the class plot


def draw_pictures(folder: Path, report: CheckReport, datasets: Mapping[str, CocoDataset]) -> list[Path]:
    """Writes samples_SPLIT.png, class_balance.png and box_sizes.png; returns what was written. Needs matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"samples_{name}.png" for name, dataset in datasets.items() if dataset.samples]
    for file, dataset in zip(written, (each for each in datasets.values() if each.samples), strict=True):
        _draw_samples(file, dataset)
    balance, sizes = folder / "class_balance.png", folder / "box_sizes.png"
    _draw_balance(balance, report)
    _draw_sizes(sizes, report, datasets)
    return [*written, balance, sizes]


def choose_samples(dataset: CocoDataset, count: int) -> list[Sample]:
    """Samples in which every class shows if that is possible, the rarest first; filled up from the beginning."""
    frequency = Counter(label for sample in dataset.samples for label in sample.labels.tolist())
    chosen: dict[int, Sample] = {}
    shown: set[int] = set()
    for label, _ in sorted(frequency.items(), key=lambda item: (item[1], item[0])):
        if label not in shown and len(chosen) < count:
            sample = next(each for each in dataset.samples if label in each.labels)
            chosen[sample.image_id] = sample
            shown.update(sample.labels.tolist())
    for sample in dataset.samples:
        if len(chosen) == count:
            break
        chosen.setdefault(sample.image_id, sample)
    return list(chosen.values())


def _draw_samples(file: Path, dataset: CocoDataset) -> None:
    from PIL import Image

    samples = choose_samples(dataset, _COLUMNS * _ROWS)
    columns = min(_COLUMNS, len(samples))
    sheet = Image.new("RGB", (columns * _WIDTH, -(-len(samples) // columns) * _HEIGHT), (32, 32, 32))
    for index, sample in enumerate(samples):
        try:
            picture = Image.fromarray(read_image(sample.file))
        except Error:  # the report says why; its cell stays dark
            continue
        picture.thumbnail((_WIDTH - 4, _HEIGHT - 4))
        names = [dataset.categories.names[label] for label in sample.labels.tolist()]
        boxes = sample.boxes * np.asarray([picture.width, picture.height] * 2, np.float32)
        truth = Detections(boxes, np.ones(len(names), np.float32), sample.labels.astype(np.int32), names)
        drawn = draw_detections(np.asarray(picture), truth, scores=False)
        sheet.paste(drawn, (index % columns * _WIDTH + 2, index // columns * _HEIGHT + 2))
    sheet.save(file)


def _draw_balance(file: Path, report: CheckReport) -> None:
    from matplotlib.figure import Figure

    total: Counter[str] = Counter()
    for summary in report.splits.values():
        total.update(summary.boxes_per_class)
    names = [name for name, _ in total.most_common(_CLASSES)]
    figure = Figure(figsize=(8, 1.4 + 0.24 * len(names)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(names))
    for index, (split, summary) in enumerate(report.splits.items()):
        counts = np.asarray([summary.boxes_per_class.get(name, 0) for name in names])
        axes.barh(range(len(names)), counts, left=left, label=split, color=_colour(index))
        left += counts
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("boxes")
    axes.set_title("class balance" + (f" ({_CLASSES} of {len(total)} classes)" if len(total) > _CLASSES else ""))
    axes.legend()
    figure.savefig(file, dpi=110)


def _draw_sizes(file: Path, report: CheckReport, datasets: Mapping[str, CocoDataset]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    scatter, histogram = figure.subplots(1, 2)
    for index, (split, dataset) in enumerate(datasets.items()):
        sides = np.concatenate(
            [each.boxes[:, 2:] - each.boxes[:, :2] for each in dataset.samples] or [np.zeros((0, 2))]
        )
        sides = sides * report.size
        scatter.plot(sides[:, 0], sides[:, 1], ".", markersize=2, alpha=0.3, label=split, color=_colour(index))
        edges = np.geomspace(0.5, report.size, 40)
        histogram.hist(
            np.sqrt(sides.prod(axis=1)).clip(0.5),
            bins=edges,
            weights=np.full(len(sides), 1 / max(len(sides), 1)),
            histtype="step",
            label=split,
            color=_colour(index),
        )
    scatter.set_xlabel(f"width, pixels of {report.size}")
    scatter.set_ylabel(f"height, pixels of {report.size}")
    scatter.set_xlim(0, report.size)
    scatter.set_ylim(0, report.size)
    histogram.set_xscale("log")
    histogram.set_xlabel(f"side (√area), pixels of {report.size}")
    histogram.set_ylabel("share of boxes")
    for limit, name in ((1, "pixel"), (8, "stride 8")):
        histogram.axvline(limit, color="grey", linewidth=0.8)
        histogram.annotate(
            name, (limit, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", ha="right", fontsize=7
        )
    histogram.legend(loc="upper right")
    figure.savefig(file, dpi=110)


def _colour(index: int) -> tuple[float, float, float]:
    red, green, blue = class_colour(index)
    return red / 255, green / 255, blue / 255

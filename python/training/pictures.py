"""What a person looks at first: the first batch with its boxes, and the curves of the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedet import Detections
from edgedet.bundle import InputSpec
from edgedet.draw import draw_detections
from training.data.batches import Batch
from training.reporting import read_metrics

_COLUMNS, _ROWS = 4, 2


def draw_batch(file: Path, batch: Batch, *, spec: InputSpec, names: tuple[str, ...]) -> None:
    """Writes the first images of a batch, as the network sees them, with their boxes; spec: how they are normalised."""
    from PIL import Image

    mean, std = (np.asarray(value, np.float32)[:, None, None] for value in (spec.mean, spec.std))
    count = min(_COLUMNS * _ROWS, len(batch.targets))
    columns = min(_COLUMNS, count)
    height, width = batch.images.shape[2:]  # of this step, where training has several sizes
    sheet = Image.new("RGB", (columns * width, -(-count // columns) * height))
    for index in range(count):
        pixels = batch.images[index].numpy() * std + mean
        image = np.ascontiguousarray((pixels.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))
        boxes, labels = batch.targets[index]["boxes"].numpy(), batch.targets[index]["labels"].numpy()
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        truth = Detections(
            (corners * np.asarray([width, height] * 2)).astype(np.float32),
            np.ones(len(labels), np.float32),
            labels.astype(np.int32),
            [names[label] for label in labels.tolist()],
        )
        place = (index % columns * width, index // columns * height)
        sheet.paste(draw_detections(image, truth, scores=False), place)
    sheet.save(file)


def draw_curve(metrics: Path, file: Path) -> bool:
    """Draws loss, AP and learning rate of a metrics file; returns False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    records = read_metrics(metrics)
    steps = [record for record in records if record["kind"] == "step"]
    validations = [record for record in records if record["kind"] == "validation"]
    figure = Figure(figsize=(9, 6), layout="constrained")
    loss, average_precision, rate = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 1))
    loss.plot([record["step"] for record in steps], [record["loss"] for record in steps], linewidth=0.8)
    loss.set_ylabel("loss")
    for name in ("AP", "AP50"):
        average_precision.plot(
            [record["step"] for record in validations], [record[name] for record in validations], marker=".", label=name
        )
    average_precision.set_ylabel("validation")
    if validations:
        average_precision.legend()
    rate.plot([record["step"] for record in steps], [record["lr"] for record in steps], linewidth=0.8)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    figure.savefig(file, dpi=110)
    return True

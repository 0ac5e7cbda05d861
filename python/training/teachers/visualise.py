"""Pictures: what a student and its teachers see in the same image, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedet import Detections, InvalidInputError, decode_logits, preprocess, read_image
from edgedet.draw import draw_detections
from training.models.outputs import Prediction, TeacherOutput
from training.publish import load_checkpoint
from training.teachers.detector import DetectorTeacher
from training.teachers.source import open_teacher, parse_sources
from training.teachers.teacher import Teacher

_QUERIES = 3  # whose attention is drawn
_CELL = 3.2  # inches

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class _Panel:
    """A picture of a row. values: (h, w) to be coloured, or (h, w, 3) in [0, 1]; over: whether on top of the image."""

    title: str
    values: NDArray[Any]
    over: bool = False


def draw_comparison(
    weights: Path, images: Sequence[Path], teachers: Sequence[str], *, out: Path, threshold: float
) -> list[Path]:
    """Writes a picture per image: a row for the student and one for each teacher. Returns the files.

    A row has the detections above the threshold, the strength of each encoder map (the norm over its channels), a
    foundation model's patches as their three principal components, and attention maps of the best queries where there
    are any. weights: of the student. teachers: as in the configuration of a run.

    Raises InvalidInputError for images that are none, and as `load_checkpoint` and `open_teacher` do.
    """
    from matplotlib.figure import Figure

    loaded = load_checkpoint(weights)
    spec, names = loaded.spec, loaded.categories.names
    student = DetectorTeacher(loaded.model, spec, tuple(range(len(names))), size=None, description=loaded.name)
    seers: dict[str, Teacher] = {"student": student}
    for source in parse_sources(teachers):
        if source.name == "student":
            raise InvalidInputError("visualise: expected another name for a teacher than student; write NAME=PATH")
        seers[source.name] = open_teacher(source, names)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for number, file in enumerate(images):
        image = read_image(file)
        tensor = torch.from_numpy(preprocess(image, width=spec.width, height=spec.height, filter=spec.filter))[None]
        rows = {name: _panels(seer(tensor), image, names, threshold) for name, seer in seers.items()}
        columns = max(map(len, rows.values()))
        height = image.shape[0] / image.shape[1] * _CELL
        figure = Figure(figsize=(_CELL * columns, (height + 0.35) * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for line, (name, panels) in zip(grid, rows.items(), strict=True):
            for axes, panel in zip(line, [*panels, *[None] * (columns - len(panels))], strict=True):
                axes.axis("off")
                if panel is not None:
                    _draw(axes, panel, image, f"{name}: {panel.title}")
        target = out / f"{number:03d}-{file.stem}.png"
        figure.savefig(target, dpi=110)
        files.append(target)
    return files


def _draw(axes: Any, panel: _Panel, image: Pixels, title: str) -> None:
    height, width = image.shape[:2]
    axes.set_title(title, fontsize=8)
    if panel.over:
        axes.imshow(image.mean(2), extent=(0, width, height, 0), cmap="gray", vmin=0, vmax=255)
    axes.imshow(
        panel.values,
        extent=(0, width, height, 0),
        cmap="viridis",
        alpha=0.65 if panel.over else 1.0,
        interpolation="nearest",
    )


def _panels(output: TeacherOutput, image: Pixels, names: Sequence[str], threshold: float) -> list[_Panel]:
    panels = []
    if output.prediction is not None:
        found = _detections(output.prediction, image, names, threshold)
        panels.append(_Panel(f"{len(found)} detections", np.asarray(draw_detections(image, found)) / 255))
    for level, values in enumerate(output.features):
        strength = values[0].float().norm(dim=0)
        panels.append(_Panel(f"map {level}, {strength.shape[1]}x{strength.shape[0]}", strength.numpy(), over=True))
    if output.patches is not None:
        panels.append(_Panel("patches, three components", principal_components(output.patches[0])))
    if output.attention and output.prediction is not None:
        best = output.prediction.logits[0].amax(-1).topk(_QUERIES).indices
        sizes = [(int(each.shape[-2]), int(each.shape[-1])) for each in output.features]
        for query in best.tolist():
            weights = output.attention[-1][0].mean(0)[query]
            start = 0
            for level, (height, width) in enumerate(sizes):
                part = weights[start : start + height * width].reshape(height, width)
                start += height * width
                panels.append(_Panel(f"attention of query {query}, map {level}", part.numpy(), over=True))
    return panels


def _detections(prediction: Prediction, image: Pixels, names: Sequence[str], threshold: float) -> Detections:
    height, width = image.shape[:2]
    boxes, scores, labels = decode_logits(
        prediction.logits[0].float().numpy(),
        prediction.boxes[0].float().numpy(),
        width=width,
        height=height,
        image_width=width,
        image_height=height,
        score_threshold=threshold,
    )
    return Detections(boxes, scores, labels, [names[label] for label in labels.tolist()])


def principal_components(patches: Tensor) -> NDArray[np.float32]:
    """(D, h, w) to (h, w, 3) in [0, 1]: the first three principal components over the places, each stretched."""
    _, height, width = patches.shape
    tokens = patches.flatten(1).T.double()
    tokens = tokens - tokens.mean(0)
    _, _, axes = torch.linalg.svd(tokens, full_matrices=False)
    axes = axes[:3] * axes[:3].gather(1, axes[:3].abs().argmax(1, keepdim=True)).sign()  # the sign is arbitrary
    shown = tokens @ axes.T
    low, high = shown.amin(0), shown.amax(0)
    scaled = (shown - low) / (high - low).clamp(min=1e-12)
    values: NDArray[np.float32] = torch.nn.functional.pad(scaled, (0, 3 - scaled.shape[1])).float().numpy()
    return values.reshape(height, width, 3)

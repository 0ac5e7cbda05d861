"""New classes that start from known ones: the heads of a pretrained detector, rearranged.

A class by the same name keeps its heads. Any other takes those of the known class that the pretrained detector already
sees in its objects: queries are chosen by score, and everything behind expects them to lie on objects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from edgedet.bundle import InputSpec
from training.boxes import box_cxcywh_to_xyxy, elementwise_iou
from training.data.batches import validation_batches
from training.data.dataset import CocoDataset, Sample
from training.models.detector import Detector

_IMAGES = 64  # images looked at
_BATCH = 8
_OVERLAP = 0.5  # IoU from which on a query counts as lying on an object


@dataclass(frozen=True)
class ClassSource:
    """Where a class starts from.

    name: of the new class. source: label of the known class, None for the mean of all. known: its name. score: the
    pretrained detector's mean score for it on objects of the new class, in [0, 1]; 1 where the names agree.
    """

    name: str
    source: int | None
    known: str
    score: float

    def __str__(self) -> str:
        """Such as "cell from donut (0.31)"."""
        return f"{self.name} from {self.known}" + ("" if self.source is None else f" ({self.score:.2f})")


def choose_sources(
    known: Detector, names: Sequence[str] | None, dataset: CocoDataset, spec: InputSpec
) -> tuple[ClassSource, ...]:
    """Chooses for every class of a dataset the known class to start from. The same input gives the same choice.

    known: the pretrained detector in eval mode, with its own classes. names: theirs, by label, or None. No two classes
    that are chosen by score get the same source, unless there are more of them than known classes.
    """
    labels = list(names) if names is not None else [f"class {i}" for i in range(known.config.decoder.num_classes)]
    new = dataset.categories.names
    matched: dict[int, int] = {}
    for index, name in enumerate(new):
        same = [label for label, other in enumerate(labels) if _agree(name, other)]
        if same:
            matched[index] = same[0]
    open_ = [index for index in range(len(new)) if index not in matched]
    scores = _scores(known, dataset, spec)[open_] if open_ else torch.zeros(0, len(labels))
    scores[:, sorted(set(matched.values()))] = 0
    chosen = dict(zip(open_, _distinct(scores), strict=True))
    sources = []
    for index, name in enumerate(new):
        if index in matched:
            sources.append(ClassSource(name, matched[index], labels[matched[index]], 1.0))
        else:
            label = chosen[index]
            score = 0.0 if label is None else float(scores[open_.index(index), label])
            sources.append(ClassSource(name, label, "the mean class" if label is None else labels[label], score))
    return tuple(sources)


def copy_classes(tensors: Mapping[str, Tensor], stored: Mapping[str, Tensor], sources: Sequence[ClassSource]) -> None:
    """Fills score heads and class embeddings, of which the first axis counts classes.

    tensors: of the model. stored: of the file, by the same names. sources: by label; empty for the mean everywhere.
    Embeddings of classes without a source, and the one for "no object", stay as they are.
    """
    with torch.no_grad():
        for name, target in tensors.items():
            value = stored[name].to(target.device)
            embedding = "embed" in name
            if not embedding:
                target.copy_(value.mean(dim=0).expand_as(target))
            for label, source in enumerate(sources):
                if source.source is not None:
                    target[label] = value[source.source]


def _scores(known: Detector, dataset: CocoDataset, spec: InputSpec) -> Tensor:
    """(new classes, known classes): the mean over a class's objects of the best score among the queries on them."""
    classes = len(dataset.categories.names)
    total = torch.zeros(classes, known.config.decoder.num_classes)
    count = torch.zeros(classes, 1)
    for images, samples in validation_batches(_some_images(dataset), spec=spec, batch=_BATCH):
        with torch.inference_mode():
            final = known(images).final
        for sample, logits, boxes in zip(samples, final.logits, final.boxes, strict=True):
            objects, labels = torch.from_numpy(sample.boxes), torch.from_numpy(sample.labels)
            on = elementwise_iou(objects[:, None], box_cxcywh_to_xyxy(boxes)) >= _OVERLAP  # (objects, queries)
            best = (logits.sigmoid() * on.unsqueeze(-1)).amax(dim=1)
            total.index_add_(0, labels, best)
            count.index_add_(0, labels, torch.ones(len(labels), 1))
    return total / count.clamp(min=1)


def _some_images(dataset: CocoDataset) -> tuple[Sample, ...]:
    """Up to `_IMAGES` images in which every class appears if it can: class by class, the rarest first."""
    images = [set(sample.labels.tolist()) for sample in dataset.samples]
    classes = range(len(dataset.categories.names))
    holders = {label: [index for index, found in enumerate(images) if label in found] for label in classes}
    chosen: dict[int, None] = {}
    share = max(1, _IMAGES // len(holders))
    for label in sorted(classes, key=lambda label: len(holders[label])):
        have = sum(label in images[index] for index in chosen)
        for index in holders[label][: max(0, share - have)]:
            chosen[index] = None
    return tuple(dataset.samples[index] for index in list(chosen)[:_IMAGES])


def _distinct(scores: Tensor) -> list[int | None]:
    """A column for each row: the assignment of the greatest sum; None for rows without any score."""
    values = scores.numpy().astype(np.float64)
    rows, columns = linear_sum_assignment(values, maximize=True)
    taken = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    chosen: list[int | None] = []
    for row in range(len(values)):
        column = taken.get(row, int(values[row].argmax()))
        chosen.append(column if values[row, column] > 0 else None)
    return chosen


def _agree(one: str, other: str) -> bool:
    """Whether two names of classes are the same but for case, separators and the plural."""
    a, b = (re.sub(r"[\s_\-]+", " ", name.strip().casefold()) for name in (one, other))
    return a == b or b in _plurals(a) or a in _plurals(b)


def _plurals(word: str) -> tuple[str, ...]:
    return word + "s", word + "es", re.sub("y$", "ies", word)

"""Before a student follows a teacher: does the teacher see anything at all in the student's images?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgedet import ModelError
from edgedet.bundle import InputSpec
from edgedet.coco_eval import evaluate, load_annotations
from training.data.batches import validation_batches
from training.data.dataset import CocoDataset
from training.evaluate import predict
from training.models.outputs import DetectorOutput
from training.teachers.source import DEFAULT_NAME
from training.teachers.teacher import Teacher

_BATCH = 8
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class _AsDetector(nn.Module):
    """Takes the student's input and gives the teacher's prediction, images changed on the way."""

    def __init__(self, teacher: Teacher, spec: InputSpec, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.teacher, self.change = teacher, change
        self.mean, self.std = (torch.tensor(value).view(3, 1, 1) for value in (spec.mean, spec.std))

    def forward(self, images: Tensor) -> DetectorOutput:
        plain = images * self.std.to(images.device) + self.mean.to(images.device)
        prediction = self.teacher(self.change(plain)).prediction
        assert prediction is not None
        return DetectorOutput(prediction)


def try_teacher(
    name: str,
    teacher: Teacher,
    dataset: CocoDataset,
    *,
    spec: InputSpec,
    images: int,
    least: float,
    device: torch.device,
) -> str:
    """Has a teacher look at the first validation images as it will be shown them; returns a line about it.

    spec: of the student's input. least: AP that a detector must have on them, as `coco_eval` defines it.
    Raises ModelError below that, with the likely cause, and for maps that are not finite or the same everywhere.
    """
    dataset = replace(dataset, samples=dataset.samples[:images])
    if teacher.widths.classes is None:
        return _try_maps(name, teacher, dataset, spec=spec, device=device)
    ap = _ap(teacher, dataset, spec, device)
    line = f"{_called(name)}: {teacher.description}; AP {ap:.3f} on {len(dataset)} validation images"
    if ap >= least:
        return line
    raise ModelError(
        f"{line}, expected {least:g} or more to learn from; {_cause(teacher, dataset, spec, device, least)}, "
        f"or lower --teacher-ap"
    )


def _try_maps(name: str, teacher: Teacher, dataset: CocoDataset, *, spec: InputSpec, device: torch.device) -> str:
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (spec.mean, spec.std))
    images, _ = next(validation_batches(dataset.samples[:_BATCH], spec=spec, batch=_BATCH))
    output = teacher(images.to(device) * std + mean)
    patches = output.features[-1] if output.patches is None else output.patches
    if not patches.isfinite().all():
        raise ModelError(f"{_called(name)}: expected finite maps, got NaN or infinity; use --precision fp32")
    flat = nn.functional.normalize(patches.float().flatten(2), dim=1)
    if _spread(flat) < 1e-4:
        raise ModelError(
            f"{_called(name)}: expected maps that differ from place to place, got the same everywhere; are its weights "
            f"those of a trained model?"
        )
    return f"{_called(name)}: {teacher.description}; maps of {'x'.join(map(str, patches.shape[1:]))}"


def _called(name: str) -> str:
    return "teacher" if name == DEFAULT_NAME else f"teacher {name}"


def _spread(directions: Tensor) -> float:
    """1 minus the mean cosine of unit vectors (B, D, L) with their mean direction."""
    mean = nn.functional.normalize(directions.mean((0, 2)), dim=0)
    return 1 - float(torch.einsum("bdl,d->bl", directions, mean).mean())


def _ap(
    teacher: Teacher,
    dataset: CocoDataset,
    spec: InputSpec,
    device: torch.device,
    *,
    change: Callable[[Tensor], Tensor] = lambda images: images,
    classless: bool = False,
) -> float:
    """AP on a dataset; classless: as if there were one class."""
    found = []
    for sample, detections in predict(
        _AsDetector(teacher, spec, change),
        dataset.samples,
        spec=spec,
        names=dataset.categories.names,
        batch=_BATCH,
        device=device,
    ):
        found.extend(detections.to_coco(sample.image_id, dataset.categories.ids))
    document = load_annotations(dataset.annotations).document
    if classless:
        first = document["categories"][0]
        one = [{**entry, "category_id": first["id"]} for entry in document["annotations"]]
        document = {**document, "categories": [first], "annotations": one}
        found = [{**entry, "category_id": first["id"]} for entry in found]
    return evaluate(found, document, image_ids=[sample.image_id for sample in dataset.samples])["AP"]


def _cause(teacher: Teacher, dataset: CocoDataset, spec: InputSpec, device: torch.device, least: float) -> str:
    """What is likely wrong with a teacher that finds little, by trying what would mend it."""
    if (ap := _ap(teacher, dataset, spec, device, classless=True)) >= least:
        return (
            f"without regard to classes it has {ap:.3f}: its classes seem to be in another order; correct their names"
        )
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in _IMAGENET)
    trials: dict[str, Callable[[Tensor], Tensor]] = {
        "with red and blue exchanged": lambda images: images.flip(1),
        "with pixels from 0 to 255": lambda images: images * 255,
        "with the mean and deviation of ImageNet": lambda images: (images - mean) / std,
    }
    for what, change in trials.items():
        if (ap := _ap(teacher, dataset, spec, device, change=change)) >= least:
            return f"{what} it has {ap:.3f}: correct how its input is described"
    return (
        "it finds little whatever the colours and classes: were its weights trained on such images, "
        "and does its input size fit (NAME=PATH@SIZE)? Train a better teacher"
    )

"""Validation: the runtime's preprocessing and decoding around a torch model, and edgedet's definition of AP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import nn

from edgedet import Detections, decode_logits
from edgedet.bundle import InputSpec
from edgedet.coco_eval import evaluate, load_annotations
from training.data.batches import validation_batches
from training.data.dataset import CocoDataset, Sample
from training.distributed import Processes
from training.loop import Precision, autocast


@torch.inference_mode()
def predict(
    model: nn.Module,
    samples: tuple[Sample, ...],
    *,
    spec: InputSpec,
    names: tuple[str, ...],
    batch: int,
    device: torch.device,
    precision: Precision = "fp32",
) -> Iterator[tuple[Sample, Detections]]:
    """Detections of each sample's image, in order, at most 300 each. The model must be in eval mode."""
    for images, chunk in validation_batches(samples, spec=spec, batch=batch):
        with autocast(device, precision):
            final = model(images.to(device)).final
        logits, boxes = final.logits.float().cpu().numpy(), final.boxes.float().cpu().numpy()
        for index, sample in enumerate(chunk):
            found, scores, labels = decode_logits(
                logits[index],
                boxes[index],
                width=spec.width,
                height=spec.height,
                image_width=sample.width,
                image_height=sample.height,
                resize=spec.resize,
                top_k=300,
            )
            yield sample, Detections(found, scores, labels, [names[label] for label in labels.tolist()])


def evaluate_model(
    model: nn.Module,
    dataset: CocoDataset,
    *,
    spec: InputSpec,
    batch: int,
    device: torch.device,
    precision: Precision = "fp32",
    processes: Processes | None = None,
    on_image: Callable[[], None] | None = None,
) -> dict[str, float]:
    """AP, AP50, AP75, AP_small, AP_medium and AP_large of a model on a dataset, in [0, 1] (-1: no such objects).

    processes: those that share the images; all get the figures. on_image: called after each image of this process.
    Raises ModelError if the model's output holds NaN.
    """
    processes = processes or Processes()
    results = []
    for sample, detections in predict(
        model,
        tuple(processes.share(dataset.samples)),
        spec=spec,
        names=dataset.categories.names,
        batch=batch,
        device=device,
        precision=precision,
    ):
        results.extend(detections.to_coco(sample.image_id, dataset.categories.ids))
        if on_image is not None:
            on_image()
    parts = processes.gathered(results)
    metrics = None
    if processes.first:
        metrics = evaluate([entry for part in parts for entry in part], load_annotations(dataset.annotations))
    return cast(dict[str, float], processes.from_first(metrics))

"""The worst step a run can meet, done first: memory runs out in the first minute or not at all."""

from __future__ import annotations

from dataclasses import replace

import torch

from training.data.batches import Batch
from training.distributed import Processes
from training.loop import Learner, accumulate


def rehearse(learner: Learner, *, images: int, side: int, objects: int) -> None:
    """Does a step with as many images, pixels and objects as there can be, and leaves no trace of it but one.

    The trace is `learner.micro_batch`, which is what memory allows afterwards. Processes rehearse each for itself,
    before they are connected, because one that runs out of memory would leave the others waiting.

    images: of this process. side: of the square input. objects: in the fullest image.
    Raises ModelError if there is no memory for one image.
    """
    allocate_moments(learner.optimizer)
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(objects, 4, generator=generator) * 0.25 + 0.25  # in the image, each a quarter to half of it
    target = {"labels": torch.zeros(objects, dtype=torch.int64), "boxes": boxes}
    batch = Batch(
        images=torch.rand(images, 3, side, side, generator=generator),
        targets=[target] * images,
        seeds=tuple(range(images)),
    )
    alone = replace(learner, processes=Processes())
    try:
        accumulate(alone, batch.to(learner.device), epoch=0, step=0)
    finally:
        alone.statistics.restore()
        alone.optimizer.zero_grad(set_to_none=True)
    learner.micro_batch = alone.micro_batch


def allocate_moments(optimizer: torch.optim.Optimizer) -> None:
    """Gives AdamW's fused form the zeros that it would make in its first step, so that they are counted."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }

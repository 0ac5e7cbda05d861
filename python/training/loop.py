"""One epoch of training: forward, criterion, backward, clip, step, average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from edgedet import ModelError
from training.data.batches import Batch
from training.ema import Ema
from training.optim import set_learning_rate
from training.schedule import Schedule

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class StepResult:
    """What one step did. loss: the sum of the weighted terms; gradient_norm: before clipping."""

    step: int
    loss: float
    terms: dict[str, float]
    gradient_norm: float
    factor: float


@dataclass(frozen=True)
class Learner:
    """All that changes while training, in one hand. scaler is needed with fp16 only."""

    model: nn.Module
    criterion: Callable[..., dict[str, Tensor]]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ema: Ema
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: Precision
    clip: float
    seed: int


def train_steps(
    learner: Learner, batches: Iterable[Batch], *, epoch: int, first_step: int, on_step: Callable[[StepResult], bool]
) -> int:
    """Trains on batches, numbering the steps from `first_step`; returns the number of the step that would come next.

    epoch: told to the criterion, whose matching may change late in a run.
    on_step: called after each step; training ends early when it returns False.
    Raises ModelError if the loss is not finite; the weights are then those of the step before.
    """
    step = first_step
    for batch in batches:
        result = train_step(learner, batch.to(learner.device), epoch=epoch, step=step)
        step += 1
        if not on_step(result):
            break
    return step


def train_step(learner: Learner, batch: Batch, *, epoch: int, step: int) -> StepResult:
    """One update. Random numbers of a step come from (seed, step), so that a resumed run repeats them."""
    torch.manual_seed(learner.seed * 1_000_003 + step)
    factor = learner.schedule.factor(step)
    set_learning_rate(learner.optimizer, factor)
    with autocast(learner.device, learner.precision):
        output = learner.model(batch.images, batch.targets)
    terms = learner.criterion(output, batch.targets, epoch=epoch)
    loss = torch.stack(list(terms.values())).sum()
    values = dict(zip(terms, torch.stack([term.detach() for term in terms.values()]).tolist(), strict=True))
    total = math.fsum(values.values())
    if not math.isfinite(total):
        bad = ", ".join(f"{name}={value}" for name, value in values.items() if not math.isfinite(value))
        raise ModelError(
            f"step {step}: expected a finite loss, got {bad}; lower --lr, warm up longer, "
            f"or train in fp32 (--precision fp32)"
        )
    learner.optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(loss).backward()
    learner.scaler.unscale_(learner.optimizer)
    parameters = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(parameters, learner.clip if learner.clip > 0 else math.inf))
    if math.isfinite(norm) or learner.scaler.is_enabled():
        # A scaler skips overflown steps itself and lowers its scale.
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
    learner.ema.update(learner.model)
    return StepResult(step=step, loss=total, terms=values, gradient_norm=norm, factor=factor)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which a forward pass runs in the given precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)

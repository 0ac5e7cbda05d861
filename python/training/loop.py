"""One step of training: forward, criterion, backward, clip, update, average; in parts where memory asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from edgedet import ModelError
from training.data.batches import Batch
from training.distillation.distiller import Distiller
from training.distributed import Processes
from training.ema import Ema, tensors_of
from training.guard import NormStatistics
from training.memory import OutOfMemoryError, halved, is_out_of_memory
from training.models.denoising import DenoisingDraw
from training.models.outputs import DetectorOutput, Prediction
from training.optim import set_learning_rate
from training.schedule import Schedule
from training.teachers.teachers import Teachers

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    loss: the sum of the weighted terms, of all processes' images. gradient_norm: before clipping. factor: what the
    base learning rates were multiplied by. skipped: why the step changed nothing, or empty. bad: whether that is a
    fault, unlike an overflow in float16, from which the loss scale is found. images: how many, of all processes;
    fullest: objects of the fullest of them.
    """

    step: int
    loss: float
    terms: dict[str, float]
    gradient_norm: float
    factor: float
    images: int
    fullest: int
    skipped: str = ""
    bad: bool = False


@dataclass
class Learner:
    """All that changes while training, in one hand. scaler is needed with fp16 only.

    clip: largest gradient norm, 0 for no limit. micro_batch: images of this process per forward pass, 0 for all; it
    shrinks when memory runs out. rate: what the learning rates are multiplied by besides the schedule's factor.
    distiller, teachers: both, or neither. own, extra: the trained parameters of the model and of the distiller.
    """

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
    processes: Processes = field(default_factory=Processes)
    micro_batch: int = 0
    rate: float = 1.0
    distiller: Distiller | None = None
    teachers: Teachers | None = None

    def __post_init__(self) -> None:
        self.statistics = NormStatistics(self.model)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        extra = set() if self.distiller is None else {id(parameter) for parameter in self.distiller.parameters()}
        self.own = [parameter for parameter in self.parameters if id(parameter) not in extra]
        self.extra = [parameter for parameter in self.parameters if id(parameter) in extra]

    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers that training changes, besides the average: of the model and the distiller."""
        tensors = {f"model.{name}": tensor for name, tensor in tensors_of(self.model).items()}
        if self.distiller is not None:
            tensors |= {f"distiller.{name}": tensor for name, tensor in tensors_of(self.distiller).items()}
        return tensors


def train_steps(
    learner: Learner, batches: Iterable[Batch], *, epoch: int, first_step: int
) -> Iterator[tuple[Batch, StepResult]]:
    """Trains on batches, numbering the steps from `first_step`; yields each batch with what became of it.

    epoch: told to the criterion, whose matching may change late in a run.
    """
    for step, batch in enumerate(batches, first_step):
        batch = batch.to(learner.device)
        yield batch, train_step(learner, batch, epoch=epoch, step=step)


def train_step(learner: Learner, batch: Batch, *, epoch: int, step: int) -> StepResult:
    """One update, or none if its loss or gradient is not finite: then nothing has changed, batch norms included.

    Random numbers of a step come from (seed, step), so that a resumed run repeats them.
    Raises as `accumulate` does.
    """
    set_learning_rate(learner.optimizer, learner.schedule.factor(step) * learner.rate)
    gradients = accumulate(learner, batch, epoch=epoch, step=step)
    return _update(learner, gradients, step=step, images=len(batch.targets) * learner.processes.world)


@dataclass(frozen=True)
class Gradients:
    """What a backward pass tells beside the gradients it leaves. fault: why they are not to be used, or empty.

    fullest: objects of the fullest image of all processes.
    """

    terms: dict[str, float]
    fullest: int
    fault: str = ""


def accumulate(learner: Learner, batch: Batch, *, epoch: int, step: int) -> Gradients:
    """Gradients of a batch's loss, added up over micro-batches, averaged over the processes.

    They are those of the whole batch at once, except that batch norms see a micro-batch at a time. When memory runs
    out, the step begins anew with half as many images at a time.
    Raises ModelError if there is no memory for one image, and OutOfMemoryError, which says how many images may be
    tried, where other processes are in the middle of the same step: they cannot begin anew.
    """
    learner.statistics.keep()
    while True:
        try:
            return _accumulate(learner, batch, epoch=epoch, step=step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, whose traceback keeps the tensors of the forward pass alive.
        learner.statistics.restore()
        learner.optimizer.zero_grad(set_to_none=True)
        learner.micro_batch = halved(learner.micro_batch or len(batch.targets))
        if learner.processes.world > 1:
            raise OutOfMemoryError(step=step, micro_batch=learner.micro_batch)
        if learner.device.type == "cuda":
            torch.cuda.empty_cache()


def _accumulate(learner: Learner, batch: Batch, *, epoch: int, step: int) -> Gradients:
    processes = learner.processes
    torch.manual_seed(learner.seed * 1_000_003 + step)
    learner.optimizer.zero_grad(set_to_none=True)
    counts = [len(target["labels"]) for target in batch.targets]
    fullest, total = processes.largest(max(counts)), processes.total(sum(counts))
    size = learner.micro_batch or len(counts)
    objects = None if size >= len(counts) else total / processes.world
    sums: dict[str, float] = {}
    for start in range(0, len(counts), size):
        part = batch.part(slice(start, start + size))
        share = len(part.targets) / len(counts)
        terms = _terms(learner, part, fullest=fullest, objects=objects, epoch=epoch, share=share)
        values = processes.mean(torch.stack([term.detach() for term in terms.values()])).tolist()
        for name, value in zip(terms, values, strict=True):
            sums[name] = sums.get(name, 0.0) + value
        if not all(map(math.isfinite, values)):
            bad = ", ".join(f"{name}={value}" for name, value in sums.items() if not math.isfinite(value))
            return Gradients(terms=sums, fullest=fullest, fault=f"the loss is not finite: {bad}")
        learner.scaler.scale(torch.stack(list(terms.values())).sum()).backward()
    processes.average_gradients(learner.parameters)
    return Gradients(terms=sums, fullest=fullest)


def _terms(
    learner: Learner, part: Batch, *, fullest: int, objects: float | None, epoch: int, share: float
) -> dict[str, Tensor]:
    """Loss terms of a micro-batch; one NaN if the network's output is not finite in any process.

    share: of the batch that the micro-batch is.
    """
    draw = DenoisingDraw(fullest=fullest, seeds=part.seeds) if part.seeds else None
    with autocast(learner.device, learner.precision):
        output = learner.model(part.images, part.targets, draw=draw)
    broken = {"predictions": torch.full((), math.nan, device=learner.device)}
    if learner.processes.world > 1 and learner.processes.any(not is_finite(output)):
        # Told before the criterion, in which the processes would wait for the one that fails.
        return broken
    try:
        terms = learner.criterion(output, part.targets, epoch=epoch, objects=objects)
    except ModelError:
        return broken
    if learner.distiller is not None and learner.teachers is not None:
        with autocast(learner.device, learner.precision):
            said = learner.teachers(part, learner.distiller.teachers_at(epoch))
        terms |= learner.distiller(output, said, epoch=epoch, share=share)
    return terms


def is_finite(output: DetectorOutput) -> bool:
    """Whether all scores and boxes are finite."""
    predictions: list[Prediction | None] = [
        output.final, *output.auxiliary, output.encoder, output.pre, *output.denoising, output.denoising_pre
    ]  # fmt: skip
    present = [prediction for prediction in predictions if prediction is not None]
    checks = [tensor.isfinite().all() for prediction in present for tensor in (prediction.logits, prediction.boxes)]
    return bool(torch.stack(checks).all())


def _update(learner: Learner, gradients: Gradients, *, step: int, images: int) -> StepResult:
    """Applies the gradients, unless they or the loss they are of are not finite."""
    skipped, bad, norm = gradients.fault, bool(gradients.fault), math.nan
    if not skipped:
        learner.scaler.unscale_(learner.optimizer)
        limit = learner.clip if learner.clip > 0 else math.inf
        norm = float(nn.utils.clip_grad_norm_(learner.own, limit))
        # By themselves, or a distiller's projections would have the student's gradient clipped harder.
        others = float(nn.utils.clip_grad_norm_(learner.extra, limit)) if learner.extra else 0.0
        if not math.isfinite(norm + others):
            # Float16 overflows until the scale is found; with a scale of 1 there is nothing left to lower.
            bad = not learner.scaler.is_enabled() or learner.scaler.get_scale() <= 1
            skipped = f"the gradient is not finite: its norm is {norm + others}"
        if not skipped and learner.distiller is not None:
            learner.distiller.observe(learner.own)
        if not skipped or learner.scaler.is_enabled():
            # A scaler skips overflown steps itself and lowers its scale.
            learner.scaler.step(learner.optimizer)
            learner.scaler.update()
    if skipped:
        learner.statistics.restore()
    else:
        learner.ema.update(learner.model)
    return StepResult(
        step=step,
        loss=math.fsum(gradients.terms.values()),
        terms=gradients.terms,
        gradient_norm=norm,
        factor=learner.schedule.factor(step) * learner.rate,
        images=images,
        fullest=gradients.fullest,
        skipped=skipped,
        bad=bad,
    )


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which a forward pass runs in the given precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)

"""Weights at which methods of distillation are compared fairly: the same share of the loss over the whole schedule."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch

from edgedet import InvalidInputError
from training.config import TrainConfig
from training.distillation.distiller import Distiller
from training.distillation.terms import parse_terms, write_term
from training.distributed import Processes
from training.models.denoising import DenoisingDraw
from training.models.detector import Detector
from training.recipes import resolve
from training.teachers.attach import make_distiller
from training.trainer import Run


@dataclass(frozen=True)
class Weighed:
    """A method as it was given, and with its weights.

    detection, distillation: median losses over the batches, the latter of the schedule's mixture with weights of 1 on
    terms that were balanced first.
    """

    text: str
    weighted: tuple[str, ...]
    detection: float
    distillation: float

    def to_json(self) -> dict[str, Any]:
        """In json's types."""
        return asdict(self) | {"weighted": list(self.weighted)}


def weigh_methods(config: TrainConfig, *, batches: int, ratio: float) -> list[Weighed]:
    """Measures each method of a configuration by itself, on the student as it starts.

    The batches come from epochs spread evenly over the run, each with the schedule's factors of its epoch: a method
    whose schedule begins with its small term would otherwise be given a weight that is too large for the rest, and the
    other way round. The terms of one method are first brought to the same median; then lambda is ratio times the median
    of the detection loss over the median of the mixture.

    Raises InvalidInputError without methods, or for one whose loss is 0.
    """
    if not config.distil:
        raise InvalidInputError("calibrate-lambda: expected methods (--distil) and teachers (--teacher), got none")
    texts = tuple(dict.fromkeys(config.distil))
    run = Run(resolve(replace(config, compile=False, distil=_together(texts))), Processes(), fresh=True)
    learner, epochs = run.learner, run.config.epochs
    assert learner.teachers is not None
    model, widths = cast(Detector, learner.model), learner.teachers.widths
    methods: dict[str, Distiller] = {
        text: make_distiller(run.config, model, widths, parse_terms([text])).to(learner.device) for text in texts
    }
    detection: list[float] = []
    losses: dict[str, list[dict[str, float]]] = {text: [] for text in methods}
    chosen = [epochs * index // batches for index in range(batches)]
    learner.model.train()
    learner.statistics.keep()
    for index, epoch in enumerate(chosen):
        batch = next(run.batches.epoch(epoch, first_step=index % run.batches.steps)).to(learner.device)
        torch.manual_seed(config.seed + index)
        fullest = max(len(target["labels"]) for target in batch.targets)
        with torch.no_grad(), run.autocast():
            draw = DenoisingDraw(fullest=fullest, seeds=batch.seeds)
            output = learner.model(batch.images, batch.targets, draw=draw)
            said = learner.teachers(batch, widths.keys())
        with torch.no_grad():
            detection.append(
                sum(float(term) for term in learner.criterion(output, batch.targets, epoch=epoch).values())
            )
            for text, distiller in methods.items():
                raw = {
                    name: float(loss(output, said[distiller.teacher_of[name]]))
                    for name, loss in distiller.losses.items()
                }
                losses[text].append(raw)
    learner.statistics.restore()
    return [_weigh(text, distiller, detection, losses[text], chosen, ratio) for text, distiller in methods.items()]


def _together(texts: Sequence[str]) -> tuple[str, ...]:
    """Those of the texts that one run can have at a time, so that it asks its teachers for all that is needed."""
    chosen: dict[str, set[str]] = {}
    for text in texts:
        methods = {term.method for term in parse_terms([text])}
        if not methods & set[str]().union(*chosen.values()):
            chosen[text] = methods
    return tuple(chosen)


def _weigh(
    text: str,
    distiller: Distiller,
    detection: list[float],
    losses: list[dict[str, float]],
    epochs: list[int],
    ratio: float,
) -> Weighed:
    medians = {name: statistics.median(each[name] for each in losses) for name in distiller.terms}
    if wrong := [name for name, value in medians.items() if not value > 0]:
        raise InvalidInputError(
            f"calibrate-lambda: expected losses above 0, got {medians[wrong[0]]:g} for {wrong[0]}; does the teacher "
            f"differ from the student?"
        )
    mixture = statistics.median(
        sum(factor * each[name] / medians[name] for name, factor in distiller.factors(epoch).items())
        for each, epoch in zip(losses, epochs, strict=True)
    )
    scale = ratio * statistics.median(detection) / mixture
    weighted = tuple(
        write_term(replace(term, common=replace(term.common, weight=float(f"{scale / medians[name]:.4g}"))))
        for name, term in distiller.terms.items()
    )
    return Weighed(text, weighted, statistics.median(detection), mixture)

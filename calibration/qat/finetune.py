"""Fine-tune the float weights under an int8 model so that it gives what its float model gives. No labels are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor

from calibration.graph import Graph
from calibration.inputs import batch_size, network_feed
from calibration.observers import Range
from calibration.placement import Placement
from calibration.qat.loss import distillation_loss
from calibration.qat.module import GraphModule, float_module
from calibration.qat.quantised import STRETCH, quantised_module, trained_graph, trained_ranges
from calibration.qat.state import Training
from calibration.qat.targets import find_targets
from calibration.render import BackendName
from edgedet import InvalidInputError

Image = Callable[[], npt.NDArray[np.float32]]
_SMALLEST_SIZE = 1e-3  # so that zeros can change too
_RANGE_SIZE = 100.0  # a range moves by a percent where weights move by a ten-thousandth
_WARM_UP = 0.05  # share of the steps over which the rate rises


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """How weights are fine-tuned.

    Attributes:
        epochs: passes over the images, >= 1.
        rate: peak of the learning rate as a share of the root mean square of each weight tensor, in (0, 1); it rises
            over the first steps and falls with a cosine to zero.
        batch: images per step, >= 1; a model with a fixed batch axis uses that instead.
        held_out: share of the images that judge an epoch and are never trained on, in (0, 0.5].
        flip: mirror every other image, drawn anew in every epoch.
        seed: of everything that is drawn.
        threads: torch threads, 0 for its own choice. Another number changes the order of float sums.
    """

    epochs: int = 10
    rate: float = 1e-4
    batch: int = 4
    held_out: float = 0.1
    flip: bool = True
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.epochs < 1 or self.batch < 1 or self.threads < 0 or self.seed < 0:
            raise InvalidInputError(f"expected epochs >= 1, batch >= 1, threads >= 0 and seed >= 0, got {self}")
        if not (0.0 < self.rate < 1.0 and 0.0 < self.held_out <= 0.5):
            raise InvalidInputError(f"expected a rate in (0, 1) and held_out in (0, 0.5], got {self}")


@dataclass(frozen=True)
class Finetuned:
    """What fine-tuning gave.

    Attributes:
        graph: the float graph with new weights and biases. Render it with the same placement and without bias
            correction.
        ranges: new range of every quantised tensor.
        losses: terms of the loss on the held-out images, before the first epoch and after each.
        best: the epoch whose weights these are; 0 are the ones it started from.
        images: number of images trained on, and held out.
    """

    graph: Graph
    ranges: dict[str, Range]
    losses: tuple[dict[str, float], ...]
    best: int
    images: tuple[int, int]


def finetune(
    graph: Graph,
    placement: Placement,
    ranges: Mapping[str, Range],
    rendered: onnx.ModelProto,
    backend: BackendName,
    images: Sequence[Image],
    *,
    spec: dict[str, Any],
    options: FinetuneOptions,
    state: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Finetuned:
    """Train the weights of a rendered model, the float graph being the teacher (Mishra and Marr 2018, "Apprentice").

    Both networks see the same images; the student decodes the queries that the teacher selects, so that they pair row
    by row. The weights with the least loss on the held-out images are kept, the first ones among them: by that measure
    the result is never worse than what came in.

    Args:
        graph: float graph that was rendered; it stays as it is.
        placement: layers in int8.
        ranges: that it was rendered with.
        rendered: what `calibration.render.render` made of them.
        backend: whose form that is.
        images: give network inputs, (3, height, width); unlabelled, and none of the evaluation set.
        spec: model.json of the bundle.
        options: see `FinetuneOptions`.
        state: file that an interrupted run goes on from, with the same result; its name has to depend on everything
            that the run depends on. Removed at the end.
        progress: told (stage, images done, images in all).

    Raises:
        InvalidInputError: too few images.
        ModelError: an operator is not covered, or the loss is not finite.
    """
    batch = batch_size(graph, spec, options.batch)
    judges = -(-math.ceil(len(images) * options.held_out) // batch) * batch
    if len(images) - judges < batch:
        raise InvalidInputError(
            f"expected at least {judges + batch} images for batches of {batch} and {judges} to judge by, "
            f"got {len(images)}; give more images or a smaller --batch"
        )
    order = np.random.default_rng(options.seed).permutation(len(images))
    judging, learning = [images[at] for at in order[:judges]], [images[at] for at in order[judges:]]
    with _threads(options.threads):
        student = quantised_module(graph, placement, rendered, backend)
        pair = _Pair(float_module(graph), student, graph, spec)
        training = Training(student, [_size(name, value) for name, value in student.trainable.items()], state)
        steps = len(learning) // batch
        if not training.losses:
            training.judged(pair.judge(judging, batch))
        while training.epoch < options.epochs:
            plan = _plan(len(learning), options, training.epoch)
            while training.step < steps:
                rows = plan[training.step * batch : (training.step + 1) * batch]
                tensors = np.stack([_mirrored(learning[at](), flip) for at, flip in rows])
                done = training.epoch * steps + training.step
                training.update(pair.terms(tensors)["total"], _rate(options.rate, done, steps * options.epochs))
                progress("fine-tuning", (done + 1) * batch, steps * options.epochs * batch)
            training.judged(pair.judge(judging, batch))
        student.load_state_dict(training.best_weights)
        tuned = trained_graph(graph, placement, rendered, student)
        stretched = trained_ranges(graph, placement, ranges, student, backend)
    training.remove()
    return Finetuned(tuned, stretched, tuple(training.losses), training.best, (len(learning), judges))


class _Pair:
    """Teacher and student side by side."""

    def __init__(self, teacher: GraphModule, student: GraphModule, graph: Graph, spec: dict[str, Any]) -> None:
        self._teacher, self._student, self._spec = teacher, student, spec
        self._targets = find_targets(graph, spec["output"])
        self._inputs = {value.name for value in graph.model.graph.input}

    def terms(self, tensors: npt.NDArray[np.float32]) -> dict[str, Tensor]:
        """Terms of the loss for (N, 3, height, width) inputs."""
        feed = {
            name: torch.from_numpy(value)
            for name, value in network_feed(tensors, self._spec).items()
            if name in self._inputs
        }
        targets = self._targets
        with torch.no_grad():
            wanted = self._teacher(feed, [*targets.compared, *targets.choices])
        given = self._student(feed, targets.compared, selected={name: wanted[name] for name in targets.choices})
        how = self._spec["input"]
        return distillation_loss(given, wanted, targets, (how["width"], how["height"]))

    def judge(self, images: Sequence[Image], batch: int) -> dict[str, float]:
        """Mean of every term over images, whose number is a multiple of `batch`."""
        sums: dict[str, float] = {}
        starts = range(0, len(images), batch)
        with torch.no_grad():
            for start in starts:
                for name, value in self.terms(np.stack([load() for load in images[start : start + batch]])).items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        return {name: value / len(starts) for name, value in sums.items()}


def _size(name: str, parameter: Tensor) -> float:
    """Unit of the steps: the tensor's own size (Shazeer and Stern 2018, "Adafactor", section 8).

    Layers differ by orders of magnitude, also because of the equalisation.
    """
    if name.startswith(STRETCH):
        return _RANGE_SIZE
    return max(float(parameter.detach().square().mean().sqrt()), _SMALLEST_SIZE)


def _plan(count: int, options: FinetuneOptions, epoch: int) -> list[tuple[int, bool]]:
    """Order of an epoch's images, and which of them are mirrored."""
    generator = np.random.default_rng([options.seed, epoch])
    order = generator.permutation(count).tolist()
    flips = (generator.random(count) < 0.5) & options.flip
    return list(zip(order, flips.tolist(), strict=True))


def _mirrored(tensor: npt.NDArray[np.float32], flip: bool) -> npt.NDArray[np.float32]:
    return tensor[..., ::-1] if flip else tensor


def _rate(peak: float, step: int, steps: int) -> float:
    rise = min(1.0, (step + 1) / max(_WARM_UP * steps, 1.0))
    return peak * rise * 0.5 * (1.0 + math.cos(math.pi * step / steps))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

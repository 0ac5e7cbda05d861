"""Batches that depend on (seed, epoch, index) alone: the same with any number of workers and after a resume."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from edgedet import InvalidInputError, preprocess
from edgedet.bundle import InputSpec
from training.data.augment import augment
from training.data.dataset import CocoDataset, Sample
from training.data.mixing import Mix, draw_mix, mix_batch
from training.data.policy import Augmentation, Policy
from training.data.store import ImageStore, decode
from training.data.tiles import Example, Source

_ORDER, _DRAW, _NOISE, _MIX, _SIZE = range(5)  # streams of random numbers that must not share seeds
_AHEAD = 2  # batches that workers prepare in advance

Target = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What the network is trained on in a step.

    images: (B, 3, H, W) float32. targets: per image "labels" (n,) int64 and "boxes" (n, 4) float32 cxcywh in [0, 1].
    seeds: per image a number in [0, 2**63) for what the network draws itself (denoising queries).
    keys: per image the number of its view, where a run goes through a fixed number of views (see `TrainingBatches`).
    """

    images: Tensor
    targets: list[Target]
    seeds: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            targets=[{name: value.to(device) for name, value in target.items()} for target in self.targets],
        )

    def part(self, rows: slice) -> Batch:
        """Some of its images with what belongs to them."""
        return Batch(self.images[rows], self.targets[rows], self.seeds[rows], self.keys[rows])


@dataclass(frozen=True)
class _Plan:
    """What has to be drawn for a step.

    indices: the images, and behind them a partner that is not among them. mixes, partners: of the images.
    view: what images are augmented by, in place of the epoch where there is a fixed number of views.
    first_key: what the keys of its views are counted from, or None.
    """

    epoch: int
    view: int
    first_key: int | None
    indices: list[int]
    mixes: list[Mix | None]
    partners: list[int]
    settings: Augmentation
    spec: InputSpec


class TrainingBatches:
    """Shuffled, augmented batches of a dataset.

    The last, incomplete batch of an epoch is left out, except where it is the only one.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        spec: InputSpec,
        policy: Policy,
        batch: int,
        seed: int,
        workers: int = 0,
        threads: int = 1,
        cache_bytes: int = 0,
        views: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Prepare to draw.

        batch: images per step of all processes together, of which process `rank` of `world` draws its share.
        workers: threads that prepare ahead; 0 to prepare each batch when it is wanted, with `threads` threads.
        cache_bytes: limit of decoded images.
        views: how many augmented views of each image epochs take in turn, of the whole augmentation and of the gentle
        one each; 0 for new ones in every epoch. Such a view has a key, and looks the same in every epoch and batch.
        Raises InvalidInputError if the processes cannot share a batch evenly.
        """
        if not 0 <= rank < world or batch % world or len(dataset) < world:
            raise InvalidInputError(
                f"batch: expected a multiple of the {world} processes and an image for each, got a batch of {batch} "
                f"and {len(dataset)} images on process {rank}; change --batch or the number of processes"
            )
        self._dataset = dataset
        self._spec = spec
        self._policy = policy
        self._batch = batch
        self._seed = seed
        self._views = views
        self._threads, self._ahead = (workers, _AHEAD) if workers else (threads, 0)
        self._rank, self._world = rank, world
        longest = 2 * max(spec.width, spec.height)
        self._store = ImageStore(dataset.samples, longest=longest, limit_bytes=cache_bytes)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return max(1, len(self._dataset) // self._batch)

    def order(self, epoch: int) -> list[list[int]]:
        """Sample indices of each batch of an epoch, of all processes."""
        rng = self._rng(epoch, _ORDER)
        shuffled = rng.permutation(len(self._dataset)).tolist()
        return [shuffled[step * self._batch : (step + 1) * self._batch] for step in range(self.steps)]

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """This process's part of the batches of an epoch, from `first_step` on."""
        order = self.order(epoch)
        plans = (self._plan(epoch, step, order[step]) for step in range(first_step, len(order)))
        with ThreadPoolExecutor(self._threads, thread_name_prefix="batches") as pool:
            waiting: deque[tuple[_Plan, Tensor, list[Future[Example]]]] = deque()

            def next_finished() -> Batch:
                plan, images, futures = waiting.popleft()
                return self._finished(plan, images, [future.result() for future in futures])

            try:
                for plan in plans:
                    images = _canvas(plan)
                    futures = [pool.submit(self._draw, plan, row, out) for row, out in enumerate(images.numpy())]
                    waiting.append((plan, images, futures))
                    if len(waiting) > self._ahead:
                        yield next_finished()
                while waiting:
                    yield next_finished()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def keys_of(self, epoch: int) -> list[tuple[int, ...]]:
        """The keys of each batch of an epoch, without drawing it; of this process's part."""
        plans = (self._plan(epoch, step, indices) for step, indices in enumerate(self.order(epoch)))
        return [_keys(plan) for plan in plans]

    def preview(self) -> Batch:
        """The first batch of the first epoch with the whole augmentation, to be looked at."""
        return next(self.epoch(self._policy.start))

    def _plan(self, epoch: int, step: int, indices: list[int]) -> _Plan:
        """This process's part of a step: its images, and where their partners for mixing are."""
        settings, spec = self._policy.augmentation_at(epoch), self._spec
        if sizes := self._policy.sizes_at(epoch):
            size = int(self._rng(epoch, _SIZE, step).choice(sizes))
            settings = replace(settings, min_box=settings.min_box * size / spec.width)
            spec = replace(spec, width=size, height=size)
        count = len(indices)
        first, last = (count * rank // self._world for rank in (self._rank, self._rank + 1))
        mine = indices[first:last]
        mixes = [draw_mix(settings, self._rng(epoch, _MIX, index)) for index in mine]
        partners = [row - 1 for row in range(len(mine))]
        before = indices[first - 1]
        if len(mine) == count:
            partners[0] = count - 1
        elif mixes[0] is not None:
            partners[0] = len(mine)
            mine = [*mine, before]
        if not self._views:
            return _Plan(epoch, epoch, None, mine, mixes, partners, settings, spec)
        view = epoch % self._views
        whole = settings == self._policy.augmentation
        first_key = (whole * self._views + view) * len(self._dataset)
        return _Plan(epoch, view, first_key, mine, mixes, partners, settings, spec)

    def _draw(self, plan: _Plan, row: int, out: NDArray[np.float32]) -> Example:
        """The example of a row of a step, drawn into `out`."""
        index = plan.indices[row]
        return augment(
            self._source(index),
            others=self._other,
            spec=plan.spec,
            settings=plan.settings,
            rng=self._rng(plan.view, _DRAW, index),
            out=out,
        )

    def _finished(self, plan: _Plan, images: Tensor, drawn: Sequence[Example]) -> Batch:
        """Mixes and normalises what was drawn."""
        targets = [
            {"labels": torch.from_numpy(example.labels), "boxes": torch.from_numpy(example.boxes)} for example in drawn
        ]
        targets = mix_batch(images, targets, plan.mixes, plan.partners)
        count = len(plan.mixes)
        images = images[:count]
        if self._spec.mean != (0.0, 0.0, 0.0) or self._spec.std != (1.0, 1.0, 1.0):
            mean, std = (torch.tensor(value)[:, None, None] for value in (self._spec.mean, self._spec.std))
            images = (images - mean) / std
        seeds = (np.random.SeedSequence([self._seed, plan.epoch, _NOISE, index]) for index in plan.indices[:count])
        return Batch(
            images=images,
            targets=targets,
            seeds=tuple(int(seed.generate_state(1, np.uint64)[0]) >> 1 for seed in seeds),
            keys=_keys(plan),
        )

    def _rng(self, epoch: int, *stream: int) -> Generator:
        return np.random.default_rng([self._seed, epoch, *stream])

    def _source(self, index: int) -> Source:
        sample = self._dataset.samples[index]
        return Source(image=self._store[index], boxes=sample.boxes, labels=sample.labels)

    def _other(self, rng: Generator) -> Source:
        return self._source(int(rng.integers(len(self._dataset))))


def key_count(images: int, views: int) -> int:
    """How many keys there are: views of the gentle augmentation, then of the whole one."""
    return 2 * views * images


def _keys(plan: _Plan) -> tuple[int, ...]:
    """Keys of the views of a step, if they have any."""
    if plan.first_key is None:
        return ()
    return tuple(plan.first_key + index for index in plan.indices[: len(plan.mixes)])


def _canvas(plan: _Plan) -> Tensor:
    return torch.empty(len(plan.indices), 3, plan.spec.height, plan.spec.width)


def validation_batches(
    samples: tuple[Sample, ...], *, spec: InputSpec, batch: int
) -> Iterator[tuple[Tensor, list[Sample]]]:
    """Images as the runtime preprocesses them, in order: (B, 3, H, W) float32 with their samples."""
    for start in range(0, len(samples), batch):
        chunk = list(samples[start : start + batch])
        yield torch.from_numpy(np.stack([network_input(sample, spec) for sample in chunk])), chunk


def network_input(sample: Sample, spec: InputSpec) -> NDArray[np.float32]:
    """One image as the runtime would feed it: (3, H, W) float32."""
    return preprocess(
        decode(sample),
        width=spec.width,
        height=spec.height,
        resize=spec.resize,
        filter=spec.filter,
        channels=spec.channels,
        mean=spec.mean,
        std=spec.std,
        pad_value=spec.pad_value,
    )

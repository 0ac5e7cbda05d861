"""Batches that depend on (seed, epoch, index) alone: the same with any number of workers and after a resume."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from edgedet import InvalidInputError, preprocess
from edgedet.bundle import InputSpec
from training.data.augment import Augmentation, Example, Source, augment
from training.data.dataset import CocoDataset, Sample
from training.data.store import ImageStore, decode

_ORDER, _DRAW, _NOISE = 0, 1, 2  # streams of random numbers that must not share seeds
_AHEAD = 2  # batches prepared in advance per run of workers

Target = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What the network is trained on in a step.

    images: (B, 3, H, W) float32. targets: per image "labels" (n,) int64 and "boxes" (n, 4) float32 cxcywh in [0, 1].
    seeds: per image a number in [0, 2**63) for what the network draws itself (denoising queries).
    """

    images: Tensor
    targets: list[Target]
    seeds: tuple[int, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(
            images=self.images.to(device, non_blocking=True),
            targets=[{name: value.to(device) for name, value in target.items()} for target in self.targets],
            seeds=self.seeds,
        )


class TrainingBatches:
    """Shuffled, augmented batches of a dataset.

    The last, incomplete batch of an epoch is left out, except where it is the only one.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        spec: InputSpec,
        augmentation: Augmentation,
        batch: int,
        seed: int,
        workers: int = 0,
        cache_bytes: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Prepare to draw.

        batch: images per step of all processes together, of which process `rank` of `world` draws its share.
        workers: threads that prepare ahead; 0 for the caller's own. cache_bytes: limit of decoded images.
        Raises InvalidInputError if the processes cannot share a batch evenly.
        """
        if not 0 <= rank < world or batch % world or len(dataset) < world:
            raise InvalidInputError(
                f"batch: expected a multiple of the {world} processes and an image for each, got a batch of {batch} "
                f"and {len(dataset)} images on process {rank}; change --batch or the number of processes"
            )
        self._dataset = dataset
        self._spec = spec
        self._augmentation = augmentation
        self._batch = batch
        self._seed = seed
        self._workers = workers
        self._rank, self._world = rank, world
        self._store = ImageStore(dataset.samples, longest=2 * max(spec.width, spec.height), limit_bytes=cache_bytes)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return max(1, len(self._dataset) // self._batch)

    def order(self, epoch: int) -> list[list[int]]:
        """Sample indices of each batch of an epoch, of all processes."""
        rng = np.random.default_rng([self._seed, epoch, _ORDER])
        shuffled = rng.permutation(len(self._dataset)).tolist()
        return [shuffled[step * self._batch : (step + 1) * self._batch] for step in range(self.steps)]

    def example(
        self, epoch: int, index: int, *, gentle: bool = False, out: NDArray[np.float32] | None = None
    ) -> Example:
        """The example that sample `index` becomes in an epoch. gentle: flips only. out: where the image is drawn."""
        settings = self._augmentation.gentle() if gentle else self._augmentation
        rng = np.random.default_rng([self._seed, epoch, _DRAW, index])
        return augment(self._source(index), others=self._other, spec=self._spec, settings=settings, rng=rng, out=out)

    def epoch(self, epoch: int, *, first_step: int = 0, gentle: bool = False) -> Iterator[Batch]:
        """This process's part of the batches of an epoch, from `first_step` on."""
        steps = [self._share(indices) for indices in self.order(epoch)[first_step:]]
        if self._workers == 0:
            for indices in steps:
                images = self._canvas(len(indices))
                drawn = [
                    self.example(epoch, index, gentle=gentle, out=image)
                    for index, image in zip(indices, images.numpy(), strict=True)
                ]
                yield self._finished(images, drawn, self._seeds(epoch, indices))
            return
        with ThreadPoolExecutor(self._workers, thread_name_prefix="batches") as pool:
            waiting: deque[tuple[Tensor, list[Future[Example]], tuple[int, ...]]] = deque()

            def next_finished() -> Batch:
                images, futures, seeds = waiting.popleft()
                return self._finished(images, [future.result() for future in futures], seeds)

            try:
                for indices in steps:
                    images = self._canvas(len(indices))
                    futures = [
                        pool.submit(self.example, epoch, index, gentle=gentle, out=image)
                        for index, image in zip(indices, images.numpy(), strict=True)
                    ]
                    waiting.append((images, futures, self._seeds(epoch, indices)))
                    if len(waiting) > _AHEAD:
                        yield next_finished()
                while waiting:
                    yield next_finished()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _share(self, indices: list[int]) -> list[int]:
        """The consecutive part of a batch that belongs to this process."""
        count = len(indices)
        return indices[count * self._rank // self._world : count * (self._rank + 1) // self._world]

    def _seeds(self, epoch: int, indices: Sequence[int]) -> tuple[int, ...]:
        entropies = (np.random.SeedSequence([self._seed, epoch, _NOISE, index]) for index in indices)
        return tuple(int(entropy.generate_state(1, np.uint64)[0]) >> 1 for entropy in entropies)

    def _canvas(self, count: int) -> Tensor:
        return torch.empty(count, 3, self._spec.height, self._spec.width)

    def _finished(self, images: Tensor, drawn: Sequence[Example], seeds: tuple[int, ...]) -> Batch:
        images = recolour(images, [example.colour for example in drawn])
        if self._spec.mean != (0.0, 0.0, 0.0) or self._spec.std != (1.0, 1.0, 1.0):
            mean, std = (torch.tensor(value)[:, None, None] for value in (self._spec.mean, self._spec.std))
            images = (images - mean) / std
        targets = [
            {"labels": torch.from_numpy(example.labels), "boxes": torch.from_numpy(example.boxes)} for example in drawn
        ]
        return Batch(images=images, targets=targets, seeds=seeds)

    def _source(self, index: int) -> Source:
        sample = self._dataset.samples[index]
        return Source(image=self._store[index], boxes=sample.boxes, labels=sample.labels)

    def _other(self, rng: Generator) -> Source:
        return self._source(int(rng.integers(len(self._dataset))))


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


def recolour(images: Tensor, colours: Sequence[NDArray[np.float32] | None]) -> Tensor:
    """Applies each image's (3, 4) affine colour map, if it has one, and clips to [0, 1]. images: (B, 3, H, W)."""
    if all(colour is None for colour in colours):
        return images
    same = np.eye(3, 4, dtype=np.float32)
    maps = torch.from_numpy(np.stack([same if colour is None else colour for colour in colours]))
    mixed = torch.baddbmm(maps[:, :, 3:], maps[:, :, :3], images.flatten(2))
    return mixed.clamp_(0.0, 1.0).view_as(images)

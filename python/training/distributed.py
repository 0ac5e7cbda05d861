"""The processes of a launch by torchrun, and what they do together. One process alone does all of it at no cost.

No DistributedDataParallel: gradients are averaged once, after the backward passes of all micro-batches, and a parameter
that a process did not use counts as a gradient of zero there, so that no process waits for another.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from edgedet import InvalidInputError, ModelError

_BUCKET = 1 << 24  # gradients averaged per call: 64 MiB

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Which process this is, and how many there are.

    rank: of this process in [0, world). local_rank: the same among the processes of this machine. restarts: how often
    torchrun has started the processes again after a failure.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    restarts: int = 0

    @classmethod
    def of_launch(cls) -> Processes:
        """As torchrun says in the environment, or one process alone."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
        return cls(
            *(int(os.environ.get(name, default)) for name, default in zip(names, ("0", "1", "0", "0"), strict=True))
        )

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """The device of this process: the GPU of its rank on this machine, where several share a run."""
        device = torch.device(name)
        if self.world == 1 or device.type != "cuda":
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise InvalidInputError(
                f"expected a GPU for each process, got {torch.cuda.device_count()} GPUs and process {self.local_rank}; "
                f"start at most as many processes per machine as there are GPUs"
            )
        return torch.device("cuda", self.local_rank)

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Connects the processes: gloo between CPUs, NCCL between GPUs."""
        if self.world == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        try:
            yield
        finally:
            distributed.destroy_process_group()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.largest(int(flag)) > 0

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        return self._reduced(value, distributed.ReduceOp.MAX)

    def smallest(self, value: int) -> int:
        """The smallest of the processes' values."""
        return self._reduced(value, distributed.ReduceOp.MIN)

    def total(self, value: int) -> int:
        """The sum of the processes' values."""
        return self._reduced(value, distributed.ReduceOp.SUM)

    def _reduced(self, value: int, operation: Any) -> int:
        if self.world == 1:
            return value
        cell = torch.tensor(value)
        distributed.all_reduce(cell, operation)
        return int(cell)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of the processes' tensors; NaN where any of them has it."""
        if self.world == 1:
            return values
        values = values.clone()
        distributed.all_reduce(values)
        return values / self.world

    def gathered(self, value: T) -> list[T]:
        """Every process's value by rank, in the first process; nothing in the others. Any picklable value."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.first else None
        distributed.gather_object(value, values)
        return values or []

    def from_first(self, value: T) -> T:
        """The first process's value, in every process."""
        if self.world == 1:
            return value
        cell = [value]
        distributed.broadcast_object_list(cell)
        return cell[0]

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The consecutive part of the items that is this process's; the parts by rank make up the whole."""
        return items[len(items) * self.rank // self.world : len(items) * (self.rank + 1) // self.world]

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites the tensors with the first process's."""
        if self.world > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), 0)

    @torch.no_grad()
    def check_equal(self, tensors: Iterable[Tensor]) -> None:
        """Raises ModelError unless the tensors are the same in all processes, bit for bit (judged by their sums)."""
        if self.world == 1:
            return
        sums = torch.stack([tensor.double().nan_to_num().sum() for tensor in tensors])
        low, high = sums.clone(), sums.clone()
        distributed.all_reduce(low, distributed.ReduceOp.MIN)
        distributed.all_reduce(high, distributed.ReduceOp.MAX)
        if differing := int((low != high).sum()):
            raise ModelError(
                f"expected the same weights in all {self.world} processes, got {differing} of {len(sums)} tensors that "
                f"differ; do all machines have the same software?"
            )

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces every gradient by its mean over the processes, missing ones counting as zero.

        A parameter without a gradient in any process stays without.
        """
        if self.world == 1:
            return
        for bucket in _buckets(parameters):
            flat = torch.cat(
                [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in bucket]
                + [torch.tensor([float(p.grad is not None) for p in bucket], device=bucket[0].device)]
            )
            distributed.all_reduce(flat)
            flat /= self.world
            *gradients, present = flat.split([*(p.numel() for p in bucket), len(bucket)])
            for parameter, gradient, used in zip(bucket, gradients, present.tolist(), strict=True):
                if used:
                    if parameter.grad is None:
                        parameter.grad = torch.empty_like(parameter)
                    parameter.grad.copy_(gradient.view_as(parameter))


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters in order, in lists of about _BUCKET numbers."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        bucket.append(parameter)
        size += parameter.numel()
        if size >= _BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket

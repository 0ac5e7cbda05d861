"""The processes of a launch by torchrun, and what they do together. One process alone does all of it at no cost.

No DistributedDataParallel: gradients are averaged once, after the backward passes of all micro-batches, and a parameter
that a process did not use counts as a gradient of zero there, so that no process waits for another.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.constants import default_pg_timeout
from torch.distributed.rendezvous import rendezvous

from edgedet import InvalidInputError, ModelError

_POLL = 0.02  # seconds
_BUCKET = 1 << 24  # gradients averaged per call: 64 MiB

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Which process this is, and how many there are.

    rank: of this process in [0, world). local_rank, local_world: the same among the processes of this machine.
    elastic: whether torchrun starts the processes again after a failure.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    elastic: bool = False

    @classmethod
    def of_launch(cls) -> Processes:
        """As torchrun says in the environment, or one process alone."""
        says = os.environ.get
        return cls(
            rank=int(says("RANK", "0")),
            world=int(says("WORLD_SIZE", "1")),
            local_rank=int(says("LOCAL_RANK", "0")),
            local_world=int(says("LOCAL_WORLD_SIZE", "1")),
            elastic=int(says("TORCHELASTIC_MAX_RESTARTS", "0")) > 0,
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
        store, rank, world = next(rendezvous("env://"))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore(_meet(store, rank, world), store),
            rank=rank,
            world_size=world,
        )
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


def _meet(store: Store, rank: int, world: int) -> str:
    """A name that the processes started together agree on, and no processes before them.

    torchrun may keep its store over a restart, addresses of the dead processes included, to which a process that is
    early would then connect. Numbers of restarts do not help: machines count them differently. So the first process
    offers a fresh name, the others answer with fresh names of their own, and they take an offer for good only when the
    first process has confirmed these.
    """
    fresh = uuid.uuid4().hex
    if rank == 0:
        store.set("offer", fresh)
        answers = [store.get(f"answer/{fresh}/{other}").decode() for other in range(1, world)]
        store.set(f"confirmed/{fresh}", " ".join(answers))
        return fresh
    deadline = time.monotonic() + default_pg_timeout.total_seconds()
    while time.monotonic() < deadline:
        if store.check(["offer"]):
            offer = store.get("offer").decode()
            store.set(f"answer/{offer}/{rank}", fresh)
            if store.check([f"confirmed/{offer}"]) and fresh in store.get(f"confirmed/{offer}").decode().split():
                return str(offer)
        time.sleep(_POLL)
    raise ModelError(f"expected all {world} processes within {default_pg_timeout}, got no sign of the first one")


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

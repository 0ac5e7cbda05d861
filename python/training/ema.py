"""Exponential moving average of weights: what is validated, kept as `best`, and exported."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from edgedet import InvalidInputError


def default_decay(total_steps: int) -> float:
    """A decay whose window is a twentieth of the run: long runs get the usual 0.9999, short ones forget their start."""
    return min(0.9999, 1.0 - 20.0 / max(40, total_steps))


def warmup_updates(wanted: int | None, total_steps: int) -> int:
    """The warm-up of the decay: what is wanted, but at most a twentieth of the run, and that if nothing is wanted."""
    longest = max(1, round(0.05 * total_steps))
    return longest if wanted is None else max(1, min(wanted, longest))


class Ema:
    """A copy of a model that follows it with `decay * (1 - exp(-updates / warmup))`.

    `decay` may be changed on the way. The warm-up lets the copy follow at once while the weights still move fast.
    Floating-point buffers (batch-norm statistics) are averaged as well; integer ones are copied.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: int) -> None:
        """decay: in [0, 1). warmup: steps, at least 1."""
        if not 0.0 <= decay < 1.0 or warmup < 1:
            raise InvalidInputError(f"EMA: expected decay in [0, 1) and warmup >= 1, got {decay} and {warmup}")
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0
        self.decay = decay
        self._warmup = warmup

    def decay_at(self, updates: int) -> float:
        """The decay of update number `updates`, counted from 1."""
        return self.decay * (1.0 - math.exp(-updates / self._warmup))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes one step towards the model's weights."""
        self.updates += 1
        mine, theirs = tensors_of(self.module), tensors_of(model)
        averaged = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [mine[name] for name in averaged],
            [theirs[name].detach() for name in averaged],
            1.0 - self.decay_at(self.updates),
        )
        for name, tensor in mine.items():
            if not tensor.is_floating_point():
                tensor.copy_(theirs[name])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}

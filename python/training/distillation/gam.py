"""Gradient-guided adaptive modulation (GAM; RT-DETRv4, Liao et al. 2025): a loss weight that keeps its influence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from edgedet import InvalidInputError

_LEAST, _MOST = 0.1, 10.0  # what one update may multiply the weight by
_FLOOR = 1e-6  # from which the weight can come back


class AdaptiveWeight(nn.Module):
    """The weight of a loss, so that a watched part of the network has a share of rho +- delta of the gradient.

    The share p is the L1 norm of the watched parameters' gradients over that of all. Over `every` steps its mean is
    taken; outside of the band, weight <- weight p* (1 - p) / (p (1 - p*)), the change of the odds if they were all the
    loss's doing, limited to a factor in [0.1, 10]. p* is rho: the paper aims for the far edge of the band, from which
    the next noise leads out again.

    Everything happens on the parameters' device without waiting for it, on gradients that are already averaged over
    the processes, so that all processes have the same weight. The state is made of buffers.
    """

    def __init__(self, weight: float, *, rho: float, delta: float, every: int) -> None:
        """weight: the first. rho, delta: shares in (0, 1). every: steps between updates."""
        super().__init__()
        if not 0 < delta < rho or rho + delta >= 1:
            raise InvalidInputError(
                f"gam: expected a share rho with 0 < delta < rho and rho + delta < 1, got rho {rho} and delta {delta}"
            )
        if every < 1 or weight <= 0:
            raise InvalidInputError(f"gam: expected every >= 1 and a weight above 0, got {every} and {weight}")
        self.rho, self.delta, self.every = rho, delta, every
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float64))
        self.register_buffer("share", torch.zeros((), dtype=torch.float64))  # sum since the last update
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))
        self.register_buffer("last_share", torch.full((), float("nan"), dtype=torch.float64))
        self.weight: Tensor
        self.share: Tensor
        self.steps: Tensor
        self.last_share: Tensor

    @torch.no_grad()
    def observe(self, share: Tensor) -> None:
        """Takes the share of a step that is applied, a scalar."""
        self.share += share
        self.steps += 1
        mean = self.share / self.steps
        due = self.steps >= self.every
        odds = self.rho / (1 - self.rho) * (1 - mean) / mean.clamp(min=1e-12)
        outside = (mean - self.rho).abs() > self.delta
        updated = (self.weight * odds.clamp(_LEAST, _MOST)).clamp(min=_FLOOR)
        self.weight.copy_(torch.where(due & outside, updated, self.weight))
        self.last_share.copy_(torch.where(due, mean, self.last_share))
        self.share *= ~due
        self.steps *= ~due


@torch.no_grad()
def gradient_share(watched: Sequence[nn.Parameter], everything: Iterable[nn.Parameter]) -> Tensor:
    """The L1 norm of the watched parameters' gradients over that of all parameters', a scalar in [0, 1].

    A few fused norms, nothing that waits for the device. Parameters without a gradient count as zero.
    """
    inside = {id(parameter) for parameter in watched}
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in everything:
        if parameter.grad is not None:
            parts[id(parameter) in inside].append(parameter.grad)
    others, ours = (
        torch.stack(torch._foreach_norm(grads, 1)).double().sum() if grads else torch.zeros((), dtype=torch.float64)
        for grads in parts
    )
    return ours / (ours + others).clamp(min=1e-30)

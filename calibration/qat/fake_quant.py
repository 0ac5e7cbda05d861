"""Rounding to the grids that `calibration.render` writes, with gradients that pass through it.

A straight-through estimator: the forward pass rounds; the backward pass takes rounding for the identity and clipping
for what it is, no gradient (Bengio et al. 2013; Jacob et al. 2018).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from calibration.render import BackendName, Grid, quantise_weight


class _Round(torch.autograd.Function):
    """clamp(round(x / scale), low, high) * scale; the gradient stops where it clamps."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float, low: int, high: int) -> Tensor:
        # In float32 and half to even, and rounded before the zero-point is added, as QuantizeLinear does.
        integers = value.div(torch.tensor(scale, dtype=torch.float32)).round_()
        clamped = integers.clamp(low, high)
        ctx.save_for_backward(integers == clamped)
        return clamped.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def fake_activation(value: Tensor, grid: Grid) -> Tensor:
    """A tensor after QuantizeLinear and DequantizeLinear with `grid`."""
    low, high = (-128, 127) if grid.signed else (0, 255)
    first, last = low - grid.zero_point, high - grid.zero_point
    return _Round.apply(value, grid.scale, first, last)  # type: ignore[no-any-return, no-untyped-call]


def fake_weight(weight: Tensor, axis: int, backend: BackendName) -> Tensor:
    """A weight on the grid of `calibration.render.quantise_weight`, per channel of `axis`.

    The scale follows the weight and is a constant to the gradient. Nothing is clipped: the largest magnitude of a
    channel is the last integer.
    """
    values = weight.detach().numpy()
    integers, scales = quantise_weight(values, axis, backend=backend)
    shape = [1] * values.ndim
    shape[axis] = -1
    rounded = integers.astype(np.float32) * scales.reshape(shape)
    return _Replace.apply(weight, torch.from_numpy(rounded))  # type: ignore[no-any-return, no-untyped-call]


class _Replace(torch.autograd.Function):
    """Other values with the gradient of these."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, other: Tensor) -> Tensor:
        return other

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None

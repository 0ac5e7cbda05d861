"""Rounding to the grids that `calibration.render` writes, with gradients that pass through it.

A straight-through estimator: the forward pass rounds; the backward pass takes rounding for the identity and clipping
for what it is, no gradient (Bengio et al. 2013; Jacob et al. 2018). The step of a grid has the gradient of LSQ (Esser
et al. 2020, equations 3 and 5).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calibration.render import BackendName, Grid, half_scale, quantise_weight


class _Round(torch.autograd.Function):
    """clamp(round(x / step), low, high) * step."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        # In float32 and half to even, and rounded before the zero-point is added, as QuantizeLinear does.
        steps = value / step
        integers = steps.round()
        clamped = integers.clamp(low, high)
        ctx.save_for_backward(integers == clamped, clamped - steps if step.requires_grad else None, clamped)
        ctx.count = high - low
        return clamped * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, errors, clamped = ctx.saved_tensors
        by_step = None
        if errors is not None:
            # Where nothing is clipped the output moves by the rounding error, elsewhere by the last integer. Scaled so
            # that it is as large as that of a weight.
            by_step = (gradients[0] * torch.where(inside, errors, clamped)).sum()
            by_step = by_step / math.sqrt(inside.numel() * ctx.count)
        return gradients[0] * inside, by_step, None, None


def fake_activation(value: Tensor, grid: Grid, stretch: Tensor) -> Tensor:
    """A tensor after QuantizeLinear and DequantizeLinear.

    Args:
        value: any shape.
        grid: of the pair.
        stretch: scalar, the logarithm of what both ends of the range are multiplied by; the zero-point stays.
    """
    step = stretched_scale(grid, stretch)
    low, high = (-128, 127) if grid.signed else (0, 255)
    first, last = low - grid.zero_point, high - grid.zero_point
    return _Round.apply(value, step, first, last)  # type: ignore[no-any-return, no-untyped-call]


def stretched_scale(grid: Grid, stretch: Tensor) -> Tensor:
    """The scale of a stretched grid, as `calibration.render.activation_grid` would round it."""
    scale = torch.tensor(grid.scale, dtype=torch.float32) * stretch.exp()
    if grid.signed:  # TensorRT
        rounded = torch.from_numpy(half_scale(scale.detach().double().numpy()))
        scale = scale + (rounded - scale).detach()
    return scale


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

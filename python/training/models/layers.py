"""The layers that backbones, encoders and decoders share."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.batch_norm import BatchNorm2d

Activation = Literal["none", "relu", "silu", "gelu"]


def activation_layer(name: Activation) -> nn.Module:
    """A new layer for the named activation.

    ReLU works in place: give it a tensor that its maker does not need any more, like a norm's or linear layer's result.
    """
    if name == "relu":
        return nn.ReLU(inplace=True)
    layers: dict[Activation, type[nn.Module]] = {"none": nn.Identity, "silu": nn.SiLU, "gelu": nn.GELU}
    return layers[name]()


def prior_bias(probability: float) -> float:
    """The bias that makes a sigmoid start at this probability (focal loss, Lin et al. 2017, §4.1)."""
    return -math.log((1 - probability) / probability)


class _ShiftedFloor(torch.autograd.Function):
    """`max(x, floor)` in place for an x that already contains + floor: relu(x - floor) + floor.

    Whatever the sign of x - floor, the result moves with floor, so its gradient is the sum of the incoming one; it is
    given here as a whole, and x must be made with the detached floor.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.floor = floor.item()
        x.clamp_(min=ctx.floor)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (out,), (grad,) = ctx.saved_tensors, grads
        return torch.ops.aten.threshold_backward(grad, out, ctx.floor), grad.sum().view(1)


class LearnableAffine(nn.Module):
    """One learnable scale and one learnable shift for a whole map (the LAB of PP-HGNetV2)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return self.scale * x + self.bias


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalisation, an activation.

    `affine=True` puts a `LearnableAffine` after a ReLU. Padding keeps the size at stride 1 for odd kernels and is zero
    for even ones.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "none",
        affine: bool = False,
    ) -> None:
        super().__init__()
        if affine and activation != "relu":
            raise ValueError(f"affine=True needs activation 'relu', got {activation!r}")
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=(kernel - 1) // 2, groups=groups, bias=False
        )
        self.norm: BatchNorm2d | nn.Identity = BatchNorm2d(out_channels)
        self.act = activation_layer(activation)
        self.lab = LearnableAffine() if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        x = self.conv(x)
        if self.lab is None:
            return self.act(self.norm(x))  # type: ignore[no-any-return]
        # A compiler fuses these layers itself, and would stop at every look at a value.
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and self.lab.scale.item() > 0:
            return self._affine_in_norm(x, self.lab)
        return self.lab(self.act(self.norm(x)))  # type: ignore[no-any-return]

    def _affine_in_norm(self, x: Tensor, lab: LearnableAffine) -> Tensor:
        """The same with the scale and shift moved into the norm: s relu(z) + b = max(s z + b, b) for s > 0.

        Maps are large and these layers bound by memory, so two passes fewer, and four fewer backward, are worth it.
        """
        norm = self.norm
        assert isinstance(norm, BatchNorm2d)
        z = norm.scaled(x, lab.scale * norm.weight, lab.scale * norm.bias + lab.bias.detach())
        return _ShiftedFloor.apply(z, lab.bias)  # type: ignore[no-any-return, no-untyped-call]


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis (Zhang & Sennrich, 2019)."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        # Sums of squares overflow float16; under autocast the weight is float32 anyway.
        return F.rms_norm(x.float(), (x.shape[-1],), self.scale, self.eps).to(x.dtype)


class MLP(nn.Module):
    """Fully connected layers with an activation between them, none after the last."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, layers: int, activation: Activation) -> None:
        super().__init__()
        sizes = [in_dim, *[hidden_dim] * (layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.act = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) to (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)  # type: ignore[no-any-return]

    def zero_last(self) -> None:
        """Makes the last layer's output zero, so that what it refines starts unrefined."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


class SwiGLU(nn.Module):
    """The gated feed-forward layer `w3(silu(a) * b)` with `a, b = w12(x)` (Shazeer, 2020)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden_dim)
        self.w3 = nn.Linear(hidden_dim, dim)
        for layer in (self.w12, self.w3):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        gate, value = self.w12(x).split(self.w3.in_features, dim=-1)
        return self.w3(F.silu(gate) * value)  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head self-attention whose queries and keys may carry a position term; values do not.

    Parameters are laid out as in `torch.nn.MultiheadAttention`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend.

        x: (B, Q, D). position: (B, Q, D) or (Q, D). mask: (Q, Q) bool, True where the row may look at the column.
        Returns (B, Q, D).
        """
        batch, length, dim = x.shape
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if position is None:
            query, key, value = F.linear(x, weight, bias).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            both = F.linear(x + position, weight[: 2 * dim], bias[: 2 * dim])
            query, key = both.view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
            value = F.linear(x, weight[2 * dim :], bias[2 * dim :]).view(batch, length, self.heads, -1).transpose(1, 2)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).reshape(batch, length, dim))  # type: ignore[no-any-return]

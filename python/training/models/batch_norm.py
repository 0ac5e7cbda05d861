"""Batch normalisation whose statistics are those of the whole batch, however many processes share it.

PyTorch's own synchronised layer runs on GPUs only; this one runs wherever torch.distributed does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with the same parameters, which processes of one group compute together in training."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return self.scaled(input, self.weight, self.bias)

    def scaled(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The layer with another scale and shift, (C,) each, than its own."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if self.training:
            self.num_batches_tracked.add_(1)
            if _processes() > 1:
                return self._together(x, weight, bias)  # type: ignore[no-any-return]
        return F.batch_norm(
            x, self.running_mean, self.running_var, weight, bias, self.training, self.momentum, self.eps
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _together(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, var, count = _statistics_of_all(x)
        with torch.no_grad():
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)  # type: ignore[union-attr]
        return _Normalised.apply(x, weight, bias, mean, var, count, self.eps)  # type: ignore[no-any-return, no-untyped-call]


class _Normalised(torch.autograd.Function):
    """weight * (x - mean) / sqrt(var + eps) + bias, where mean and var depend on the x of every process.

    `backward` gives, of the sum of all processes' losses, the gradient with respect to this process's x; and of its
    own loss, that with respect to weight and bias, which are added up over the processes like any other parameter's.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        inverse = torch.rsqrt(var + ctx.eps)
        grad = grads[0].float()
        centred = (x.float() - _by_channel(mean)) * _by_channel(inverse)
        sums = torch.stack([grad.sum(dim=(0, 2, 3)), (grad * centred).sum(dim=(0, 2, 3))])
        grad_bias, grad_weight = sums.clone()
        distributed.all_reduce(sums)
        mean_grad, mean_product = sums / count
        grad_x = grad - _by_channel(mean_grad) - centred * _by_channel(mean_product)
        grad_x = (grad_x * _by_channel(weight * inverse)).to(x.dtype)
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None, None, None, None


@torch.no_grad()
def _statistics_of_all(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance per channel, (C,) float32, and the number of values per channel, of all processes."""
    here = x.shape[0] * x.shape[2] * x.shape[3]
    var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
    mine = torch.cat([mean, var, mean.new_tensor([here])])
    rows = [torch.empty_like(mine) for _ in range(_processes())]
    distributed.all_gather(rows, mine)
    table = torch.stack(rows)
    means, variances = table[:, :-1].view(len(rows), 2, -1).unbind(1)
    share = table[:, -1:] / table[:, -1].sum()
    mean = (share * means).sum(dim=0)
    var = (share * (variances + (means - mean).square())).sum(dim=0)  # Chan et al. 1979, equation 2.1
    return mean, var, table[:, -1].sum()


def _by_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _processes() -> int:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1

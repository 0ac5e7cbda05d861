"""Batch norms, affine blocks and parallel branches folded into convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.blocks import RepBlock
from training.models.layers import ConvNorm, LearnableAffine


def fold_norms(model: nn.Module) -> None:
    """Folds every ConvNorm, and every pair of parallel ones, into one convolution each. In place, for eval mode."""
    for module in model.modules():
        if isinstance(module, RepBlock) and module.conv2 is not None:
            wide, narrow = _folded(module.conv1), _folded(module.conv2)
            assert wide.bias is not None
            assert narrow.bias is not None
            with torch.no_grad():
                wide.weight += F.pad(narrow.weight, (1, 1, 1, 1))
                wide.bias += narrow.bias
            module.conv1.conv, module.conv1.norm, module.conv2 = wide, nn.Identity(), None
    for module in model.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            conv = _folded(module)
            if module.lab is not None:
                module.act = _fold_affine(conv, module.lab)
            module.conv, module.norm, module.lab = conv, nn.Identity(), None


def _folded(module: ConvNorm) -> nn.Conv2d:
    """The convolution that equals a convolution and a batch norm in eval mode."""
    conv, norm = module.conv, module.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    # In double precision: the result is rounded once.
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        groups=conv.groups,
    )
    assert folded.bias is not None
    with torch.no_grad():
        folded.weight.copy_(conv.weight.double() * gain.view(-1, 1, 1, 1))
        folded.bias.copy_(norm.bias.double() - norm.running_mean.double() * gain)
    return folded


class _Clip(nn.Module):
    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


def _fold_affine(conv: nn.Conv2d, lab: LearnableAffine) -> _Clip:
    """Moves scale and shift in front of the ReLU: s relu(z) + b is max(s z + b, b) for s > 0, min(...) otherwise."""
    scale, shift = float(lab.scale.detach()), float(lab.bias.detach())
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight *= scale
        conv.bias.mul_(scale).add_(shift)
    return _Clip(shift, None) if scale > 0 else _Clip(None, shift)

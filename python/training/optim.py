"""AdamW over parameter groups: the backbone slower than the rest, no decay where decay makes no sense."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgedet import InvalidInputError


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Stops gradients for every parameter whose name starts with one of the prefixes.

    Raises InvalidInputError for a prefix that no parameter has, or if nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise InvalidInputError(
                f"freeze: expected the beginning of a parameter name (such as {names[0]}), got {prefix!r}"
            )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(prefixes)) if prefixes else True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidInputError("freeze: expected something left to train, got every parameter frozen")


def set_training_mode(model: nn.Module, *, frozen: Sequence[str], freeze_norm: bool) -> None:
    """Puts the model in training mode, except batch norms that are to keep their statistics.

    These are the ones inside frozen parts, or all with `freeze_norm`.
    """
    model.train()
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            freeze_norm or (frozen and f"{name}.".startswith(tuple(frozen)))
        ):
            module.eval()


def parameter_groups(
    model: nn.Module, *, lr: float, backbone_lr: float, weight_decay: float
) -> list[dict[str, object]]:
    """Trainable parameters by learning rate and decay.

    Vectors and scalars (biases, norms, learned scales) are not decayed. Each group carries "base_lr", which schedules
    multiply.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("backbone."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": backbone_lr if in_backbone else lr,
            "base_lr": backbone_lr if in_backbone else lr,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (in_backbone, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def build_adamw(groups: list[dict[str, object]]) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019), beta 0.9 and 0.999, in PyTorch's fused form."""
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiplies each group's base rate by a schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor

"""AdamW over parameter groups: the backbone slower than the rest, no decay where decay makes no sense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from edgedet import InvalidInputError
from training.config import NormScope, Undecayed


def freeze(model: nn.Module, prefixes: Sequence[str], *, norms: NormScope = "none") -> None:
    """Stops gradients for every parameter whose name starts with one of the prefixes, and for batch norms in `norms`.

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
    for name, module in _batch_norms(model):
        if _in_scope(name, norms):
            module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidInputError("freeze: expected something left to train, got every parameter frozen")


def set_training_mode(model: nn.Module, *, frozen: Sequence[str], freeze_norm: NormScope) -> None:
    """Puts the model in training mode, except batch norms that are to keep their statistics.

    These are the ones inside frozen parts and those in the scope of `freeze_norm`.
    """
    model.train()
    for name, module in _batch_norms(model):
        if _in_scope(name, freeze_norm) or (frozen and f"{name}.".startswith(tuple(frozen))):
            module.eval()


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    backbone_lr: float,
    weight_decay: float,
    backbone_norm_lr: float | None = None,
    no_decay: Sequence[Undecayed] = ("vectors",),
) -> list[dict[str, object]]:
    """Trainable parameters by learning rate and decay.

    backbone_norm_lr: of the backbone's norms; its other rate if None. no_decay: what is not decayed: "vectors" is all
    with fewer than two axes, "backbone-norms" the norms of the backbone, "norms" and "biases" those of the rest.
    Each group carries "base_lr", which schedules multiply.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_backbone, is_norm = name.startswith("backbone."), "norm" in name
        kinds = {
            "vectors": parameter.ndim < 2,
            "backbone-norms": in_backbone and is_norm,
            "norms": not in_backbone and is_norm,
            "biases": not in_backbone and "bias" in name,
        }
        rate = lr
        if in_backbone:
            rate = backbone_norm_lr if is_norm and backbone_norm_lr is not None else backbone_lr
        decay = 0.0 if any(kinds[kind] for kind in no_decay) else weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield name, module


def _in_scope(name: str, scope: NormScope) -> bool:
    return scope == "all" or (scope == "backbone" and name.startswith("backbone."))


def build_adamw(groups: list[dict[str, object]]) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019), beta 0.9 and 0.999, in PyTorch's fused form."""
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiplies each group's base rate by a schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor

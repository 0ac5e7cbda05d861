"""Does a bad step again, and names where the first value came up that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgedet import ModelError
from training.config import TrainConfig
from training.ema import tensors_of
from training.guard import BadBatch, load_bad_batches
from training.loop import Precision, autocast
from training.models.denoising import DenoisingDraw
from training.optim import set_training_mode
from training.recipes import build_criterion, build_model, device_of


def replay(run: Path, step: int, *, device: str = "auto", precision: Precision | None = None) -> list[str]:
    """What is found in the batch that each process had in a bad step of a run: one line per process.

    The forward pass, the loss and the backward pass are those of the step, from the weights it met; batch norms see
    the images of one process at a time. precision: the run's own if None.
    Raises InvalidInputError if nothing was saved of the step.
    """
    return [_cause(bad, device_of(device), precision) for bad in load_bad_batches(run, step)]


def _cause(bad: BadBatch, device: torch.device, precision: Precision | None) -> str:
    config = TrainConfig.from_json(bad.config)
    batch = bad.batch.to(device)
    given = {"images": batch.images} | {f"boxes of image {i}": each["boxes"] for i, each in enumerate(batch.targets)}
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            return f"the data: {name} hold {_share(tensor)}"
    model = build_model(config, num_classes=bad.classes).to(device)
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            tensor.copy_(bad.tensors[name])
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights: {name} holds {_share(parameter)}"

    set_training_mode(model, frozen=config.freeze, freeze_norm=config.freeze_norm)
    found: list[str] = []
    _watch(model, found)
    torch.manual_seed(config.seed * 1_000_003 + bad.step)
    draw = DenoisingDraw(fullest=bad.fullest, seeds=batch.seeds)
    with autocast(device, precision or config.precision):  # type: ignore[arg-type]
        output = model(batch.images, batch.targets, draw=draw)
    if found:
        return found[0]
    try:
        terms = build_criterion(config)(output, batch.targets, epoch=bad.epoch)
    except ModelError as error:
        return f"the forward pass: no module's output is to blame, but {error}"
    values = {name: float(term.detach()) for name, term in terms.items()}
    if broken := [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]:
        return f"the loss: {', '.join(broken)}, of predictions that are finite"
    torch.stack(list(terms.values())).sum().backward()
    if found:
        return found[0]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the backward pass: the gradient of {name} holds {_share(parameter.grad)}"
    others = "the teachers, who are not asked again, " if config.teacher else ""
    return (
        f"nothing: loss and gradients are finite here; {others}the machine, the precision or other processes differed"
    )


def _watch(model: nn.Module, found: list[str]) -> None:
    """Has every module report its first output, and the first gradient of an output, that is not finite."""

    def after_forward(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def check(module: nn.Module, inputs: Any, outputs: Any) -> None:
            what = f"{name} ({type(module).__name__})"
            for tensor in _tensors(outputs):
                if not tensor.isfinite().all():
                    whole = all(each.isfinite().all() for each in _tensors(inputs))
                    found.append(
                        f"the forward pass: {what} gives {_share(tensor)}, of inputs that are "
                        f"{'finite' if whole else 'not finite'}"
                    )
                elif tensor.requires_grad:
                    tensor.register_hook(after_backward(what))

        return check

    def after_backward(what: str) -> Callable[[Tensor], None]:
        def check(gradient: Tensor) -> None:
            if not gradient.isfinite().all():
                found.append(f"the backward pass: the gradient of what {what} gives holds {_share(gradient)}")

        return check

    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(after_forward(name))


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors in nested tuples, lists and dataclasses."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in _tensors(each)]
    if hasattr(value, "__dataclass_fields__"):
        return [tensor for name in value.__dataclass_fields__ for tensor in _tensors(getattr(value, name))]
    return []


def _share(tensor: Tensor) -> str:
    bad = int((~tensor.isfinite()).sum())
    return f"{bad} of {tensor.numel()} values that are not finite ({int(tensor.isnan().sum())} NaN)"

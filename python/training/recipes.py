"""What belongs to a model's name: its network, its loss, its learning rates; and how open settings are filled in."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch

from edgedet import InvalidInputError
from edgedet.bundle import InputSpec
from training.config import ModelName, TrainConfig
from training.losses.criterion import Criterion, CriterionConfig
from training.models.detector import Detector, DetectorConfig, build
from training.models.zoo import detector_config


@dataclass(frozen=True)
class Recipe:
    """Settings that suit one model, for batches of 8 to 16.

    lr: peak rate of everything but the backbone; backbone_share: the backbone's rate as a fraction of it.
    """

    lr: float
    backbone_share: float


RECIPES: dict[ModelName, Recipe] = {
    "atto": Recipe(lr=4e-3, backbone_share=0.5),  # tried on BCCD, see docs/training.md
    "femto": Recipe(lr=2e-3, backbone_share=0.5),
    "pico": Recipe(lr=1.6e-3, backbone_share=0.5),
}


def model_config(
    name: ModelName, *, num_classes: int, size: int | None = None, denoising: int | None = None
) -> DetectorConfig:
    """The network's configuration. Raises InvalidInputError for a size the network cannot take."""
    config = detector_config(name, num_classes=num_classes, input_size=None if size is None else (size, size))
    if denoising is None:
        return config
    return replace(config, decoder=replace(config.decoder, denoising=denoising))


def build_model(config: TrainConfig, *, num_classes: int) -> Detector:
    """A network with fresh weights, made from the run's seed."""
    torch.manual_seed(config.seed)
    return build(model_config(config.model, num_classes=num_classes, size=config.size, denoising=config.denoising))


def build_criterion() -> Criterion:
    """The loss of DEIMv2's smallest models: matchability-aware classification and boxes, no distribution terms."""
    return Criterion(CriterionConfig(fgl_weight=0.0, ddf_weight=0.0, union_set=False))


def input_spec(size: int) -> InputSpec:
    """How images become input of a network with a square input: stretched with a triangle filter, RGB in [0, 1]."""
    return InputSpec(width=size, height=size, filter="antialias")


def resolve(config: TrainConfig) -> TrainConfig:
    """Fills in what the configuration left open, from the recipe and the machine.

    Raises InvalidInputError for a device that is not there.
    """
    recipe = RECIPES[config.model]
    lr = config.lr if config.lr is not None else recipe.lr
    device = device_of(config.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    threads = config.threads or torch.get_num_threads()
    workers = config.workers
    if workers < 0:
        workers = max(0, min(8, cores - (threads if device.type == "cpu" else 1)))
    precision = config.precision
    if precision == "auto":
        precision = "fp32"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    elif precision == "fp16" and device.type == "cpu":
        raise InvalidInputError("precision: expected fp32 or bf16 on a CPU, got fp16; choose one of them")
    published = model_config(config.model, num_classes=1)
    return replace(
        config,
        size=config.size if config.size is not None else published.input_size[0],
        denoising=config.denoising if config.denoising is not None else published.decoder.denoising,
        lr=lr,
        backbone_lr=config.backbone_lr if config.backbone_lr is not None else lr * recipe.backbone_share,
        device=str(device),
        threads=threads,
        workers=workers,
        precision=precision,
    )


def device_of(name: str) -> torch.device:
    """The device of a name; "auto" takes a GPU if there is one. Raises InvalidInputError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInputError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidInputError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidInputError(f"device: expected a GPU that PyTorch sees, got {name!r}; use --device cpu or auto")
    return device

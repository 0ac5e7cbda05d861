"""The network, the loss and the input of a model."""

from __future__ import annotations

from dataclasses import replace

import torch

from edgedet import InvalidInputError
from edgedet.bundle import InputSpec
from training.config import TrainConfig
from training.losses.criterion import Criterion
from training.models.decoder import DecoderConfig
from training.models.detector import Detector, DetectorConfig, build
from training.models.zoo import detector_config
from training.recipes.catalogue import recipe_for

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def model_config(
    name: str, *, num_classes: int, size: int | None = None, denoising: int | None = None
) -> DetectorConfig:
    """The network's configuration.

    Raises InvalidInputError for a size the network cannot take, and denoising where the decoder has none.
    """
    config = detector_config(name, num_classes=num_classes, input_size=None if size is None else (size, size))
    if isinstance(config.decoder, DecoderConfig):
        kept = config.decoder.denoising if denoising is None else denoising
        return replace(config, decoder=replace(config.decoder, denoising=kept))
    if denoising:
        raise InvalidInputError(f"denoising: expected 0 for {name}, whose decoder has none, got {denoising}")
    return config


def build_model(config: TrainConfig, *, num_classes: int) -> Detector:
    """A network with fresh weights, made from the run's seed."""
    torch.manual_seed(config.seed)
    return build(model_config(config.model, num_classes=num_classes, size=config.size, denoising=config.denoising))


def build_criterion(config: TrainConfig) -> Criterion:
    """The loss of the model's family, with the matcher that the last epochs of a resolved run ask for."""
    criterion = recipe_for(config.model, published=True).criterion
    change = config.epochs - config.iou_match_epochs if config.iou_match_epochs else None
    return Criterion(replace(criterion, matcher=replace(criterion.matcher, change_epoch=change)))


def input_spec(size: int, *, model: str = "") -> InputSpec:
    """How images become input of a network with a square input: stretched with a triangle filter, RGB in [0, 1].

    model: its name; the edge models' input is normalised with the mean and deviation of ImageNet besides.
    """
    spec = InputSpec(width=size, height=size, filter="antialias")
    return replace(spec, mean=_IMAGENET_MEAN, std=_IMAGENET_STD) if model.startswith("edge-") else spec

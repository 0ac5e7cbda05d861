"""The edge student of the RT-DETR-KD study, made for training in 4 GB of GPU memory, and its teacher."""

from __future__ import annotations

from typing import Literal, get_args

from training.models.detector import DetectorConfig
from training.models.edge_decoder import EdgeDecoderConfig
from training.models.edge_encoder import EdgeEncoderConfig
from training.models.resnet import Depth, resnet_config

EdgeVariant = Literal["edge-r18", "edge-r50"]


def edge_config(
    variant: EdgeVariant, *, num_classes: int = 80, input_size: tuple[int, int] | None = None
) -> DetectorConfig:
    """The study's configuration of a variant, for any number of classes and any (height, width)."""
    depths: dict[EdgeVariant, Depth] = {"edge-r18": 18, "edge-r50": 50}
    if variant not in depths:
        raise ValueError(f"variant must be one of {', '.join(get_args(EdgeVariant))}, got {variant!r}")
    backbone = resnet_config(depths[variant], variant="plain", return_stages=(2, 3))
    finer, coarser = backbone.out_channels
    return DetectorConfig(
        name=variant,
        input_size=input_size or (512, 512),
        backbone=backbone,
        encoder=EdgeEncoderConfig(in_channels=(finer, coarser)),
        decoder=EdgeDecoderConfig(num_classes=num_classes),
    )

"""RT-DETR (Zhao et al., 2023) and RT-DETRv2 (Lv et al., 2024) on ResNet-vd: the published configurations."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from training.models.decoder import DecoderConfig
from training.models.detector import DetectorConfig
from training.models.hybrid_encoder import HybridEncoderConfig
from training.models.resnet import Depth, resnet_config

RTDETRVariant = Literal[
    "rtdetr-r18",
    "rtdetr-r34",
    "rtdetr-r50m",
    "rtdetr-r50",
    "rtdetr-r101",
    "rtdetrv2-r18",
    "rtdetrv2-r34",
    "rtdetrv2-r50m",
    "rtdetrv2-r50",
    "rtdetrv2-r101",
    "rtdetrv2-r18-dsp",
    "rtdetrv2-r34-dsp",
    "rtdetrv2-r50m-dsp",
    "rtdetrv2-r50-dsp",
]
"""The same networks under both names but for "dsp": RT-DETRv2 with discrete sampling. v2 is another recipe."""


class _Size(NamedTuple):
    depth: Depth
    expansion: float = 1.0
    layers: int = 6
    eval_layers: int | None = None
    encoder_dim: int = 256
    encoder_feedforward: int = 1024


_SIZES = {
    "r18": _Size(18, expansion=0.5, layers=3),
    "r34": _Size(34, expansion=0.5, layers=4),
    "r50m": _Size(50, expansion=0.5, eval_layers=3),
    "r50": _Size(50),
    "r101": _Size(101, encoder_dim=384, encoder_feedforward=2048),
}


def rtdetr_config(
    variant: RTDETRVariant, *, num_classes: int = 80, input_size: tuple[int, int] | None = None
) -> DetectorConfig:
    """The published configuration of a variant, for any number of classes and any (height, width)."""
    if variant not in get_args(RTDETRVariant):
        raise ValueError(f"variant must be one of {', '.join(get_args(RTDETRVariant))}, got {variant!r}")
    size = _SIZES[variant.split("-")[1]]
    backbone = resnet_config(size.depth)
    return DetectorConfig(
        name=variant,
        input_size=input_size or (640, 640),
        backbone=backbone,
        encoder=HybridEncoderConfig(
            in_channels=backbone.out_channels,
            hidden_dim=size.encoder_dim,
            feedforward_dim=size.encoder_feedforward,
            fusion="csp",
            expansion=size.expansion,
        ),
        decoder=DecoderConfig(
            num_classes=num_classes,
            hidden_dim=256,
            feedforward_dim=1024,
            num_queries=300,
            in_channels=size.encoder_dim,
            strides=(8, 16, 32),
            points=(4, 4, 4),
            num_layers=size.layers,
            eval_layers=size.eval_layers,
            refinement="direct",
            position="layer",
            memory_projection=True,
            value_projection=True,
            sampling="discrete" if variant.endswith("-dsp") else "bilinear",
            norm="layer",
            feedforward="mlp",
            activation="relu",
            share_bbox_head=False,
        ),
    )

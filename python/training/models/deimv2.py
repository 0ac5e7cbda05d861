"""The DEIMv2 family (Huang et al., 2025): the published configurations."""

from __future__ import annotations

from typing import Literal, get_args

from training.models.decoder import DecoderConfig
from training.models.detector import DetectorConfig
from training.models.hgnetv2 import HGNetV2Config, StageConfig, hgnetv2_config
from training.models.hybrid_encoder import HybridEncoderConfig
from training.models.lite_encoder import LiteEncoderConfig

Variant = Literal["atto", "femto", "pico", "deimv2-n"]


def deimv2_config(
    variant: Variant, *, num_classes: int = 80, input_size: tuple[int, int] | None = None
) -> DetectorConfig:
    """The published configuration of a variant, for any number of classes and any (height, width)."""
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, got {variant!r}")
    if variant == "deimv2-n":
        return _n_config(num_classes, input_size or (640, 640))
    dim, feedforward, queries, size = {
        "atto": (64, 160, 100, 320),
        "femto": (96, 256, 150, 416),
        "pico": (112, 320, 200, 640),
    }[variant]
    last = (
        StageConfig(in_channels=256, mid_channels=64, out_channels=256, light=True)
        if variant == "atto"
        else StageConfig(
            in_channels=256,
            mid_channels=64,
            out_channels=512,
            light=True,
            kernel=5,
            blocks=2 if variant == "pico" else 1,
        )
    )
    backbone = HGNetV2Config(
        stages=(
            StageConfig(in_channels=16, mid_channels=16, out_channels=64, downsample=False),
            StageConfig(in_channels=64, mid_channels=32, out_channels=256),
            last,
        ),
        return_stages=(2,),
    )
    return DetectorConfig(
        name=variant,
        input_size=input_size or (size, size),
        backbone=backbone,
        encoder=LiteEncoderConfig(in_channels=(last.out_channels,), hidden_dim=dim),
        decoder=DecoderConfig(
            num_classes=num_classes, hidden_dim=dim, feedforward_dim=feedforward, num_queries=queries
        ),
    )


def _n_config(num_classes: int, input_size: tuple[int, int]) -> DetectorConfig:
    backbone = hgnetv2_config("b0", return_stages=(2, 3), use_lab=True)
    return DetectorConfig(
        name="deimv2-n",
        input_size=input_size,
        backbone=backbone,
        encoder=HybridEncoderConfig(
            in_channels=backbone.out_channels,
            hidden_dim=128,
            feedforward_dim=512,
            fusion="elan-sum",
            expansion=0.34,
            blocks=2,
        ),
        decoder=DecoderConfig(
            num_classes=num_classes,
            hidden_dim=128,
            feedforward_dim=512,
            num_queries=300,
            points=(6, 6),
            gateway=True,
            share_bbox_head=False,
        ),
    )

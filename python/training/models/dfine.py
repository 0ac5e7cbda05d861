"""D-FINE (Peng et al., 2024), DEIM (Huang et al., 2024) and RT-DETRv4 on HGNetV2: the published configurations.

DEIM and RT-DETRv4 are recipes for D-FINE's networks; what they change in these is the activation of the decoder.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from training.models import hgnetv2
from training.models.decoder import DecoderConfig
from training.models.detector import DetectorConfig
from training.models.hybrid_encoder import HybridEncoderConfig

DFINEVariant = Literal[
    "dfine-n",
    "dfine-s",
    "dfine-m",
    "dfine-l",
    "dfine-x",
    "deim-n",
    "deim-s",
    "deim-m",
    "deim-l",
    "deim-x",
    "rtdetrv4-s",
    "rtdetrv4-m",
    "rtdetrv4-l",
    "rtdetrv4-x",
]


class _Size(NamedTuple):
    backbone: hgnetv2.Variant
    layers: int
    use_lab: bool = True
    expansion: float = 1.0
    blocks: int = 3
    encoder_dim: int = 256
    encoder_feedforward: int = 1024
    decoder_dim: int = 256
    decoder_feedforward: int = 1024
    strides: tuple[int, ...] = (8, 16, 32)
    points: tuple[int, ...] = (3, 6, 3)
    reg_scale: float = 4.0


_SIZES = {
    "n": _Size(
        "b0",
        layers=3,
        expansion=0.34,
        blocks=2,
        encoder_dim=128,
        encoder_feedforward=512,
        decoder_dim=128,
        decoder_feedforward=512,
        strides=(16, 32),
        points=(6, 6),
    ),
    "s": _Size("b0", layers=3, expansion=0.5, blocks=1),
    "m": _Size("b2", layers=4, blocks=2),
    "l": _Size("b4", layers=6, use_lab=False),
    "x": _Size("b5", layers=6, use_lab=False, encoder_dim=384, encoder_feedforward=2048, reg_scale=8.0),
}


def dfine_config(
    variant: DFINEVariant, *, num_classes: int = 80, input_size: tuple[int, int] | None = None
) -> DetectorConfig:
    """The published configuration of a variant, for any number of classes and any (height, width)."""
    if variant not in get_args(DFINEVariant):
        raise ValueError(f"variant must be one of {', '.join(get_args(DFINEVariant))}, got {variant!r}")
    family, letter = variant.split("-")
    size = _SIZES[letter]
    backbone = hgnetv2.hgnetv2_config(
        size.backbone, return_stages=(1, 2, 3)[-len(size.strides) :], use_lab=size.use_lab
    )
    return DetectorConfig(
        name=variant,
        input_size=input_size or (640, 640),
        backbone=backbone,
        encoder=HybridEncoderConfig(
            in_channels=backbone.out_channels,
            hidden_dim=size.encoder_dim,
            feedforward_dim=size.encoder_feedforward,
            fusion="elan",
            expansion=size.expansion,
            blocks=size.blocks,
        ),
        decoder=DecoderConfig(
            num_classes=num_classes,
            hidden_dim=size.decoder_dim,
            feedforward_dim=size.decoder_feedforward,
            num_queries=300,
            in_channels=size.encoder_dim if size.encoder_dim != size.decoder_dim else None,
            strides=size.strides,
            points=size.points,
            num_layers=size.layers,
            position="layer",
            memory_projection=True,
            norm="layer",
            gateway=True,
            feedforward="mlp",
            activation="relu" if family == "dfine" else "silu",
            share_bbox_head=False,
            reg_scale=size.reg_scale,
        ),
    )

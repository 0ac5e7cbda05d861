"""Every published configuration by name: what differs between names, and what cannot be asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgedet import InvalidInputError
from training.models.decoder import DecoderConfig
from training.models.detector import Detector, DetectorConfig, build
from training.models.edge_decoder import EdgeDecoder
from training.models.zoo import MODELS, detector_config

# Input side, queries, strides and decoder layers (all, deployed) as published.
PUBLISHED = {
    "atto": (320, 100, (16, 32), 3, 3),
    "femto": (416, 150, (16, 32), 3, 3),
    "pico": (640, 200, (16, 32), 3, 3),
    "deimv2-n": (640, 300, (16, 32), 3, 3),
    "dfine-n": (640, 300, (16, 32), 3, 3),
    "dfine-s": (640, 300, (8, 16, 32), 3, 3),
    "dfine-m": (640, 300, (8, 16, 32), 4, 4),
    "dfine-l": (640, 300, (8, 16, 32), 6, 6),
    "dfine-x": (640, 300, (8, 16, 32), 6, 6),
    "rtdetrv2-r18": (640, 300, (8, 16, 32), 3, 3),
    "rtdetrv2-r34": (640, 300, (8, 16, 32), 4, 4),
    "rtdetrv2-r50m": (640, 300, (8, 16, 32), 6, 3),
    "rtdetrv2-r50": (640, 300, (8, 16, 32), 6, 6),
    "rtdetrv2-r101": (640, 300, (8, 16, 32), 6, 6),
    "edge-r18": (512, 100, (16, 32), 3, 3),
    "edge-r50": (512, 100, (16, 32), 3, 3),
}


def on_meta(name: str) -> Detector:
    with torch.device("meta"):
        return build(detector_config(name, num_classes=11))


def without_name(config: DetectorConfig) -> DetectorConfig:
    return replace(config, name="")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name: str) -> None:
    config = detector_config(name)
    side, queries, strides, layers, deployed = PUBLISHED[name]
    assert config.input_size == (side, side)
    decoder = config.decoder
    assert (decoder.num_classes, decoder.num_queries, decoder.strides) == (80, queries, strides)
    assert decoder.num_layers == layers
    assert (decoder.deployed_layers if isinstance(decoder, DecoderConfig) else layers) == deployed


@pytest.mark.parametrize("name", MODELS)
def test_every_name_builds(name: str) -> None:
    config = detector_config(name, num_classes=11)
    assert config.name == name
    decoder = on_meta(name).decoder
    head = decoder.class_head if isinstance(decoder, EdgeDecoder) else decoder.dec_score_head[-1]
    assert head.weight.shape == (11, config.decoder.hidden_dim)


@pytest.mark.parametrize("size", ["r18", "r34", "r50m", "r50", "r101"])
def test_rtdetr_and_rtdetrv2_are_one_network(size: str) -> None:
    assert without_name(detector_config(f"rtdetr-{size}")) == without_name(detector_config(f"rtdetrv2-{size}"))
    if f"rtdetrv2-{size}-dsp" in MODELS:
        discrete, bilinear = detector_config(f"rtdetrv2-{size}-dsp"), detector_config(f"rtdetrv2-{size}")
        assert isinstance(bilinear.decoder, DecoderConfig)
        changed = replace(bilinear, name="", decoder=replace(bilinear.decoder, sampling="discrete"))
        assert without_name(discrete) == changed


@pytest.mark.parametrize("size", ["n", "s", "m", "l", "x"])
def test_deim_and_rtdetrv4_are_dfine_with_another_activation(size: str) -> None:
    dfine, deim = detector_config(f"dfine-{size}"), detector_config(f"deim-{size}")
    assert isinstance(dfine.decoder, DecoderConfig)
    assert without_name(deim) == replace(dfine, name="", decoder=replace(dfine.decoder, activation="silu"))
    if size != "n":
        assert without_name(detector_config(f"rtdetrv4-{size}")) == without_name(deim)


def test_discrete_offsets_are_not_trained() -> None:
    frozen = [name for name, p in on_meta("rtdetrv2-r18-dsp").named_parameters() if not p.requires_grad]
    assert len(frozen) == 6
    assert all("sampling_offsets" in name for name in frozen)
    assert all(p.requires_grad for p in on_meta("rtdetrv2-r18").parameters())


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(InvalidInputError, match=r"expected one of atto, .*edge-r50, got 'giant'"):
        detector_config("giant")
    with pytest.raises(InvalidInputError, match=r"model dfine-s: input_size must be positive multiples of 32"):
        detector_config("dfine-s", input_size=(640, 650))
    with pytest.raises(InvalidInputError, match=r"model rtdetr-r18: .* fewer than 300 queries"):
        detector_config("rtdetr-r18", input_size=(64, 64))
    with pytest.raises(InvalidInputError, match="num_classes"):
        detector_config("edge-r18", num_classes=0)
    assert detector_config("edge-r18", input_size=(32, 32)).input_size == (32, 32), "learned queries need no cells"

"""Backbones against Hugging Face's: the same weights and statistics give the same maps."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from transformers import HGNetV2Backbone, ResNetBackbone, RTDetrResNetBackbone
from transformers import HGNetV2Config as TheirHGNetV2Config
from transformers import ResNetConfig as TheirResNetConfig
from transformers import RTDetrResNetConfig as TheirRTDetrResNetConfig

from training.models.hgnetv2 import HGNetV2, HGNetV2Config, StageConfig, Variant, hgnetv2_config
from training.models.resnet import Depth, ResNet, ResNetConfig, resnet_config
from training.weights.huggingface import Family, map_names

FEATURES = ["stage2", "stage3", "stage4"]


def randomise(model: nn.Module) -> None:
    """Scales, shifts and statistics that differ from channel to channel; maps keep their size from layer to layer.

    Fills every tensor, so that a model may come without any content (from the meta device by `to_empty`).
    """
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif tensor.dim() == 1:
            positive = name.endswith(("norm.weight", "running_var", "scale"))
            low, high = (0.5, 1.5) if positive else (-0.3, 0.3)
            tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def give(theirs: nn.Module, state: dict[str, Tensor], family: Family) -> None:
    """Loads our backbone's state into Hugging Face's, by the map that reads theirs into ours."""
    prefix = "model.backbone.model."
    ours_by_theirs = {
        name: next(iter(map_names({prefix + name: tensor}, family)))[len("backbone.") :]
        for name, tensor in theirs.state_dict().items()
    }
    assert sorted(ours_by_theirs.values()) == sorted(state)
    theirs.load_state_dict({name: state[ours] for name, ours in ours_by_theirs.items()}, assign=True)


def assert_same(ours: nn.Module, theirs: nn.Module, *, training: bool) -> None:
    """The same maps with running statistics; and with those of the batch the same maps and gradients, if wanted."""
    x = images()
    with torch.no_grad():
        wanted = theirs.eval()(x).feature_maps
        got = ours.eval()(x.contiguous(memory_format=torch.channels_last))
    for a, b in zip(got, wanted, strict=True):
        assert a.is_contiguous(memory_format=torch.channels_last)
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    if training:
        x, y = images().double().requires_grad_(), images().double().requires_grad_()
        got, wanted = ours.double().train()(x), theirs.double().train()(y).feature_maps
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        sum(m.square().mean() for m in got).backward()
        sum(m.square().mean() for m in wanted).backward()
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["b0", "b1", "b2", "b3", "b4", "b5"])
def test_hgnetv2_equals_hugging_face(name: Variant) -> None:
    config = hgnetv2_config(name, use_lab=name < "b4")
    with torch.device("meta"):  # making weights that are replaced at once would take most of the time
        ours = HGNetV2(config)
        theirs = HGNetV2Backbone(
            TheirHGNetV2Config(
                stem_channels=config.stem,
                stage_in_channels=[stage.in_channels for stage in config.stages],
                stage_mid_channels=[stage.mid_channels for stage in config.stages],
                stage_out_channels=[stage.out_channels for stage in config.stages],
                stage_num_blocks=[stage.blocks for stage in config.stages],
                stage_numb_of_layers=[stage.layers for stage in config.stages],
                use_learnable_affine_block=config.use_lab,
                out_features=FEATURES,
            )
        )
    randomise(ours.to_empty(device="cpu"))
    give(theirs, ours.state_dict(), "d_fine")
    assert_same(ours, theirs, training=name == "b0")


def their_layout(ours: ResNet, depth: Depth) -> dict[str, object]:
    return {
        "layer_type": "bottleneck" if depth >= 50 else "basic",
        "hidden_sizes": [256, 512, 1024, 2048] if depth >= 50 else [64, 128, 256, 512],
        "depths": [len(stage.blocks) for stage in ours.res_layers],
        "out_features": FEATURES,
    }


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_resnet_d_equals_hugging_face(depth: Depth) -> None:
    with torch.device("meta"):
        ours = ResNet(resnet_config(depth))
        theirs = RTDetrResNetBackbone(TheirRTDetrResNetConfig(**their_layout(ours, depth)))
    randomise(ours.to_empty(device="cpu"))
    give(theirs, ours.state_dict(), "rt_detr")
    assert_same(ours, theirs, training=depth == 18)


@pytest.mark.parametrize("depth", [18, 50])
def test_plain_resnet_equals_hugging_face(depth: Depth) -> None:
    with torch.device("meta"):
        ours = ResNet(resnet_config(depth, "plain"))
        theirs = ResNetBackbone(TheirResNetConfig(**their_layout(ours, depth)))
    randomise(ours.to_empty(device="cpu"))
    state = ours.state_dict()
    renamed = {}
    for name in theirs.state_dict():
        ours_name = re.sub(r"^embedder\.embedder\.", "conv1.conv1_1.", name)
        ours_name = re.sub(r"^encoder\.stages\.(\d)\.layers\.", r"res_layers.\1.blocks.", ours_name)
        ours_name = re.sub(r"\.layer\.(\d)\.", lambda m: f".branch2{'abc'[int(m[1])]}.", ours_name)
        ours_name = ours_name.replace("shortcut", "short").replace("convolution", "conv")
        renamed[name] = state.pop(ours_name.replace("normalization", "norm"))
    assert not state
    theirs.load_state_dict(renamed, assign=True)
    assert_same(ours, theirs, training=False)


@pytest.mark.parametrize(
    ("config", "channels", "strides"),
    [
        (hgnetv2_config("b0", return_stages=(2, 3), use_lab=True), (512, 1024), (16, 32)),
        (hgnetv2_config("b2", return_stages=(0, 1), use_lab=True), (96, 384), (4, 8)),
        (resnet_config(18), (128, 256, 512), (8, 16, 32)),
        (resnet_config(50, "plain", return_stages=(2, 3)), (1024, 2048), (16, 32)),
    ],
)
def test_maps_have_the_channels_and_strides_of_the_configuration(
    config: HGNetV2Config | ResNetConfig, channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    backbone = HGNetV2(config) if isinstance(config, HGNetV2Config) else ResNet(config)
    assert (config.out_channels, config.out_strides) == (channels, strides)
    maps = backbone(images(64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]


def test_stages_beyond_the_last_map_are_not_made() -> None:
    assert len(ResNet(resnet_config(18, return_stages=(1,))).res_layers) == 2
    assert len(HGNetV2(hgnetv2_config("b0", return_stages=(1,), use_lab=False)).stages) == 2


def test_configurations_that_make_no_network_are_refused() -> None:
    with pytest.raises(ValueError, match="depth must be one of 18, 34, 50, 101, got 42"):
        resnet_config(42)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variant must be one of d, plain, got 'e'"):
        resnet_config(18, "e")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="return_stages must name some of the 4 stages"):
        resnet_config(18, return_stages=(4,))
    with pytest.raises(ValueError, match="return_stages must name some of the 4 stages"):
        hgnetv2_config("b0", return_stages=(), use_lab=True)
    with pytest.raises(ValueError, match=r"variant must be one of b0, .* got 'b9'"):
        hgnetv2_config("b9", use_lab=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stage 0 takes 8 channels but is given 16"):
        HGNetV2Config(stages=(StageConfig(in_channels=8, mid_channels=8, out_channels=8),), return_stages=(0,))

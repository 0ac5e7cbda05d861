"""Hugging Face's implementations of the detectors, made to our configurations: the oracle of the parity tests."""

from __future__ import annotations

import importlib
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from training.models.decoder import DecoderConfig
from training.models.detector import DetectorConfig
from training.models.hgnetv2 import HGNetV2Config
from training.models.hybrid_encoder import HybridEncoderConfig
from training.models.lite_encoder import LiteEncoderConfig
from training.models.resnet import ResNetConfig

Family = Literal["rt_detr", "rt_detr_v2", "d_fine", "deimv2"]
_CLASSES = {"rt_detr": "RTDetr", "rt_detr_v2": "RTDetrV2", "d_fine": "DFine", "deimv2": "Deimv2"}


def family_of(config: DetectorConfig) -> Family:
    """Which of Hugging Face's implementations computes what this configuration computes."""
    if config.name.startswith("rtdetr-"):
        return "rt_detr"
    if config.name.startswith("rtdetrv2-"):
        return "rt_detr_v2"
    return "d_fine" if config.name.startswith(("dfine-", "deim-")) else "deimv2"


def huggingface_model(config: DetectorConfig) -> nn.Module:
    """A model of Hugging Face's with the layers of ours and random weights, in eval mode; skips where there is none."""
    transformers = pytest.importorskip("transformers", reason="the oracle is Hugging Face transformers")
    family = family_of(config)
    name = _CLASSES[family]
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"this transformers has no {name}")
    theirs = getattr(transformers, f"{name}Config")(
        backbone_config=_backbone(transformers, config.backbone),
        freeze_backbone_batch_norms=False,
        **_encoder(config.encoder),
        **_decoder(config.decoder, family),
    )
    initialization = importlib.import_module("transformers.initialization")
    with initialization.no_init_weights():  # which would take most of the test's time
        made = getattr(transformers, f"{name}ForObjectDetection")(theirs)
    made.tie_weights()
    assert isinstance(made, nn.Module)
    _as_published(made, config, family)
    _randomise(made)
    return made.eval()


def _randomise(model: nn.Module) -> None:
    """Every weight and statistic away from zero and from symmetry, so that every path matters."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.numel() == 1:
                continue  # constants of the weighting function
            if parameter.ndim > 1:
                bound = (3 / parameter[0].numel()) ** 0.5
                parameter.uniform_(-bound, bound)
            else:
                parameter.uniform_(-0.1, 0.1)
        module: Any
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm) or type(module).__name__.endswith("RMSNorm"):
                module.weight.add_(1)
            if type(module).__name__.startswith("BatchNorm"):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if type(module).__name__.endswith("LearnableAffineBlock"):
                module.scale.add_(1)


def _backbone(transformers: Any, config: HGNetV2Config | ResNetConfig) -> Any:
    if isinstance(config, ResNetConfig):
        basic = config.depth < 50
        return transformers.RTDetrResNetConfig(
            depths={18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}[config.depth],
            layer_type="basic" if basic else "bottleneck",
            hidden_sizes=[64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
            out_indices=[stage + 1 for stage in config.return_stages],
        )
    stages = config.stages
    return transformers.HGNetV2Config(
        stem_channels=list(config.stem),
        stage_in_channels=[s.in_channels for s in stages],
        stage_mid_channels=[s.mid_channels for s in stages],
        stage_out_channels=[s.out_channels for s in stages],
        stage_num_blocks=[s.blocks for s in stages],
        stage_downsample=[s.downsample for s in stages],
        stage_light_block=[s.light for s in stages],
        stage_kernel_size=[s.kernel for s in stages],
        stage_numb_of_layers=[s.layers for s in stages],
        stage_downsample_strides=[2] * len(stages),
        use_learnable_affine_block=config.use_lab,
        depths=[1] * len(stages),
        hidden_sizes=[s.out_channels for s in stages],
        out_indices=[stage + 1 for stage in config.return_stages],
    )


def _encoder(config: Any) -> dict[str, Any]:
    shared = {
        "encoder_hidden_dim": config.hidden_dim,
        "encoder_in_channels": list(config.in_channels),
        "hidden_expansion": config.expansion,
    }
    if isinstance(config, LiteEncoderConfig):
        return {**shared, "encoder_type": "lite", "depth_mult": 0.5}
    assert isinstance(config, HybridEncoderConfig)
    hybrid = {
        **shared,
        "encoder_ffn_dim": config.feedforward_dim,
        "encode_proj_layers": [len(config.in_channels) - 1],
    }
    return hybrid if config.fusion == "csp" else {**hybrid, "depth_mult": config.blocks / 3}


def _decoder(config: Any, family: Family) -> dict[str, Any]:
    assert isinstance(config, DecoderConfig)
    fields: dict[str, Any] = {
        "num_labels": config.num_classes,
        "d_model": config.hidden_dim,
        "decoder_in_channels": [config.map_channels] * len(config.strides),
        "decoder_ffn_dim": config.feedforward_dim,
        "decoder_layers": config.num_layers,
        "decoder_activation_function": config.activation,
        "decoder_n_points": config.points[0] if config.refinement == "direct" else list(config.points),
        "feat_strides": list(config.strides),
        "num_feature_levels": len(config.strides),
        "num_queries": config.num_queries,
    }
    if family == "rt_detr_v2":
        fields["decoder_method"] = "discrete" if config.sampling == "discrete" else "default"
    if config.refinement == "distribution":
        fields |= {"reg_scale": config.reg_scale, "max_num_bins": config.reg_max}
    if family == "deimv2":
        fields |= {"use_gateway": config.gateway, "share_bbox_head": config.share_bbox_head}
    return fields


def _as_published(model: Any, config: DetectorConfig, family: Family) -> None:
    """Undoes where these ports depart from the published code."""
    assert isinstance(config.decoder, DecoderConfig)
    if config.decoder.activation == "silu":  # their heads know ReLU only
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if type(child).__name__ == "DFineMLPPredictionHead":
                    setattr(module, name, _SiLUHead(child))
                elif type(child).__name__ in ("DFineMLP", "Deimv2MLP") and isinstance(child.act, nn.ReLU):
                    child.act = nn.SiLU()
    if family == "deimv2":  # a projection before the query selection, and positions that follow the boxes
        model.model.enc_output = nn.Identity()
        model.model.decoder.query_pos_head = _Once(model.model.decoder.query_pos_head)


class _SiLUHead(nn.Module):
    """A head by the names of theirs, with SiLU between its layers."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.layers = head.layers

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = nn.functional.silu(layer(x))
        return self.layers[-1](x)  # type: ignore[no-any-return]


class _Once(nn.Module):
    """Answers every call as it answered the first."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = layers.layers
        self.inner = [layers]
        self.answer: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.answer is None:
            self.answer = self.inner[0](x)
        assert self.answer is not None
        return self.answer

"""The networks and losses that benchmarks/train_step.py compares with: the official code's and transformers'."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

Targets = Sequence[Mapping[str, Tensor]]

OFFICIAL_CONFIGS = {
    "rtdetrv2-r18": "configs/rtdetrv2/rtdetrv2_r18vd_120e_coco.yml",
    "dfine-s": "configs/dfine/dfine_hgnetv2_s_coco.yml",
    "atto": "configs/deimv2/deimv2_hgnetv2_atto_coco.yml",
}
"""Below the folder of the official code that holds its `src` or `engine`."""


class Official(nn.Module):
    """The official network and its loss, as their own configuration file builds them, with fresh weights.

    checkout: the folder with `configs` and `src` (RT-DETR's `rtdetrv2_pytorch`, D-FINE) or `engine` (DEIMv2).
    """

    def __init__(self, model: str, checkout: Path) -> None:
        super().__init__()
        package = "src" if (checkout / "src").is_dir() else "engine"
        if not (checkout / package).is_dir():
            raise SystemExit(
                f"error: {checkout}: expected a folder with configs/ and src/ or engine/ of the official code"
            )
        sys.path.insert(0, str(checkout))
        before = Path.cwd()
        os.chdir(checkout)  # its configurations name files from here
        try:
            core = importlib.import_module(f"{package}.core")
            untrained = {"HGNetv2": {"pretrained": False}, "PResNet": {"pretrained": False}}
            config = core.YAMLConfig(OFFICIAL_CONFIGS[model], **untrained)
            self.network: nn.Module = config.model
            self.criterion: nn.Module = config.criterion
        finally:
            os.chdir(before)

    def forward(self, images: Tensor, targets: Targets) -> Tensor:
        """The loss of a batch: images (B, 3, H, W) in [0, 1], targets with `labels` and cxcywh `boxes`."""
        terms: dict[str, Tensor] = self.criterion(self.network(images, targets), targets, epoch=0)
        return sum(terms.values(), start=images.new_zeros(()))


class Transformers(nn.Module):
    """transformers' port of the network, configured to the same size, with the loss it computes from labels."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.network: nn.Module = {"rtdetrv2-r18": _rtdetrv2_r18, "dfine-s": _dfine_s, "atto": _atto}[model]()

    def forward(self, images: Tensor, targets: Targets) -> Tensor:
        """As `Official.forward`."""
        labels = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets]
        loss: Tensor = self.network(pixel_values=images, labels=labels).loss
        return loss


_ATTO: dict[str, Any] = {
    "stage_in_channels": [16, 64, 256],
    "stage_mid_channels": [16, 32, 64],
    "stage_out_channels": [64, 256, 256],
    "stage_num_blocks": [1, 1, 1],
    "stage_downsample": [False, True, True],
    "stage_downsample_strides": [2, 2, 2],
    "stage_light_block": [False, False, True],
    "stage_kernel_size": [3, 3, 3],
    "stage_numb_of_layers": [3, 3, 3],
}
_B0: dict[str, Any] = {
    "stage_in_channels": [16, 64, 256, 512],
    "stage_mid_channels": [16, 32, 64, 128],
    "stage_out_channels": [64, 256, 512, 1024],
    "stage_num_blocks": [1, 1, 2, 1],
    "stage_downsample": [False, True, True, True],
    "stage_light_block": [False, False, True, True],
    "stage_kernel_size": [3, 3, 5, 5],
    "stage_numb_of_layers": [3, 3, 3, 3],
}


def _rtdetrv2_r18() -> nn.Module:
    transformers: Any = importlib.import_module("transformers")
    backbone = transformers.RTDetrResNetConfig(
        layer_type="basic",
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        out_indices=[2, 3, 4],
    )
    config = transformers.RTDetrV2Config(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        num_labels=80,
    )
    network: nn.Module = transformers.RTDetrV2ForObjectDetection(config)
    return network


def _dfine_s() -> nn.Module:
    transformers: Any = importlib.import_module("transformers")
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 16, 16],
        hidden_sizes=_B0["stage_out_channels"],
        depths=[1, 1, 2, 1],
        use_learnable_affine_block=True,
        out_indices=[2, 3, 4],
        **_B0,
    )
    config = transformers.DFineConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_in_channels=[256, 512, 1024],
        hidden_expansion=0.5,
        depth_mult=0.34,
        decoder_layers=3,
        decoder_n_points=[3, 6, 3],
        num_labels=80,
    )
    network: nn.Module = transformers.DFineForObjectDetection(config)
    return network


def _atto() -> nn.Module:
    transformers: Any = importlib.import_module("transformers")
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 16, 16],
        hidden_sizes=_ATTO["stage_out_channels"],
        depths=[1, 1, 1],
        use_learnable_affine_block=True,
        out_indices=[3],
        **_ATTO,
    )
    config = transformers.Deimv2Config(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_type="lite",
        encoder_hidden_dim=64,
        encoder_in_channels=[256],
        hidden_expansion=0.34,
        depth_mult=0.5,
        feat_strides=[16, 32],
        d_model=64,
        decoder_in_channels=[64, 64],
        num_queries=100,
        decoder_ffn_dim=160,
        num_feature_levels=2,
        decoder_n_points=[4, 2],
        decoder_layers=3,
        decoder_activation_function="silu",
        use_gateway=False,
        share_bbox_head=True,
        use_dense_one_to_one=False,
        weight_loss_fgl=0.0,
        weight_loss_ddf=0.0,
        num_labels=80,
    )
    network: nn.Module = transformers.Deimv2ForObjectDetection(config)
    return network

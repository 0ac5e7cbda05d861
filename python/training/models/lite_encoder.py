"""The two-scale convolutional encoder of the smallest DEIMv2 models (Huang et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from training.models.blocks import ElanBlock
from training.models.layers import Activation, ConvNorm
from training.models.outputs import EncoderOutput


@dataclass(frozen=True, kw_only=True)
class LiteEncoderConfig:
    """One map in, two maps out (its stride and twice that).

    expansion: width of the inner blocks relative to hidden_dim. blocks: bottlenecks in each of them.
    """

    in_channels: tuple[int]
    hidden_dim: int
    expansion: float = 0.34
    blocks: int = 2
    activation: Activation = "silu"


class Downsample(nn.Module):
    """A 3x3 average pool of stride 2, a 1x1 convolution."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.mix = ConvNorm(channels, channels, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, ceil(H / 2), ceil(W / 2))."""
        return self.mix(F.avg_pool2d(x, 3, stride=2, padding=1))  # type: ignore[no-any-return]


class LiteEncoder(nn.Module):
    """Projects the one map, makes the coarser one, and fuses down and up again."""

    def __init__(self, config: LiteEncoderConfig) -> None:
        super().__init__()
        dim, act = config.hidden_dim, config.activation
        inner = round(config.expansion * dim // 2)
        self.input_proj = nn.ModuleList([ConvNorm(config.in_channels[0], dim, 1)])
        self.down_sample1 = Downsample(dim, act)
        self.down_sample2 = Downsample(dim, act)
        self.bi_fusion = ConvNorm(dim, dim, 1, activation=act)
        self.fpn_block = ElanBlock(dim, dim, inner, config.blocks, act, split_csp=True)
        self.pan_block = ElanBlock(dim, dim, inner, config.blocks, act, split_csp=True)

    def forward(self, maps: list[Tensor]) -> EncoderOutput:
        """One map (B, C_in, H, W) to two, (B, D, H, W) and (B, D, H / 2, W / 2); H and W even."""
        fine = self.input_proj[0](maps[0])
        coarse = self.down_sample1(fine)
        coarse = self.bi_fusion(coarse + coarse.mean(dim=(2, 3), keepdim=True))
        fine = self.fpn_block(fine + F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        return EncoderOutput([fine, self.pan_block(coarse + self.down_sample2(fine))])

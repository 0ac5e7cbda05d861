"""The two-scale convolutional encoder of the smallest DEIMv2 models (Huang et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.layers import Activation, ConvNorm, activation_layer
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


class RepBlock(nn.Module):
    """A 3x3 and a 1x1 convolution side by side, added; one 3x3 convolution after deployment (Ding et al., 2021)."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3)
        self.conv2: ConvNorm | None = ConvNorm(channels, channels, 1)
        self.act = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        out = self.conv1(x)
        return self.act(out if self.conv2 is None else out + self.conv2(x))  # type: ignore[no-any-return]


class CSPLayer(nn.Module):
    """A 1x1 convolution whose second half goes through the bottlenecks and is added to the first."""

    def __init__(self, in_channels: int, channels: int, blocks: int, activation: Activation) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = ConvNorm(in_channels, 2 * channels, 1, activation=activation)
        self.bottlenecks = nn.Sequential(*(RepBlock(channels, activation) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, channels, H, W)."""
        kept, refined = self.conv1(x).split(self.channels, dim=1)
        return kept + self.bottlenecks(refined)  # type: ignore[no-any-return]


class ElanBlock(nn.Module):
    """The fusion block: split, two CSP branches in a row, everything concatenated and mixed (RepNCSPELAN)."""

    def __init__(self, channels: int, inner: int, blocks: int, activation: Activation) -> None:
        super().__init__()
        self.channels = channels
        self.cv1 = ConvNorm(channels, 2 * channels, 1, activation=activation)
        self.cv2 = nn.Sequential(
            CSPLayer(channels, inner, blocks, activation), ConvNorm(inner, inner, 3, activation=activation)
        )
        self.cv3 = nn.Sequential(
            CSPLayer(inner, inner, blocks, activation), ConvNorm(inner, inner, 3, activation=activation)
        )
        self.cv4 = ConvNorm(2 * channels + 2 * inner, channels, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        both = self.cv1(x)
        second = self.cv2(both.split(self.channels, dim=1)[1])
        third = self.cv3(second)
        return self.cv4(torch.cat([both, second, third], dim=1))  # type: ignore[no-any-return]


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
        self.fpn_block = ElanBlock(dim, inner, config.blocks, act)
        self.pan_block = ElanBlock(dim, inner, config.blocks, act)

    def forward(self, maps: list[Tensor]) -> EncoderOutput:
        """One map (B, C_in, H, W) to two, (B, D, H, W) and (B, D, H / 2, W / 2); H and W even."""
        fine = self.input_proj[0](maps[0])
        coarse = self.down_sample1(fine)
        coarse = self.bi_fusion(coarse + coarse.mean(dim=(2, 3), keepdim=True))
        fine = self.fpn_block(fine + F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        return EncoderOutput([fine, self.pan_block(coarse + self.down_sample2(fine))])

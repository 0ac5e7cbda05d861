"""The PP-HGNetV2 backbone (PaddleDetection; used by D-FINE, DEIM, RT-DETRv4 and DEIMv2).

Weights start as PyTorch starts convolutions and norms, as in the published code, which goes on from ImageNet weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.layers import ConvNorm


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage: an optional stride-2 depthwise convolution, then `blocks` aggregation blocks.

    light: blocks of 1x1 + depthwise convolutions instead of full ones. layers: convolutions per block.
    """

    in_channels: int
    mid_channels: int
    out_channels: int
    blocks: int = 1
    layers: int = 3
    kernel: int = 3
    downsample: bool = True
    light: bool = False


@dataclass(frozen=True, kw_only=True)
class HGNetV2Config:
    """The stem's channels, the stages, and which stages (from 0) are returned; stage i has stride 4 * 2**i.

    use_lab: a `LearnableAffine` after every ReLU.
    """

    stem: tuple[int, int, int] = (3, 16, 16)
    stages: tuple[StageConfig, ...]
    return_stages: tuple[int, ...]
    use_lab: bool = True

    def __post_init__(self) -> None:
        """Check that the stages fit one another."""
        channels = self.stem[2]
        for index, stage in enumerate(self.stages):
            if stage.in_channels != channels:
                raise ValueError(f"stage {index} takes {stage.in_channels} channels but is given {channels}")
            channels = stage.out_channels
        if not self.return_stages or not all(0 <= i < len(self.stages) for i in self.return_stages):
            raise ValueError(f"return_stages must name some of the {len(self.stages)} stages, got {self.return_stages}")

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned map."""
        return tuple(self.stages[i].out_channels for i in self.return_stages)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Stride of each returned map in pixels of the input."""
        return tuple(4 * 2**i for i in self.return_stages)


Variant = Literal["b0", "b1", "b2", "b3", "b4", "b5"]

# Per variant the stem's channels, the convolutions per block, and each stage's inner channels, outer channels, blocks.
_VARIANTS: dict[Variant, tuple[tuple[int, int, int], int, tuple[tuple[int, int, int], ...]]] = {
    "b0": ((3, 16, 16), 3, ((16, 64, 1), (32, 256, 1), (64, 512, 2), (128, 1024, 1))),
    "b1": ((3, 24, 32), 3, ((32, 64, 1), (48, 256, 1), (96, 512, 2), (192, 1024, 1))),
    "b2": ((3, 24, 32), 4, ((32, 96, 1), (64, 384, 1), (128, 768, 3), (256, 1536, 1))),
    "b3": ((3, 24, 32), 5, ((32, 128, 1), (64, 512, 1), (128, 1024, 3), (256, 2048, 1))),
    "b4": ((3, 32, 48), 6, ((48, 128, 1), (96, 512, 1), (192, 1024, 3), (384, 2048, 1))),
    "b5": ((3, 32, 64), 6, ((64, 128, 1), (128, 512, 2), (256, 1024, 5), (512, 2048, 2))),
}


def hgnetv2_config(variant: Variant, *, return_stages: tuple[int, ...] = (1, 2, 3), use_lab: bool) -> HGNetV2Config:
    """A published variant. D-FINE and its heirs have the affine blocks in B0 and B2 (N, S, M), not in B4 and B5 (L, X).

    Raises ValueError for a variant that does not exist, or stages that are not in 0 to 3.
    """
    if variant not in _VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(_VARIANTS)}, got {variant!r}")
    stem, layers, rows = _VARIANTS[variant]
    channels = (stem[2], *(row[1] for row in rows))
    stages = tuple(
        StageConfig(
            in_channels=channels[index],
            mid_channels=mid,
            out_channels=out,
            blocks=blocks,
            layers=layers,
            kernel=5 if index >= 2 else 3,
            downsample=index > 0,
            light=index >= 2,
        )
        for index, (mid, out, blocks) in enumerate(rows)
    )
    return HGNetV2Config(stem=stem, stages=stages, return_stages=return_stages, use_lab=use_lab)


class Stem(nn.Module):
    """Stride 4: a 3x3 convolution, two 2x2 convolutions beside a 2x2 max pool, a 3x3 and a 1x1 convolution."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, use_lab: bool) -> None:
        super().__init__()
        conv = partial(ConvNorm, activation="relu", affine=use_lab)
        self.stem1 = conv(in_channels, mid_channels, 3, stride=2)
        self.stem2a = conv(mid_channels, mid_channels // 2, 2)
        self.stem2b = conv(mid_channels // 2, mid_channels, 2)
        self.stem3 = conv(2 * mid_channels, mid_channels, 3, stride=2)
        self.stem4 = conv(mid_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C, H / 4, W / 4)."""
        x = F.pad(self.stem1(x), (0, 1, 0, 1))
        convolved = self.stem2b(F.pad(self.stem2a(x), (0, 1, 0, 1)))
        pooled = F.max_pool2d(x, 2, 1)
        return self.stem4(self.stem3(torch.cat([pooled, convolved], dim=1)))  # type: ignore[no-any-return]


class LightConv(nn.Module):
    """A 1x1 convolution without activation, then a depthwise one."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, use_lab: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 1)
        self.conv2 = ConvNorm(
            out_channels, out_channels, kernel, groups=out_channels, activation="relu", affine=use_lab
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W)."""
        return self.conv2(self.conv1(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A chain of convolutions whose input and every output are concatenated, squeezed and expanded."""

    def __init__(self, config: StageConfig, in_channels: int, *, residual: bool, use_lab: bool) -> None:
        super().__init__()
        self.residual = residual
        mid = config.mid_channels
        inputs = [in_channels] + [mid] * (config.layers - 1)
        conv = partial(ConvNorm, activation="relu", affine=use_lab)
        make = partial(LightConv, use_lab=use_lab) if config.light else conv
        self.layers = nn.ModuleList(make(c, mid, config.kernel) for c in inputs)
        self.aggregation = nn.Sequential(
            conv(in_channels + config.layers * mid, config.out_channels // 2, 1),
            conv(config.out_channels // 2, config.out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W)."""
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        out: Tensor = self.aggregation(torch.cat(maps, dim=1))
        return out + x if self.residual else out


class Stage(nn.Module):
    """One stage; see `StageConfig`."""

    def __init__(self, config: StageConfig, *, use_lab: bool) -> None:
        super().__init__()
        c = config.in_channels
        self.downsample = ConvNorm(c, c, 3, stride=2, groups=c) if config.downsample else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                Block(config, c if i == 0 else config.out_channels, residual=i > 0, use_lab=use_lab)
                for i in range(config.blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        return self.blocks(self.downsample(x))  # type: ignore[no-any-return]


class HGNetV2(nn.Module):
    """The backbone: images to feature maps."""

    def __init__(self, config: HGNetV2Config) -> None:
        super().__init__()
        self.return_stages = config.return_stages
        self.stem = Stem(*config.stem, use_lab=config.use_lab)
        used = config.stages[: max(config.return_stages) + 1]
        self.stages = nn.ModuleList(Stage(stage, use_lab=config.use_lab) for stage in used)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to the maps of `return_stages`, first to last, (B, C, H / stride, W / stride)."""
        x = self.stem(images)
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.return_stages:
                maps.append(x)
        return maps

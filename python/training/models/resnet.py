"""ResNet backbones (He et al., 2016): the "d" variant of RT-DETR (He et al., 2019) and the plain one."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from training.models.layers import ConvNorm

Depth = Literal[18, 34, 50, 101]
Variant = Literal["d", "plain"]

_BLOCKS: dict[Depth, tuple[int, ...]] = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The depth, the variant, and which stages (from 0) are returned; stage i has stride 4 * 2**i.

    "d": three 3x3 convolutions as the stem, and shortcuts that average before they project, so that no cell is skipped.
    "plain": one 7x7 convolution, and shortcuts of stride 2 (torchvision's networks).
    """

    depth: Depth
    variant: Variant = "d"
    return_stages: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        """Check that there is such a network."""
        if self.depth not in _BLOCKS:
            raise ValueError(f"depth must be one of {', '.join(map(str, _BLOCKS))}, got {self.depth}")
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, got {self.variant!r}")
        if not self.return_stages or not all(0 <= i < len(_WIDTHS) for i in self.return_stages):
            raise ValueError(f"return_stages must name some of the {len(_WIDTHS)} stages, got {self.return_stages}")

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned map."""
        expansion = BottleneckBlock.expansion if self.depth >= 50 else BasicBlock.expansion
        return tuple(expansion * _WIDTHS[i] for i in self.return_stages)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Stride of each returned map in pixels of the input."""
        return tuple(4 * 2**i for i in self.return_stages)


def resnet_config(depth: Depth, variant: Variant = "d", *, return_stages: tuple[int, ...] = (1, 2, 3)) -> ResNetConfig:
    """The configuration of a network; raises ValueError where there is no such network."""
    return ResNetConfig(depth=depth, variant=variant, return_stages=return_stages)


def _shortcut(in_channels: int, out_channels: int, stride: int, variant: Variant) -> nn.Module:
    if variant == "plain" or stride == 1:
        return ConvNorm(in_channels, out_channels, 1, stride=stride)
    return nn.Sequential(OrderedDict(pool=nn.AvgPool2d(2), conv=ConvNorm(in_channels, out_channels, 1)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and a shortcut around them that projects if `project` says so."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, variant: Variant, project: bool) -> None:
        super().__init__()
        self.branch2a = ConvNorm(in_channels, width, 3, stride=stride, activation="relu")
        self.branch2b = ConvNorm(width, width, 3)
        self.short = _shortcut(in_channels, width, stride, variant) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, width, H / stride, W / stride)."""
        return F.relu_(self.branch2b(self.branch2a(x)).add_(self.short(x)))


class BottleneckBlock(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, the last four times as wide, and a shortcut as in `BasicBlock`."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, variant: Variant, project: bool) -> None:
        super().__init__()
        wide = self.expansion * width
        self.branch2a = ConvNorm(in_channels, width, 1, activation="relu")
        self.branch2b = ConvNorm(width, width, 3, stride=stride, activation="relu")
        self.branch2c = ConvNorm(width, wide, 1)
        self.short = _shortcut(in_channels, wide, stride, variant) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, 4 * width, H / stride, W / stride)."""
        return F.relu_(self.branch2c(self.branch2b(self.branch2a(x))).add_(self.short(x)))


class Stage(nn.Module):
    """Blocks in a row, the first of which has the stride."""

    def __init__(
        self,
        block: type[BasicBlock | BottleneckBlock],
        in_channels: int,
        width: int,
        count: int,
        stride: int,
        variant: Variant,
    ) -> None:
        super().__init__()
        wide = block.expansion * width
        # The plain variant projects where it must; the other one at the start of every stage.
        first = variant == "d" or stride > 1 or in_channels != wide
        self.blocks = nn.Sequential(
            block(in_channels, width, stride, variant, first),
            *(block(wide, width, 1, variant, False) for _ in range(count - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C, H / stride, W / stride)."""
        return self.blocks(x)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """The backbone: images to feature maps. Sides of the images are multiples of 32.

    Weights start as in the published code, which then loads ImageNet weights: "d" as PyTorch starts convolutions,
    "plain" from normal distributions scaled by the fan-out (He et al., 2015).
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.return_stages = config.return_stages
        if config.variant == "d":
            stem: list[nn.Module] = [
                ConvNorm(3, 32, 3, stride=2, activation="relu"),
                ConvNorm(32, 32, 3, activation="relu"),
                ConvNorm(32, 64, 3, activation="relu"),
            ]
        else:
            stem = [ConvNorm(3, 64, 7, stride=2, activation="relu")]
        self.conv1 = nn.Sequential(OrderedDict((f"conv1_{i + 1}", layer) for i, layer in enumerate(stem)))
        block: type[BasicBlock | BottleneckBlock] = BottleneckBlock if config.depth >= 50 else BasicBlock
        channels = (64, *(block.expansion * width for width in _WIDTHS))
        self.res_layers = nn.ModuleList(
            Stage(block, channels[i], _WIDTHS[i], _BLOCKS[config.depth][i], 1 if i == 0 else 2, config.variant)
            for i in range(max(config.return_stages) + 1)
        )
        if config.variant == "plain":
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to the maps of `return_stages`, first to last, (B, C, H / stride, W / stride)."""
        x = F.max_pool2d(self.conv1(images), kernel_size=3, stride=2, padding=1)
        maps = []
        for index, stage in enumerate(self.res_layers):
            x = stage(x)
            if index in self.return_stages:
                maps.append(x)
        return maps

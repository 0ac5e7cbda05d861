"""RT-DETR's hybrid encoder (Zhao et al., 2023): self-attention in the coarsest map, convolutions between the maps.

Its heirs keep the plan and change the blocks: D-FINE (Peng et al., 2024; also DEIM and RT-DETRv4), DEIMv2 (Huang et
al., 2025). Weights start as PyTorch starts convolutions, linear layers and multi-head attention, as in the published
code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.blocks import CSPLayer, ElanBlock
from training.models.layers import Activation, ConvNorm, SelfAttention, activation_layer
from training.models.outputs import EncoderOutput
from training.models.position import sincos_position

Fusion = Literal["csp", "elan", "elan-sum"]


@dataclass(frozen=True, kw_only=True)
class HybridEncoderConfig:
    """As many maps out as in, each hidden_dim wide; every map is half as high and wide as the one before.

    feedforward_dim, heads, layers: of the self-attention. expansion: width of the inner blocks relative to hidden_dim.
    blocks: bottlenecks in each of them.
    fusion: "csp": `CSPLayer` over concatenated maps, activated convolutions between levels (RT-DETR). "elan":
        `ElanBlock` and convolutions without activation, those that halve a map depthwise (D-FINE). "elan-sum": the same
        with `SplitCSPLayer` and with maps added instead of concatenated (DEIMv2).
    """

    in_channels: tuple[int, ...]
    hidden_dim: int = 256
    feedforward_dim: int = 1024
    heads: int = 8
    layers: int = 1
    fusion: Fusion
    expansion: float = 1.0
    blocks: int = 3
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        """Check ranges."""
        if len(self.in_channels) < 2:
            raise ValueError(f"in_channels must name at least two maps, got {self.in_channels}")
        if self.hidden_dim % self.heads or self.hidden_dim % 4:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be a multiple of 4 and of heads {self.heads}")


class TransformerEncoderLayer(nn.Module):
    """Self-attention and feed-forward, a norm after each."""

    def __init__(self, dim: int, heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, feedforward_dim), nn.Linear(feedforward_dim, dim)
        self.activation = activation_layer("gelu")
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x: (B, L, D); position: (L, D). Returns (B, L, D)."""
        x = self.norm1(x + self.self_attn(x, position))
        return self.norm2(x + self.linear2(self.activation(self.linear1(x))))  # type: ignore[no-any-return]


class AIFI(nn.Module):
    """Attention-based intra-scale feature interaction: a transformer over the cells of one map."""

    def __init__(self, dim: int, heads: int, feedforward_dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerEncoderLayer(dim, heads, feedforward_dim) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) to (B, D, H, W), channels last."""
        _, dim, height, width = x.shape
        position = sincos_position(height, width, dim, device=x.device, dtype=x.dtype)
        tokens = x.flatten(2).transpose(1, 2)  # without a copy where x is channels last, and so is the way back
        for layer in self.layers:
            tokens = layer(tokens, position)
        return tokens.transpose(1, 2).unflatten(2, (height, width))  # type: ignore[no-any-return]


class SeparableDown(nn.Module):
    """Halves a map: a 1x1 convolution, then a depthwise 3x3 one of stride 2 (the SCDown of YOLOv10)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = ConvNorm(channels, channels, 1)
        self.cv2 = ConvNorm(channels, channels, 3, stride=2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / 2, W / 2)."""
        return self.cv2(self.cv1(x))  # type: ignore[no-any-return]


class HybridEncoder(nn.Module):
    """`AIFI` on the coarsest map, then fusion from coarse to fine and back (CCFF)."""

    def __init__(self, config: HybridEncoderConfig) -> None:
        super().__init__()
        dim, act = config.hidden_dim, config.activation
        self.sum = config.fusion == "elan-sum"
        self.input_proj = nn.ModuleList(ConvNorm(channels, dim, 1) for channels in config.in_channels)
        self.encoder = nn.ModuleList([AIFI(dim, config.heads, config.feedforward_dim, config.layers)])

        def block() -> nn.Module:
            if config.fusion == "csp":
                return CSPLayer(2 * dim, dim, int(config.expansion * dim), config.blocks, act)
            inner = round(config.expansion * dim // 2)
            return ElanBlock(dim if self.sum else 2 * dim, dim, inner, config.blocks, act, split_csp=self.sum)

        def down() -> nn.Module:
            if config.fusion == "csp":
                return ConvNorm(dim, dim, 3, stride=2, activation=act)
            return nn.Sequential(SeparableDown(dim))

        steps = range(len(config.in_channels) - 1)
        lateral: Activation = act if config.fusion == "csp" else "none"
        self.lateral_convs = nn.ModuleList(ConvNorm(dim, dim, 1, activation=lateral) for _ in steps)
        self.fpn_blocks = nn.ModuleList(block() for _ in steps)
        self.downsample_convs = nn.ModuleList(down() for _ in steps)
        self.pan_blocks = nn.ModuleList(block() for _ in steps)

    def _join(self, moved: Tensor, other: Tensor) -> Tensor:
        return moved + other if self.sum else torch.cat([moved, other], dim=1)

    def forward(self, maps: list[Tensor]) -> EncoderOutput:
        """Maps (B, C_i, H_i, W_i), fine to coarse, to as many (B, D, H_i, W_i)."""
        projected = [projection(x) for projection, x in zip(self.input_proj, maps, strict=True)]
        coarse = aifi = self.encoder[0](projected.pop())
        waiting = []  # what each step up meets on its way back down, coarse to fine
        for lateral, block in zip(self.lateral_convs, self.fpn_blocks, strict=True):
            coarse = lateral(coarse)
            waiting.append(coarse)
            coarse = block(self._join(F.interpolate(coarse, scale_factor=2.0, mode="nearest"), projected.pop()))
        fused = [coarse]
        for down, block in zip(self.downsample_convs, self.pan_blocks, strict=True):
            fused.append(block(self._join(down(fused[-1]), waiting.pop())))
        return EncoderOutput(fused, aifi)

"""The encoder of the RT-DETR-KD study: a transformer over the coarser of two maps, which is then fused into the finer.

Weights start as in the study: linear layers from Xavier's distribution with zero biases, convolutions from He's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.layers import ConvNorm, SelfAttention
from training.models.outputs import EncoderOutput
from training.models.position import sincos_position


@dataclass(frozen=True, kw_only=True)
class EdgeEncoderConfig:
    """Two maps in, the second half as high and wide as the first; the same two out, each hidden_dim wide.

    feedforward_dim, heads, layers: of the transformer. blocks: bottlenecks of the fusion.
    """

    in_channels: tuple[int, int]
    hidden_dim: int = 256
    feedforward_dim: int = 1024
    heads: int = 8
    layers: int = 1
    blocks: int = 3

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.hidden_dim % self.heads or self.hidden_dim % 4:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be a multiple of 4 and of heads {self.heads}")


class PreNormLayer(nn.Module):
    """Self-attention and feed-forward, a norm before each."""

    def __init__(self, dim: int, heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, feedforward_dim), nn.Linear(feedforward_dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        x = x + self.self_attn(self.norm1(x))
        return x + self.linear2(F.silu(self.linear1(self.norm2(x))))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A 1x1 convolution to half the width and a 3x3 one back, around which the map is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = ConvNorm(channels, channels // 2, 1, activation="silu")
        self.cv2 = ConvNorm(channels // 2, channels, 3, activation="silu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        return x + self.cv2(self.cv1(x))  # type: ignore[no-any-return]


class ConcatCSPLayer(nn.Module):
    """Two 1x1 convolutions of the same map, one of which goes on through the bottlenecks; concatenated and mixed."""

    def __init__(self, in_channels: int, channels: int, blocks: int) -> None:
        super().__init__()
        half = channels // 2
        self.cv1 = ConvNorm(in_channels, half, 1, activation="silu")
        self.cv2 = ConvNorm(in_channels, half, 1, activation="silu")
        self.bottlenecks = nn.Sequential(*(Bottleneck(half) for _ in range(blocks)))
        self.cv3 = ConvNorm(2 * half, channels, 1, activation="silu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, channels, H, W)."""
        return self.cv3(torch.cat([self.bottlenecks(self.cv1(x)), self.cv2(x)], dim=1))  # type: ignore[no-any-return]


def _with_position(x: Tensor) -> Tensor:
    """(B, D, H, W) to the same, every cell with its position added."""
    _, dim, height, width = x.shape
    position = sincos_position(height, width, dim, device=x.device, dtype=x.dtype)
    return x + position.t().reshape(dim, height, width)


class EdgeEncoder(nn.Module):
    """The encoder. Positions are part of the maps that come out, since the study's decoder adds none."""

    def __init__(self, config: EdgeEncoderConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.input_proj = nn.ModuleList(ConvNorm(c, dim, 1, activation="silu") for c in config.in_channels)
        self.fusion_c4 = ConcatCSPLayer(2 * dim, dim, config.blocks)
        self.encoder_layers = nn.ModuleList(
            PreNormLayer(dim, config.heads, config.feedforward_dim) for _ in range(config.layers)
        )
        self.encoder_norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: list[Tensor]) -> EncoderOutput:
        """C4 and C5, (B, C_i, H_i, W_i), to the same two, (B, D, H_i, W_i); aifi is C5 without its position."""
        fine, coarse = (projection(x) for projection, x in zip(self.input_proj, maps, strict=True))
        tokens = _with_position(coarse).flatten(2).transpose(1, 2)
        for layer in self.encoder_layers:
            tokens = layer(tokens)
        aifi = self.encoder_norm(tokens).transpose(1, 2).unflatten(2, coarse.shape[2:])
        up = F.interpolate(aifi, scale_factor=2.0, mode="nearest")
        fine = self.fusion_c4(torch.cat([fine, up], dim=1))
        return EncoderOutput([_with_position(fine), _with_position(aifi)], aifi)

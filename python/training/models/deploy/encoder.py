"""The parts of encoders that depend on the input size: attention within the coarsest map, and positions of cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.deformable_attention import Shape
from training.models.deploy.attention import FixedSelfAttention
from training.models.edge_encoder import EdgeEncoder, PreNormLayer
from training.models.hybrid_encoder import AIFI, HybridEncoder, TransformerEncoderLayer
from training.models.outputs import EncoderOutput
from training.models.position import sincos_position


def _position(shape: Shape, dim: int) -> Tensor:
    """(H * W, D) float32."""
    return sincos_position(*shape, dim, device=torch.device("cpu"), dtype=torch.float32)


class _TransformerLayer(nn.Module):
    """`TransformerEncoderLayer` for tokens at fixed positions."""

    def __init__(self, source: TransformerEncoderLayer, position: Tensor) -> None:
        super().__init__()
        self.self_attn = FixedSelfAttention(source.self_attn, len(position), position)
        self.norm1, self.norm2 = source.norm1, source.norm2
        self.feedforward = nn.Sequential(source.linear1, source.activation, source.linear2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        x = self.norm1(x + self.self_attn(x))
        return self.norm2(x + self.feedforward(x))  # type: ignore[no-any-return]


class _DeployedAIFI(nn.Module):
    """`AIFI` for maps of one shape."""

    def __init__(self, source: AIFI, dim: int, shape: Shape) -> None:
        super().__init__()
        self.dim, self.shape = dim, shape
        position = _position(shape, dim)
        self.layers = nn.Sequential()
        for layer in source.layers:
            assert isinstance(layer, TransformerEncoderLayer)
            self.layers.append(_TransformerLayer(layer, position))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) to (B, D, H, W)."""
        height, width = self.shape
        tokens = self.layers(x.reshape(-1, self.dim, height * width).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(-1, self.dim, height, width)  # type: ignore[no-any-return]


class _PreNormLayer(nn.Module):
    """`PreNormLayer` for a fixed number of tokens."""

    def __init__(self, source: PreNormLayer, tokens: int) -> None:
        super().__init__()
        self.self_attn = FixedSelfAttention(source.self_attn, tokens)
        self.norm1, self.norm2 = source.norm1, source.norm2
        self.feedforward = nn.Sequential(source.linear1, nn.SiLU(), source.linear2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        x = x + self.self_attn(self.norm1(x))
        return x + self.feedforward(self.norm2(x))  # type: ignore[no-any-return]


class _DeployedEdgeEncoder(nn.Module):
    """`EdgeEncoder` for maps of two shapes."""

    def __init__(self, source: EdgeEncoder, dim: int, shapes: list[Shape]) -> None:
        super().__init__()
        self.dim, self.coarse = dim, shapes[-1]
        self.input_proj, self.fusion = source.input_proj, source.fusion_c4
        self.position: Tensor
        self.fine_position: Tensor
        self.register_buffer("fine_position", _position(shapes[0], dim).T.reshape(dim, *shapes[0]))
        self.register_buffer("position", _position(self.coarse, dim).T.reshape(dim, *self.coarse))
        self.layers = nn.Sequential()
        for layer in source.encoder_layers:
            assert isinstance(layer, PreNormLayer)
            self.layers.append(_PreNormLayer(layer, self.coarse[0] * self.coarse[1]))
        self.layers.append(source.encoder_norm)

    def forward(self, maps: list[Tensor]) -> EncoderOutput:
        """As `EdgeEncoder`."""
        fine, coarse = (projection(x) for projection, x in zip(self.input_proj, maps, strict=True))
        height, width = self.coarse
        tokens = (coarse + self.position).reshape(-1, self.dim, height * width).transpose(1, 2)
        coarse = self.layers(tokens).transpose(1, 2).reshape(-1, self.dim, height, width)
        fine = self.fusion(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0, mode="nearest")], dim=1))
        return EncoderOutput([fine + self.fine_position, coarse + self.position])


def deployed_encoder(source: nn.Module, dim: int, shapes: list[Shape]) -> nn.Module:
    """An encoder for maps of fixed shapes, (height, width) from fine to coarse, each `dim` wide.

    Its norms are spelt out and its convolutions are folded already. The source may be changed.
    """
    if isinstance(source, EdgeEncoder):
        return _DeployedEdgeEncoder(source, dim, shapes)
    if isinstance(source, HybridEncoder):
        for index, aifi in enumerate(source.encoder):
            assert isinstance(aifi, AIFI)
            source.encoder[index] = _DeployedAIFI(aifi, dim, shapes[-1])
    return source

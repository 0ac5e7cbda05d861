"""The edge decoder in eval mode for maps of fixed shapes.

Its queries are learned, so what they say to each other before they have seen the image is a constant, and so is what
the first layer asks of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.deformable_attention import Shape
from training.models.deploy.attention import Attend, FixedSelfAttention, scaled_projections
from training.models.deploy.linear import linear
from training.models.edge_decoder import CrossAttention, EdgeDecoder, EdgeDecoderLayer


class _Cross(nn.Module):
    """`CrossAttention` of queries to the memory."""

    def __init__(self, source: CrossAttention, queries: int, cells: int) -> None:
        super().__init__()
        weight, bias = scaled_projections(source)
        self.dim = source.out_proj.in_features
        self.query = linear(weight[: self.dim], bias[: self.dim])
        self.key_value = linear(weight[self.dim :], bias[self.dim :])
        self.attend = Attend(self.dim, source.heads, queries, cells)
        self.out = source.out_proj

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """query: (B, Q, D) as `self.query` made it; memory: (B, L, D). Returns (B, Q, D)."""
        key, value = self.key_value(memory).split(self.dim, dim=-1)
        return self.out(self.attend(query, key, value))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """`EdgeDecoderLayer` behind its self-attention."""

    def __init__(self, source: EdgeDecoderLayer, queries: int, cells: int) -> None:
        super().__init__()
        self.norm2, self.norm3 = source.norm2, source.norm3
        self.cross_attn = _Cross(source.cross_attn, queries, cells)
        self.feedforward = nn.Sequential(source.linear1, nn.ReLU(), source.linear2)

    def ask(self, x: Tensor) -> Tensor:
        """(B, Q, D) to the queries of the cross-attention."""
        return self.cross_attn.query(self.norm2(x))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, query: Tensor, memory: Tensor) -> Tensor:
        """x: (B, Q, D); query: what `ask` made of it; memory: (B, L, D). Returns (B, Q, D)."""
        x = x + self.cross_attn(query, memory)
        return x + self.feedforward(self.norm3(x))  # type: ignore[no-any-return]


class DeployedEdgeDecoder(nn.Module):
    """`EdgeDecoder` without a record of its attention."""

    def __init__(self, source: EdgeDecoder, shapes: list[Shape]) -> None:
        super().__init__()
        config = source.config
        self.dim, queries = config.hidden_dim, config.num_queries
        self.cells = [height * width for height, width in shapes]
        first, *later = (layer for layer in source.layers if isinstance(layer, EdgeDecoderLayer))
        layers = [_Layer(layer, queries, sum(self.cells)) for layer in (first, *later)]
        self.layers = nn.ModuleList(layers)
        self.speak = nn.ModuleList(
            nn.Sequential(layer.norm1, FixedSelfAttention(layer.self_attn, queries)) for layer in later
        )
        self.start: Tensor
        self.question: Tensor
        with torch.no_grad():
            content = source.query_embed.weight[None]
            start = content + first.self_attn(first.norm1(content))
            self.register_buffer("start", start)
            self.register_buffer("question", layers[0].ask(start))
        self.norm, self.class_head, self.bbox_head = source.norm, source.class_head, source.bbox_head

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Encoder maps to logits (B, Q, C) and boxes (B, Q, 4)."""
        memory = torch.cat(
            [m.reshape(-1, self.dim, cells).transpose(1, 2) for m, cells in zip(maps, self.cells, strict=True)], dim=1
        )
        x = self.layers[0](self.start, self.question, memory)
        for speak, layer in zip(self.speak, self.layers[1:], strict=True):
            assert isinstance(layer, _Layer)
            x = x + speak(x)
            x = layer(x, layer.ask(x), memory)
        x = self.norm(x)
        return self.class_head(x), self.bbox_head(x).sigmoid()

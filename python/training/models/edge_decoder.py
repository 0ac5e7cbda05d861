"""The decoder of the RT-DETR-KD study: learned queries with plain cross-attention over two levels.

What it gives up for 4 GB of GPU memory: query selection (its 100 queries are learned), deformable attention, denoising
and the finest level. What it gains is attention maps that a student can be taught by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.denoising import DenoisingDraw
from training.models.layers import MLP, SelfAttention, prior_bias
from training.models.outputs import DetectorOutput, Prediction


@dataclass(frozen=True, kw_only=True)
class EdgeDecoderConfig:
    """What the edge decoder is made of; strides: of the maps that it attends to."""

    num_classes: int
    hidden_dim: int = 256
    feedforward_dim: int = 1024
    num_queries: int = 100
    num_layers: int = 3
    heads: int = 8
    strides: tuple[int, ...] = (16, 32)

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("num_classes", "hidden_dim", "feedforward_dim", "num_queries", "num_layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_dim % self.heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be a multiple of heads {self.heads}")

    @property
    def map_channels(self) -> int:
        """Width of the maps that come in."""
        return self.hidden_dim


class CrossAttention(nn.Module):
    """Multi-head attention from queries to a memory; parameters as in `torch.nn.MultiheadAttention`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, memory: Tensor, record: list[Tensor] | None = None) -> Tensor:
        """Attend.

        x: (B, Q, D). memory: (B, L, D). record: what the attention (B, heads, Q, L) is appended to; it takes memory
        and time that the fused operator saves. Returns (B, Q, D).
        """
        batch, queries, dim = x.shape
        query = F.linear(x, self.in_proj_weight[:dim], self.in_proj_bias[:dim])
        query = query.view(batch, queries, self.heads, -1).transpose(1, 2)
        key_value = F.linear(memory, self.in_proj_weight[dim:], self.in_proj_bias[dim:])
        key, value = key_value.view(batch, memory.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        if record is None:
            out = F.scaled_dot_product_attention(query, key, value)
        else:
            attention = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(dim=-1)
            record.append(attention)
            out = attention @ value
        return self.out_proj(out.transpose(1, 2).reshape(batch, queries, dim))  # type: ignore[no-any-return]


class EdgeDecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; a norm before each."""

    def __init__(self, dim: int, heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, feedforward_dim), nn.Linear(feedforward_dim, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, memory: Tensor, record: list[Tensor] | None = None) -> Tensor:
        """x: (B, Q, D); memory: (B, L, D); record: of the cross-attention. Returns (B, Q, D)."""
        x = x + self.self_attn(self.norm1(x))
        x = x + self.cross_attn(self.norm2(x), memory, record)
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))  # type: ignore[no-any-return]


class EdgeDecoder(nn.Module):
    """Learned queries to detections; only the last layer predicts.

    record_attention: set it to have the cross-attention of every layer in `DetectorOutput.attention`.
    """

    def __init__(self, config: EdgeDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.record_attention = False
        dim = config.hidden_dim
        self.query_embed = nn.Embedding(config.num_queries, dim)
        nn.init.uniform_(self.query_embed.weight)
        self.layers = nn.ModuleList(
            EdgeDecoderLayer(dim, config.heads, config.feedforward_dim) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, config.num_classes)
        self.bbox_head = MLP(dim, dim, 4, 3, "relu")
        for linear in [self.class_head, *self.bbox_head.layers]:
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.constant_(self.class_head.bias, prior_bias(0.01))

    def forward(
        self,
        maps: list[Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        *,
        draw: DenoisingDraw | None = None,
    ) -> DetectorOutput:
        """Detect. maps: (B, D, H, W) per level. targets, draw: not used, there are no denoising queries."""
        memory = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        x = self.query_embed.weight.expand(len(memory), -1, -1)
        record: list[Tensor] | None = [] if self.record_attention else None
        states = []
        for layer in self.layers:
            x = layer(x, memory, record)
            states.append(x)
        x = states[-1] = self.norm(x)
        final = Prediction(self.class_head(x), self.bbox_head(x).sigmoid())
        return DetectorOutput(final, features=maps, queries=states, attention=record or [])

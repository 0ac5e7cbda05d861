"""One layer of the deformable decoder, in the forms of RT-DETR, D-FINE and DEIMv2."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from training.models.deformable_attention import CellTable, DeformableAttention, HeadMaps
from training.models.layers import Activation, RMSNorm, SelfAttention, SwiGLU, activation_layer

Norm = Literal["layer", "rms"]
FeedForward = Literal["mlp", "swiglu"]


def _norm_layer(kind: Norm, dim: int) -> nn.Module:
    return nn.LayerNorm(dim) if kind == "layer" else RMSNorm(dim)


class Gateway(nn.Module):
    """Two sigmoid gates, one for what a layer had and one for what it was told (D-FINE's target gating layer)."""

    def __init__(self, dim: int, norm: Norm) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, 2 * dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        self.norm = _norm_layer(norm, dim)

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        """(B, Q, D) twice to (B, Q, D)."""
        keep, take = self.gate(torch.cat([x, update], dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(keep * x + take * update)  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, feed-forward; a norm after each.

    gateway: mix the cross-attention's result in by a `Gateway` instead of adding it and normalising. The feed-forward
    layer's parameters are `linear1`, `linear2` ("mlp") or `swish_ffn` ("swiglu"), as in the published checkpoints.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        feedforward_dim: int,
        cross_attn: DeformableAttention,
        *,
        norm: Norm,
        gateway: bool,
        feedforward: FeedForward,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads)
        self.norm1 = _norm_layer(norm, dim)
        self.cross_attn = cross_attn
        self.gateway = Gateway(dim, norm) if gateway else None
        self.norm2 = None if gateway else _norm_layer(norm, dim)
        self.swish_ffn = SwiGLU(dim, feedforward_dim // 2) if feedforward == "swiglu" else None
        if self.swish_ffn is None:
            self.linear1, self.linear2 = nn.Linear(dim, feedforward_dim), nn.Linear(feedforward_dim, dim)
            self.activation = activation_layer(activation)
            for linear in (self.linear1, self.linear2):
                nn.init.xavier_uniform_(linear.weight)
        self.norm3 = _norm_layer(norm, dim)

    def feedforward(self, x: Tensor) -> Tensor:
        """(B, Q, D) to (B, Q, D)."""
        if self.swish_ffn is not None:
            return self.swish_ffn(x)  # type: ignore[no-any-return]
        return self.linear2(self.activation(self.linear1(x)))  # type: ignore[no-any-return]

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, values: CellTable | HeadMaps, mask: Tensor | None
    ) -> Tensor:
        """Attend and transform.

        x, position: (B, Q, D). reference: (B, Q, 4) cxcywh in [0, 1]. values: see `DeformableAttention`. mask: (Q, Q)
        bool, True where the row may look at the column, or None. Returns (B, Q, D).
        """
        x = self.norm1(x + self.self_attn(x, position, mask))
        update = self.cross_attn(x + position, reference, values)
        if self.gateway is not None:
            x = self.gateway(x, update)
        else:
            assert self.norm2 is not None
            x = self.norm2(x + update)
        return self.norm3(x + self.feedforward(x))  # type: ignore[no-any-return]

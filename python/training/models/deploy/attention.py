"""Attention of fixed numbers of tokens: no shape arithmetic, the scale in the query's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.deploy.linear import linear
from training.models.edge_decoder import CrossAttention
from training.models.layers import SelfAttention


class Attend(nn.Module):
    """Multi-head attention of scaled queries."""

    def __init__(self, dim: int, heads: int, queries: int, cells: int) -> None:
        """queries, cells: how many tokens ask and answer."""
        super().__init__()
        self.dim, self.heads, self.queries, self.cells = dim, heads, queries, cells

    def _split(self, x: Tensor, tokens: int) -> Tensor:
        return x.reshape(-1, tokens, self.heads, self.dim // self.heads)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query: (B, Q, D); key, value: (B, L, D). Returns (B, Q, D)."""
        query = self._split(query, self.queries).transpose(1, 2)
        key = self._split(key, self.cells).permute(0, 2, 3, 1)
        mixed = (query @ key).softmax(-1) @ self._split(value, self.cells).transpose(1, 2)
        return mixed.transpose(1, 2).reshape(-1, self.queries, self.dim)


def scaled_projections(source: SelfAttention | CrossAttention) -> tuple[Tensor, Tensor]:
    """Weight (3 D, D) and bias (3 D,) of query, key and value in float64, the attention's scale in the query's part."""
    dim = source.out_proj.in_features
    scale = torch.ones(3 * dim, dtype=torch.float64)
    scale[:dim] = (dim // source.heads) ** -0.5
    return source.in_proj_weight.detach().double() * scale[:, None], source.in_proj_bias.detach().double() * scale


class MovingSelfAttention(nn.Module):
    """`SelfAttention` without a mask, of tokens whose positions come with them."""

    def __init__(self, source: SelfAttention, tokens: int) -> None:
        super().__init__()
        weight, bias = scaled_projections(source)
        self.dim = source.out_proj.in_features
        self.attend = Attend(self.dim, source.heads, tokens, tokens)
        split = 2 * self.dim
        self.query_key, self.value = linear(weight[:split], bias[:split]), linear(weight[split:], bias[split:])
        self.out = source.out_proj

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x, position: (B, Q, D). Returns (B, Q, D)."""
        query, key = self.query_key(x + position).split(self.dim, dim=-1)
        return self.out(self.attend(query, key, self.value(x)))  # type: ignore[no-any-return]


class FixedSelfAttention(nn.Module):
    """Self-attention of tokens whose positions never change: what they add to queries and keys is part of the bias."""

    def __init__(self, source: SelfAttention, tokens: int, position: Tensor | None = None) -> None:
        """position: (tokens, D), None where there is none."""
        super().__init__()
        weight, bias = scaled_projections(source)
        self.dim = source.out_proj.in_features
        self.attend = Attend(self.dim, source.heads, tokens, tokens)
        self.project = nn.Linear(self.dim, 3 * self.dim, bias=False)
        with torch.no_grad():
            self.project.weight.copy_(weight)
        if position is not None:
            split = 2 * self.dim
            bias = bias.expand(tokens, -1).clone()
            bias[:, :split] += position.double() @ weight[:split].T
        self.bias: Tensor
        self.register_buffer("bias", bias.float())
        self.out = source.out_proj

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, D) to (B, Q, D)."""
        query, key, value = (self.project(x) + self.bias).split(self.dim, dim=-1)
        return self.out(self.attend(query, key, value))  # type: ignore[no-any-return]

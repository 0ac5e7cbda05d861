"""The deformable decoder in eval mode for maps of fixed shapes: only what the output of its last layer in use needs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from training.models.decoder import SATURATED_LOGIT, Decoder, DirectDecoder, DistributionDecoder
from training.models.decoder_layer import DecoderLayer, Gateway
from training.models.deformable_attention import Sampling, Shape
from training.models.deploy.attention import MovingSelfAttention
from training.models.deploy.linear import linear
from training.models.deploy.memory import Memory, Selection
from training.models.deploy.sampling import deformable
from training.models.distribution import QualityEstimator

_FAR = 1e4  # a finite stand-in for the infinite logit of unusable anchors; its sigmoid is 1 too, and float16 holds it


class _Gateway(nn.Module):
    """`Gateway` with both gates applied by one product."""

    def __init__(self, source: Gateway) -> None:
        super().__init__()
        self.gate, self.norm = source.gate, source.norm
        self.dim = source.gate.in_features // 2

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        """x, update: (B, Q, D). Returns (B, Q, D)."""
        both = torch.cat([x, update], dim=-1)
        kept, taken = (self.gate(both).sigmoid() * both).split(self.dim, dim=-1)
        return self.norm(kept + taken)  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """`DecoderLayer` without a mask, its cross-attention in one of the export forms."""

    def __init__(self, source: DecoderLayer, queries: int, cross: nn.Module) -> None:
        super().__init__()
        self.self_attn = MovingSelfAttention(source.self_attn, queries)
        self.norm1 = source.norm1
        self.cross_attn = cross
        self.gateway = None if source.gateway is None else _Gateway(source.gateway)
        self.norm2 = source.norm2
        self.feedforward = source.swish_ffn or nn.Sequential(source.linear1, source.activation, source.linear2)
        self.norm3 = source.norm3

    def forward(self, x: Tensor, position: Tensor, box: Tensor, values: list[Tensor]) -> Tensor:
        """x, position: (B, Q, D); box: (B, Q, 4). Returns (B, Q, D)."""
        x = self.norm1(x + self.self_attn(x, position))
        update = self.cross_attn(x + position, box, values)
        if self.gateway is not None:
            x = self.gateway(x, update)
        else:
            assert self.norm2 is not None
            x = self.norm2(x + update)
        return self.norm3(x + self.feedforward(x))  # type: ignore[no-any-return]


class DeployedDecoder(nn.Module):
    """What both ways of refining boxes share: selection of queries, and the layers in use."""

    def __init__(self, source: Decoder, sampling: Sampling, shapes: list[Shape]) -> None:
        super().__init__()
        config = source.config
        layers: list[DecoderLayer] = list(source.layers[: config.deployed_layers])  # type: ignore[arg-type]
        self.queries = config.num_queries
        self.memory = Memory(source, layers, shapes, sampling)
        self.selection = Selection(source, shapes, _FAR)
        self.layers = nn.ModuleList()
        for index, layer in enumerate(layers):
            column, columns = (index, len(layers)) if config.value_projection else (0, 1)
            cross = deformable(layer.cross_attn, self.queries, shapes, sampling, layer=column, layers=columns)
            self.layers.append(_Layer(layer, self.queries, cross))
        self.query_pos_head = source.query_pos_head
        self.bbox_heads = source.dec_bbox_head[: len(layers)]
        self.score_head = source.dec_score_head[len(layers) - 1]


class DeployedDirectDecoder(DeployedDecoder):
    """`DirectDecoder`; boxes go from layer to layer as logits, so that nothing is inverted."""

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Encoder maps to logits (B, Q, C) and boxes (B, Q, 4)."""
        cells, values = self.memory(maps)
        x, box_logits = self.selection(cells)
        box = box_logits.sigmoid()
        for layer, head, value in zip(self.layers, self.bbox_heads, values, strict=True):
            x = layer(x, self.query_pos_head(box), box, value)
            box_logits = head(x) + box_logits.clamp(-SATURATED_LOGIT, SATURATED_LOGIT)
            box = box_logits.sigmoid()
        return self.score_head(x), box


class DeployedDistributionDecoder(DeployedDecoder):
    """`DistributionDecoder`."""

    def __init__(self, source: DistributionDecoder, sampling: Sampling, shapes: list[Shape]) -> None:
        super().__init__(source, sampling, shapes)
        config = source.config
        self.bins, self.positions = config.reg_max + 1, config.position
        self.pre_bbox_head = source.pre_bbox_head

        # From the four edges' probabilities to (dx, dy, dw, dh) in units of the reference's size: the expected distance
        # of each edge (`integral`) and the box they span (`distance_to_box`) are linear, so they are one matrix.
        edges = torch.tensor([[-0.5, 0, 1, 0], [0, -0.5, 0, 1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]])  # l, t, r, b
        moves = (source.distances[None, :, None] * edges[:, None]).reshape(4 * self.bins, 4) / abs(config.reg_scale)
        self.moves: Tensor
        self.register_buffer("moves", moves)

        # The estimator's statistics are each edge's highest probabilities and their mean, so its mean folds away.
        quality = copy.deepcopy(source.lqe_layers[len(self.layers) - 1])
        assert isinstance(quality, QualityEstimator)
        self.top = quality.top
        first = quality.reg_conf.layers[0]
        assert isinstance(first, nn.Linear)
        weight = first.weight.detach().view(-1, 4, self.top + 1)
        quality.reg_conf.layers[0] = linear((weight[..., :-1] + weight[..., -1:] / self.top).flatten(1), first.bias)
        self.quality = quality.reg_conf

    def _position(self, box: Tensor) -> Tensor:
        return self.query_pos_head(box).clamp(-10, 10)  # type: ignore[no-any-return]

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Encoder maps to logits (B, Q, C) and boxes (B, Q, 4)."""
        cells, values = self.memory(maps)
        x, box_logits = self.selection(cells)
        initial = size = box = box_logits.sigmoid()
        position = self._position(box)
        corners: Tensor | None = None
        previous: Tensor | None = None
        probabilities = box
        for index, (layer, head, value) in enumerate(zip(self.layers, self.bbox_heads, values, strict=True)):
            if index > 0 and self.positions == "layer":
                position = self._position(box)
            x = layer(x, position, box, value)
            if index == 0:
                limited = box_logits.clamp(-SATURATED_LOGIT, SATURATED_LOGIT)
                initial = (self.pre_bbox_head(x) + limited).sigmoid()
                extent = initial.split(2, dim=-1)[1]
                size = torch.cat([extent, extent], dim=-1)
            step = head(x if previous is None else x + previous)
            corners = step if corners is None else corners + step
            probabilities = corners.reshape(-1, self.queries, 4, self.bins).softmax(-1)
            box = initial + size * (probabilities.reshape(-1, self.queries, 4 * self.bins) @ self.moves)
            previous = x
        peaks = probabilities.topk(self.top, dim=-1).values.reshape(-1, self.queries, 4 * self.top)
        return self.score_head(x) + self.quality(peaks), box


def deployed_decoder(source: Decoder, sampling: Sampling, shapes: list[Shape]) -> DeployedDecoder:
    """The deployed form of a decoder for maps of fixed shapes, (height, width) from fine to coarse.

    Its norms are spelt out and its convolutions are folded already.
    """
    if isinstance(source, DistributionDecoder):
        return DeployedDistributionDecoder(source, sampling, shapes)
    assert isinstance(source, DirectDecoder)
    return DeployedDirectDecoder(source, sampling, shapes)

"""From the encoder's maps to what the decoder reads: cells to select queries from, and values to sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.models.decoder import Decoder
from training.models.decoder_layer import DecoderLayer
from training.models.deformable_attention import Sampling, Shape
from training.models.deploy.linear import linear
from training.models.deploy.operators import gather_rows


def _after(conv: nn.Conv2d | None, then: Sequence[nn.Linear]) -> nn.Linear:
    """Linear layers side by side behind a 1x1 convolution with a bias, as one linear layer."""
    weight = torch.cat([layer.weight.detach().double() for layer in then])
    bias = torch.cat([layer.bias.detach().double() for layer in then])
    if conv is None:
        return linear(weight, bias)
    assert conv.bias is not None
    return linear(weight @ conv.weight.detach().double().flatten(1), weight @ conv.bias.detach().double() + bias)


def _pointwise(source: nn.Linear) -> nn.Conv2d:
    """The 1x1 convolution that equals a linear layer."""
    conv = nn.Conv2d(source.in_features, source.out_features, 1)
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(source.weight[:, :, None, None])
        conv.bias.copy_(source.bias)
    return conv


def _join(parts: list[Tensor]) -> Tensor:
    """The cells of all levels (B, L_i, D), one level after another."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class _Levels(nn.ModuleList):
    """One layer per level."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Each map, or its cells, through the layer of its level."""
        return [layer(m) for layer, m in zip(self.children(), maps, strict=True)]


class Memory(nn.Module):
    """The maps as cells (B, L, D) for query selection, and as values for each layer's sampling.

    RT-DETR convolves the maps, and then puts a linear layer in front of query selection and one in front of each
    layer's sampling. Nothing is between them, so each pair is one linear layer per level here; those of all layers
    stand side by side in one table.
    """

    def __init__(
        self, source: Decoder, layers: Sequence[DecoderLayer], shapes: list[Shape], sampling: Sampling
    ) -> None:
        super().__init__()
        config = source.config
        self.shapes, self.heads, self.dim, self.layers = shapes, config.heads, config.hidden_dim, len(layers)
        projected = config.memory_projection
        self.merged = source.input_proj is not None and projected and config.value_projection
        self.input_proj: _Levels | None = None
        convs: list[nn.Conv2d | None] = [None]
        if source.input_proj is not None:
            if self.merged:
                convs = [projection.conv for projection in source.input_proj]  # type: ignore[misc]
            else:
                self.input_proj = _Levels(source.input_proj)
        self.channels = config.map_channels if self.merged else self.dim

        self.select: _Levels | None = None
        if projected:
            assert isinstance(source.enc_output, nn.Sequential)
            proj = source.enc_output.proj
            assert isinstance(proj, nn.Linear)
            self.select = _Levels(_after(conv, [proj]) for conv in convs)

        self.grid = sampling == "grid_sample"
        self.maps: nn.ModuleList | None = None
        self.table: _Levels | None = None
        if config.value_projection:
            own: list[nn.Linear] = [layer.cross_attn.value_proj for layer in layers]  # type: ignore[misc]
            if self.grid:
                levels = convs if self.merged else [None] * len(shapes)
                self.maps = nn.ModuleList(_Levels(_pointwise(_after(conv, [proj])) for conv in levels) for proj in own)
            else:
                self.table = _Levels(_after(conv, own) for conv in convs)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[list[Tensor]]]:
        """Maps (B, C, H, W) to the cells, and for each layer what its attention's `values` are."""
        if self.input_proj is not None:
            maps = self.input_proj(maps)
        parts = [
            m.reshape(-1, self.channels, h * w).transpose(1, 2) for m, (h, w) in zip(maps, self.shapes, strict=True)
        ]
        if not self.merged:
            parts = [torch.cat(parts, dim=1)]
        cells = _join(parts if self.select is None else self.select(parts))
        if self.grid:
            if self.maps is None:
                return cells, [self._split(maps)] * self.layers
            return cells, [self._split(project(maps)) for project in self.maps]
        columns = self.heads
        if self.table is not None:
            parts, columns = self.table(parts), self.layers * self.heads
        table = _join(parts)
        table = table.reshape(-1, sum(h * w for h, w in self.shapes) * columns, self.dim // self.heads)
        return cells, [[table]] * self.layers

    def _split(self, maps: list[Tensor]) -> list[Tensor]:
        """(B, D, H, W) per level to (B * heads, D / heads, H, W)."""
        channels = self.dim // self.heads
        return [m.reshape(-1, channels, h, w) for m, (h, w) in zip(maps, self.shapes, strict=True)]


class Selection(nn.Module):
    """The cells with the best scores, as queries.

    Scores and content of unusable cells, which the model masks, are constants.
    """

    def __init__(self, source: Decoder, shapes: list[Shape], far: float) -> None:
        """far: stands for the infinite logits of unusable anchors."""
        super().__init__()
        self.queries = source.config.num_queries
        anchors, valid = source.anchors_for(shapes, torch.device("cpu"))
        self.anchors: Tensor
        self.valid: Tensor | None
        self.register_buffer("anchors", anchors[0].clamp(max=far))
        self.register_buffer("valid", None if bool(valid.all()) else valid[0])
        self.norm: nn.Module = nn.Identity()
        if isinstance(source.enc_output, nn.Sequential):
            self.norm = source.enc_output[1]
        self.score_head, self.bbox_head = source.enc_score_head, source.enc_bbox_head
        with torch.no_grad():
            masked = source.enc_output(torch.zeros(1, source.config.hidden_dim))
            self.masked: Tensor
            self.register_buffer("masked", masked[0])
            self.masked_score = float(self.score_head(masked).max())

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (B, L, D) to content (B, Q, D) and the logits of the boxes (B, Q, 4)."""
        cells = self.norm(cells)
        scores = self.score_head(cells).amax(-1)
        if self.valid is not None:
            scores = torch.where(self.valid[:, 0], scores, self.masked_score)
        best = scores.topk(self.queries, dim=-1).indices
        content = gather_rows(cells, best)
        if self.valid is not None:
            content = torch.where(self.valid[best], content, self.masked)
        return content, self.bbox_head(content) + self.anchors[best]

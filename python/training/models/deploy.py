"""A trained detector as a plain function of images: the same numbers with fewer and simpler operations.

Batch norms and the affine blocks become convolution weights and a clip, parallel branches one convolution, and the
decoder keeps only what the last layer's output needs. Every shape but the batch is fixed, so that an exporter writes a
graph without shape arithmetic.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.models.decoder import SATURATED_LOGIT, Decoder, DecoderLayer, QualityEstimator
from training.models.deformable_attention import DeformableAttention, Sampling, Shape
from training.models.detector import Detector
from training.models.layers import ConvNorm, LearnableAffine
from training.models.lite_encoder import RepBlock

_FAR = 1e4  # a finite stand-in for the infinite logit of unusable anchors; its sigmoid is 1 too, and float16 holds it


class Deployed(nn.Module):
    """What is exported. In eval mode, for one input size, any batch."""

    def __init__(self, model: Detector, *, sampling: Sampling, input_size: tuple[int, int]) -> None:
        super().__init__()
        model = copy.deepcopy(model).float().cpu().eval()
        fold_norms(model)
        self.backbone = model.backbone
        self.encoder = model.encoder
        self.decoder = _DeployedDecoder(model.decoder, sampling, input_size)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) to logits (B, Q, C) and boxes (B, Q, 4) cxcywh in [0, 1] of the input."""
        return self.decoder(self.encoder(self.backbone(images)).maps)  # type: ignore[no-any-return]


def deploy(model: Detector, *, sampling: Sampling = "gather", input_size: tuple[int, int] | None = None) -> Deployed:
    """The deployed form of a model, on the CPU in float32; the model stays as it is.

    sampling: how deformable attention reads its maps. input_size: (height, width), the model's own if not given.
    """
    return Deployed(model, sampling=sampling, input_size=input_size or model.config.input_size)


def fold_norms(model: nn.Module) -> None:
    """Folds every ConvNorm, and every pair of parallel ones, into one convolution each. In place, for eval mode."""
    for module in model.modules():
        if isinstance(module, RepBlock) and module.conv2 is not None:
            wide, narrow = _folded(module.conv1), _folded(module.conv2)
            assert wide.bias is not None
            assert narrow.bias is not None
            with torch.no_grad():
                wide.weight += F.pad(narrow.weight, (1, 1, 1, 1))
                wide.bias += narrow.bias
            module.conv1.conv, module.conv1.norm, module.conv2 = wide, nn.Identity(), None
    for module in model.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            conv = _folded(module)
            if module.lab is not None:
                module.act = _fold_affine(conv, module.lab)
            module.conv, module.norm, module.lab = conv, nn.Identity(), None


def _folded(module: ConvNorm) -> nn.Conv2d:
    """The convolution that equals a convolution and a batch norm in eval mode."""
    conv, norm = module.conv, module.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    # In double precision: the result is rounded once.
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        groups=conv.groups,
    )
    assert folded.bias is not None
    with torch.no_grad():
        folded.weight.copy_(conv.weight.double() * gain.view(-1, 1, 1, 1))
        folded.bias.copy_(norm.bias.double() - norm.running_mean.double() * gain)
    return folded


class _Clip(nn.Module):
    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


def _fold_affine(conv: nn.Conv2d, lab: LearnableAffine) -> _Clip:
    """Moves scale and shift in front of the ReLU: s relu(z) + b is max(s z + b, b) for s > 0, min(...) otherwise."""
    scale, shift = float(lab.scale.detach()), float(lab.bias.detach())
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight *= scale
        conv.bias.mul_(scale).add_(shift)
    return _Clip(shift, None) if scale > 0 else _Clip(None, shift)


class _GatherRows(torch.autograd.Function):
    """Rows of a table by index, each batch element from its own table: one ONNX GatherND."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        """Table (B, N, D), index (B, M) to (B, M, D)."""
        return table.gather(1, index.unsqueeze(-1).expand(-1, -1, table.shape[-1]))

    @staticmethod
    def symbolic(g: Any, table: Any, index: Any) -> Any:
        axis = g.op("Constant", value_t=torch.tensor([2]))
        return g.op("GatherND", table, g.op("Unsqueeze", index, axis), batch_dims_i=1)


def _gather_rows(table: Tensor, index: Tensor) -> Tensor:
    return _GatherRows.apply(table, index)  # type: ignore[no-any-return, no-untyped-call]


def _rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Spelt out in the form that inference engines recognise and fuse."""
    return x * (1.0 / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()) * scale


class _DeployedCrossAttention(nn.Module):
    """`DeformableAttention` with one linear layer for offsets and weights, and constants folded into it.

    In the shapes below P counts the points of a head over all levels, and R = heads * P.
    """

    def __init__(self, source: DeformableAttention, queries: int, shapes: list[Shape], sampling: Sampling) -> None:
        super().__init__()
        self.queries, self.heads, self.points, self.shapes = queries, source.heads, source.points, shapes
        self.total = sum(source.points)
        self.rays = self.heads * self.total
        self.dim = source.sampling_offsets.in_features
        self.sampling = sampling
        if sampling == "gather" and any(side < 2 for shape in shapes for side in shape):
            raise InvalidInputError(
                f"sampling: expected maps of at least 2x2 cells for 'gather', got {shapes}; use 'grid_sample' or a "
                "larger input"
            )
        offsets, weights = source.sampling_offsets, source.attention_weights
        sizes = torch.tensor([(w, h) for (h, w), n in zip(shapes, source.points, strict=True) for _ in range(n)])
        sizes = sizes.float().t().repeat(1, self.heads)  # (2, R): width and height of each ray's level
        # Offsets arrive in units of the box: times 1 / points of the level, times one half. Here they leave in cells of
        # the level, or for the framework's operator in its units of half a map; first all x, then all y.
        unit = 0.5 * source.num_points_scale.repeat(self.heads)
        cells = torch.full_like(sizes, 2.0) if sampling == "grid_sample" else sizes
        gain = (unit * cells).reshape(-1, 1)
        order = torch.arange(2 * self.rays).view(self.rays, 2).t().flatten()
        self.project = nn.Linear(self.dim, 3 * self.rays)
        with torch.no_grad():
            self.project.weight.copy_(torch.cat([offsets.weight[order] * gain, weights.weight]))
            self.project.bias.copy_(torch.cat([offsets.bias[order] * gain.flatten(), weights.bias]))
        starts = torch.tensor([sum(h * w for h, w in shapes[:i]) for i in range(len(shapes))])
        starts = starts.repeat_interleave(torch.tensor(source.points)).repeat(self.heads)
        head = torch.arange(self.heads).repeat_interleave(self.total)
        # The row of cell (x, y) of a level in the (L * heads, channels) table is strides . (x, y) + first.
        self.cells: Tensor
        self.last: Tensor
        self.strides: Tensor
        self.first: Tensor
        self.corner: Tensor
        self.steps: Tensor
        self.register_buffer("cells", cells)
        self.register_buffer("last", sizes - (2 if sampling == "gather" else 1))
        self.register_buffer("strides", torch.stack([torch.ones_like(sizes[0]), sizes[0]]) * self.heads)
        self.register_buffer("first", (starts * self.heads + head).float())
        self.register_buffer("corner", torch.tensor([0.0, 1.0]))
        steps = self.strides[0, :, None] * torch.tensor([0.0, 1.0, 0.0, 1.0])
        steps = steps + self.strides[1, :, None] * torch.tensor([0.0, 0.0, 1.0, 1.0])
        self.register_buffer("steps", self.first[:, None] + steps)  # (R, 4): the four cells around a location

    def forward(self, x: Tensor, box: Tensor, maps: list[Tensor], memory: Tensor) -> Tensor:
        """x: (B, Q, D). box: (B, Q, 4), cxcywh. Returns (B, Q, D)."""
        offsets, weights = self.project(x).split([2 * self.rays, self.rays], dim=-1)
        centre, size = box.reshape(-1, self.queries, 4, 1).split(2, dim=2)
        offsets = offsets.reshape(-1, self.queries, 2, self.rays) * size
        weights = weights.reshape(-1, self.queries, self.heads, self.total).softmax(-1)
        if self.sampling == "grid_sample":
            return self._grid_sample(offsets + (centre * 2 - 1), weights, maps)
        if self.sampling == "gather":
            return self._gather(offsets + (centre * self.cells - 0.5), weights, memory)
        # As RT-DETRv2 defines it (its sampling option "discrete"), which is half a cell off the nearest cell's centre.
        cell = (offsets + (centre * self.cells + 0.5)).floor().clamp(min=0).minimum(self.last)
        return self._mix((cell * self.strides).sum(2) + self.first, weights, self.total, memory)

    def _grid_sample(self, grid: Tensor, weights: Tensor, maps: list[Tensor]) -> Tensor:
        grid = grid.reshape(-1, self.queries, 2, self.heads, self.total).permute(0, 3, 1, 4, 2)
        grid = grid.reshape(-1, self.queries, self.total, 2)
        weights = weights.transpose(1, 2).reshape(-1, 1, self.queries, self.total)
        channels = self.dim // self.heads
        sampled = [
            F.grid_sample(m.reshape(-1, channels, h, w), g, mode="bilinear", padding_mode="zeros", align_corners=False)
            for m, (h, w), g in zip(maps, self.shapes, grid.split(self.points, dim=2), strict=True)
        ]
        out = (torch.cat(sampled, dim=-1) * weights).sum(-1)
        return out.reshape(-1, self.dim, self.queries).transpose(1, 2)

    def _gather(self, location: Tensor, weights: Tensor, memory: Tensor) -> Tensor:
        """location: (B, Q, 2, R) in cells, whole numbers at cell centres; weights: (B, Q, H, P).

        The share of a cell is max(0, 1 - distance) along each axis. Taken around a 2x2 block that is kept inside the
        map, this is bilinear interpolation with zeros outside, without a mask.
        """
        low = location.floor().clamp(min=0).minimum(self.last)
        rows = (low * self.strides).sum(2).unsqueeze(-1) + self.steps
        share = (1 - ((location - low).unsqueeze(-1) - self.corner).abs()).relu()  # (B, Q, 2, R, 2)
        share_x, share_y = share.split(1, dim=2)
        share = share_x.reshape(-1, self.queries, self.rays, 1, 2) * share_y.reshape(-1, self.queries, self.rays, 2, 1)
        mixed = share.reshape(-1, self.queries, self.rays, 4) * weights.reshape(-1, self.queries, self.rays, 1)
        return self._mix(rows, mixed, 4 * self.total, memory)

    def _mix(self, rows: Tensor, weights: Tensor, count: int, memory: Tensor) -> Tensor:
        """Weighted sums of `count` rows of memory per query and head; rows are whole numbers. Returns (B, Q, D).

        Rows come as floats: exact below 2**24, and one conversion instead of integer arithmetic.
        """
        channels = self.dim // self.heads
        cells = sum(h * w for h, w in self.shapes)
        index = rows.reshape(-1, self.queries * self.heads * count).to(torch.int64)
        values = _gather_rows(memory.reshape(-1, cells * self.heads, channels), index)
        values = values.reshape(-1, self.queries, self.heads, count, channels)
        mixed = weights.reshape(-1, self.queries, self.heads, 1, count) @ values
        return mixed.reshape(-1, self.queries, self.dim)


class _DeployedLayer(nn.Module):
    """`DecoderLayer` with fixed shapes; the attention's scale is folded into its query weights."""

    def __init__(self, source: DecoderLayer, cross: _DeployedCrossAttention) -> None:
        super().__init__()
        attention = source.self_attn
        dim = attention.out_proj.in_features
        self.heads, self.dim, self.queries = attention.heads, dim, cross.queries
        scale = (dim // attention.heads) ** -0.5
        weight, bias = attention.in_proj_weight.detach().clone(), attention.in_proj_bias.detach().clone()
        weight[:dim] *= scale
        bias[:dim] *= scale
        self.query_key, self.value = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        with torch.no_grad():
            self.query_key.weight.copy_(weight[: 2 * dim])
            self.query_key.bias.copy_(bias[: 2 * dim])
            self.value.weight.copy_(weight[2 * dim :])
            self.value.bias.copy_(bias[2 * dim :])
        self.out = attention.out_proj
        self.cross = cross
        self.ffn = source.swish_ffn
        self.norms = nn.ModuleList([source.norm1, source.norm2, source.norm3])

    def _norm(self, index: int, x: Tensor) -> Tensor:
        norm = self.norms[index]
        return _rms_norm(x, norm.scale, norm.eps)  # type: ignore[arg-type]

    def _split_heads(self, x: Tensor, *order: int) -> Tensor:
        return x.reshape(-1, self.queries, self.heads, self.dim // self.heads).permute(*order)

    def forward(self, x: Tensor, position: Tensor, box: Tensor, maps: list[Tensor], memory: Tensor) -> Tensor:
        """x, position: (B, Q, D); box: (B, Q, 4). Returns (B, Q, D)."""
        query, key = self.query_key(x + position).split(self.dim, dim=-1)
        query, key = self._split_heads(query, 0, 2, 1, 3), self._split_heads(key, 0, 2, 3, 1)
        value = self._split_heads(self.value(x), 0, 2, 1, 3)
        mixed = (query @ key).softmax(-1) @ value
        x = self._norm(0, x + self.out(mixed.transpose(1, 2).reshape(-1, self.queries, self.dim)))
        x = self._norm(1, x + self.cross(x + position, box, maps, memory))
        return self._norm(2, x + self.ffn(x))


class _DeployedDecoder(nn.Module):
    """`Decoder` in eval mode for one input size."""

    def __init__(self, source: Decoder, sampling: Sampling, input_size: tuple[int, int]) -> None:
        super().__init__()
        config = source.config
        self.dim, self.queries, self.bins = config.hidden_dim, config.num_queries, config.reg_max + 1
        self.shapes = [(input_size[0] // s, input_size[1] // s) for s in config.strides]
        anchors, valid = source.anchors_for(self.shapes, torch.device("cpu"))
        self.anchors: Tensor
        self.valid: Tensor | None
        self.moves: Tensor
        self.register_buffer("anchors", anchors[0].clamp(max=_FAR))
        self.register_buffer("valid", None if bool(valid.all()) else valid.float())
        self.layers = nn.ModuleList()
        for layer in source.layers:
            assert isinstance(layer, DecoderLayer)
            cross = _DeployedCrossAttention(layer.cross_attn, self.queries, self.shapes, sampling)
            self.layers.append(_DeployedLayer(layer, cross))
        self.enc_score_head, self.enc_bbox_head = source.enc_score_head, source.enc_bbox_head
        self.query_pos_head, self.pre_bbox_head = source.query_pos_head, source.pre_bbox_head
        self.bbox_heads, self.score_head = source.dec_bbox_head, source.dec_score_head[-1]

        # From the four edges' probabilities to (dx, dy, dw, dh) in units of the reference's size: the expected distance
        # of each edge (`integral`) and the box they span (`distance_to_box`) are linear, so they are one matrix.
        edges = torch.tensor([[-0.5, 0, 1, 0], [0, -0.5, 0, 1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]])  # l, t, r, b
        moves = (source.distances[None, :, None] * edges[:, None]).reshape(4 * self.bins, 4) / abs(config.reg_scale)
        self.register_buffer("moves", moves)

        # The estimator's statistics are each edge's highest probabilities and their mean, so its mean folds away.
        quality = copy.deepcopy(source.lqe_layers[-1])
        assert isinstance(quality, QualityEstimator)
        self.top = quality.top
        first = quality.reg_conf.layers[0]
        assert isinstance(first, nn.Linear)
        weight = first.weight.detach().view(-1, 4, self.top + 1)
        folded = nn.Linear(4 * self.top, first.out_features)
        with torch.no_grad():
            folded.weight.copy_((weight[..., :-1] + weight[..., -1:] / self.top).flatten(1))
            folded.bias.copy_(first.bias)
        quality.reg_conf.layers[0] = folded
        self.quality = quality.reg_conf

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Encoder maps to logits (B, Q, C) and boxes (B, Q, 4)."""
        memory = torch.cat(
            [m.reshape(-1, self.dim, h * w) for m, (h, w) in zip(maps, self.shapes, strict=True)], dim=2
        ).transpose(1, 2)
        usable = memory if self.valid is None else memory * self.valid
        best = self.enc_score_head(usable).amax(-1).topk(self.queries, dim=-1).indices
        x = _gather_rows(usable, best)
        box_logits = self.enc_bbox_head(x) + self.anchors[best]
        box = box_logits.sigmoid()
        position = self.query_pos_head(box).clamp(-10, 10)
        initial = size = box
        corners: Tensor | None = None
        previous: Tensor | None = None
        probabilities = box
        for index, layer in enumerate(self.layers):
            x = layer(x, position, box, maps, memory)
            if index == 0:
                limited = box_logits.clamp(-SATURATED_LOGIT, SATURATED_LOGIT)
                initial = (self.pre_bbox_head(x) + limited).sigmoid()
                extent = initial.split(2, dim=-1)[1]
                size = torch.cat([extent, extent], dim=-1)
            step = self.bbox_heads[index](x if previous is None else x + previous)
            corners = step if corners is None else corners + step
            probabilities = corners.reshape(-1, self.queries, 4, self.bins).softmax(-1)
            box = initial + size * (probabilities.reshape(-1, self.queries, 4 * self.bins) @ self.moves)
            previous = x
        peaks = probabilities.topk(self.top, dim=-1).values.reshape(-1, self.queries, 4 * self.top)
        return self.score_head(x) + self.quality(peaks), box

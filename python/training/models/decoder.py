"""The DEIMv2 decoder: query selection, deformable layers, boxes refined as distributions, location quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.boxes import weighting_function
from training.models.deformable_attention import DeformableAttention, Shape
from training.models.denoising import make_denoising_queries
from training.models.distribution import distance_to_box, integral
from training.models.layers import MLP, Activation, RMSNorm, SelfAttention, SwiGLU, prior_bias
from training.models.outputs import DenoisingMeta, DetectorOutput, Prediction

SATURATED_LOGIT = 11.5129155  # log((1 - 1e-5) / 1e-5): where the published code's inverse sigmoid saturates.


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What the decoder is made of.

    strides: of the encoder's maps. points: sampling points per map and head. reg_max: edge-distance bins minus one.
    reg_scale, up: shape of the weighting function (see `boxes`). share_bbox_head: one box head for all layers.
    denoising: number of denoising queries aimed at per image (0 switches them off), and their noise.
    """

    num_classes: int
    hidden_dim: int
    feedforward_dim: int
    num_queries: int
    strides: tuple[int, ...] = (16, 32)
    points: tuple[int, ...] = (4, 2)
    heads: int = 8
    num_layers: int = 3
    reg_max: int = 32
    reg_scale: float = 4.0
    up: float = 0.5
    activation: Activation = "silu"
    share_bbox_head: bool = True
    denoising: int = 100
    label_noise_ratio: float = 0.5
    box_noise_scale: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("num_classes", "hidden_dim", "num_queries", "num_layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_dim % self.heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be a multiple of heads {self.heads}")
        if len(self.strides) != len(self.points):
            raise ValueError(f"strides and points must be given per level, got {self.strides} and {self.points}")
        if self.reg_max < 4 or self.reg_max % 2:
            raise ValueError(f"reg_max must be even and at least 4, got {self.reg_max}")
        if self.denoising < 0:
            raise ValueError(f"denoising must not be negative, got {self.denoising}")


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, gated feed-forward; RMS normalisation after each."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = SelfAttention(dim, config.heads)
        self.norm1 = RMSNorm(dim)
        self.cross_attn = DeformableAttention(dim, config.heads, config.points)
        self.norm2 = RMSNorm(dim)
        self.swish_ffn = SwiGLU(dim, config.feedforward_dim // 2)
        self.norm3 = RMSNorm(dim)

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, value: Tensor, shapes: list[Shape], mask: Tensor | None
    ) -> Tensor:
        """x, position: (B, Q, D); reference: (B, Q, 4); value: (B, L, D); mask: (Q, Q), True is visible."""
        x = self.norm1(x + self.self_attn(x, position, mask))
        x = self.norm2(x + self.cross_attn(x + position, reference, value, shapes))
        return self.norm3(x + self.swish_ffn(x))  # type: ignore[no-any-return]


class QualityEstimator(nn.Module):
    """Corrects class logits by how peaked the edge distributions are (D-FINE's location quality estimator)."""

    def __init__(self, bins: int, activation: Activation, top: int = 4, hidden_dim: int = 64) -> None:
        super().__init__()
        self.bins, self.top = bins, top
        self.reg_conf = MLP(4 * (top + 1), hidden_dim, 1, 2, activation)
        self.reg_conf.zero_last()

    def forward(self, logits: Tensor, corners: Tensor) -> Tensor:
        """logits: (B, Q, C); corners: (B, Q, 4 * bins). Returns (B, Q, C)."""
        peaks = corners.unflatten(-1, (4, self.bins)).softmax(dim=-1).topk(self.top, dim=-1).values
        statistics = torch.cat([peaks, peaks.mean(dim=-1, keepdim=True)], dim=-1)
        return logits + self.reg_conf(statistics.flatten(2))  # type: ignore[no-any-return]


def make_anchors(shapes: Sequence[Shape], *, cell: float = 0.05, eps: float = 1e-2) -> tuple[Tensor, Tensor]:
    """One box per cell of every level, as logits, and which of them are usable.

    shapes: (H, W) per level; boxes of level l have size cell * 2**l. A box with a coordinate nearer than eps to 0 or 1
    is not usable and its logits are infinite.

    Returns anchors (1, L, 4) float32 and valid (1, L, 1) bool.
    """
    levels = []
    for level, (height, width) in enumerate(shapes):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centre = (torch.stack([x, y], dim=-1) + 0.5) / torch.tensor([width, height], dtype=torch.float32)
        size = torch.full_like(centre, cell * 2.0**level)
        levels.append(torch.cat([centre, size], dim=-1).view(1, height * width, 4))
    boxes = torch.cat(levels, dim=1)
    valid = ((boxes > eps) & (boxes < 1 - eps)).all(-1, keepdim=True)
    return torch.where(valid, torch.log(boxes / (1 - boxes)), torch.inf), valid


class Decoder(nn.Module):
    """From encoder maps to detections.

    input_size: (height, width) the stored anchors are for; another size works and has its anchors made on the spot.
    """

    def __init__(self, config: DecoderConfig, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        dim, act, classes, bins = config.hidden_dim, config.activation, config.num_classes, config.reg_max + 1
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.lqe_layers = nn.ModuleList(QualityEstimator(bins, act) for _ in range(config.num_layers))
        self.register_buffer("up", torch.tensor([config.up]))
        self.register_buffer("reg_scale", torch.tensor([config.reg_scale]))
        weights = weighting_function(config.reg_max, config.up, config.reg_scale)
        self.register_buffer("distances", weights, persistent=False)
        self.distances: Tensor

        if config.denoising:
            self.denoising_class_embed = nn.Embedding(classes + 1, dim, padding_idx=classes)
        self.enc_score_head = nn.Linear(dim, classes)
        self.enc_bbox_head = MLP(dim, dim, 4, 3, act)
        self.query_pos_head = MLP(4, dim, dim, 3, act)
        self.pre_bbox_head = MLP(dim, dim, 4, 3, act)
        self.dec_score_head = nn.ModuleList(nn.Linear(dim, classes) for _ in range(config.num_layers))
        shared = MLP(dim, dim, 4 * bins, 3, act)
        self.dec_bbox_head = nn.ModuleList(
            shared if config.share_bbox_head else MLP(dim, dim, 4 * bins, 3, act) for _ in range(config.num_layers)
        )
        anchors, valid = make_anchors([(input_size[0] // s, input_size[1] // s) for s in config.strides])
        self.register_buffer("anchors", anchors)
        self.register_buffer("valid_mask", valid)
        self.anchors: Tensor
        self.valid_mask: Tensor
        self._anchor_shapes = [(input_size[0] // s, input_size[1] // s) for s in config.strides]
        self._initialise()

    def _initialise(self) -> None:
        for head in [self.enc_score_head, *self.dec_score_head]:
            nn.init.constant_(head.bias, prior_bias(0.01))
        for mlp in [self.enc_bbox_head, self.pre_bbox_head, *self.dec_bbox_head]:
            mlp.zero_last()
        for layer in self.query_pos_head.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)

    def anchors_for(self, shapes: list[Shape], device: torch.device) -> tuple[Tensor, Tensor]:
        """The stored anchors if the maps' (height, width) are those of the configured input size, else new ones."""
        if shapes == self._anchor_shapes:
            return self.anchors, self.valid_mask
        anchors, valid = make_anchors(shapes)
        return anchors.to(device), valid.to(device)

    def _select_queries(self, memory: Tensor, shapes: list[Shape]) -> tuple[Tensor, Prediction]:
        """The best cells as queries: content (B, Q, D), and their logits and box logits."""
        anchors, valid = self.anchors_for(shapes, memory.device)
        memory = memory * valid
        logits = self.enc_score_head(memory)
        index = logits.amax(-1).topk(self.config.num_queries, dim=-1).indices.unsqueeze(-1)
        content = memory.gather(1, index.expand(-1, -1, memory.shape[-1]))
        logits = logits.gather(1, index.expand(-1, -1, logits.shape[-1])) if self.training else logits
        box = self.enc_bbox_head(content) + anchors.expand(len(memory), -1, -1).gather(1, index.expand(-1, -1, 4))
        return content, Prediction(logits, box)

    def forward(self, maps: list[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> DetectorOutput:
        """Detect.

        maps: (B, D, H, W) per level. targets: per image `labels` (n,) int64 and `boxes` (n, 4) float32 cxcywh in
        [0, 1]; used in training mode, for denoising queries.
        """
        shapes = [(int(m.shape[-2]), int(m.shape[-1])) for m in maps]
        memory = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        content, selected = self._select_queries(memory, shapes)
        x, box_logits = content.detach(), selected.boxes.detach()

        mask: Tensor | None = None
        meta: DenoisingMeta | None = None
        if self.training and self.config.denoising and targets is not None:
            made = make_denoising_queries(
                targets,
                num_classes=self.config.num_classes,
                num_queries=self.config.num_queries,
                class_embedding=self.denoising_class_embed,
                num_denoising=self.config.denoising,
                label_noise_ratio=self.config.label_noise_ratio,
                box_noise_scale=self.config.box_noise_scale,
            )
            if made is not None:
                noisy, noisy_boxes, hidden, meta = made
                x = torch.cat([noisy, x], dim=1)
                box_logits = torch.cat([noisy_boxes, box_logits], dim=1)
                mask = ~hidden

        predictions, pre, states = self._decode(x, box_logits, memory, shapes, mask)
        if pre is None:
            return DetectorOutput(predictions[-1], features=maps, queries=states)

        split = 0 if meta is None else meta.queries
        denoised = [_rows(p, slice(None, split)) for p in predictions] if meta is not None else []
        matched = [_rows(p, slice(split, None)) for p in predictions]
        return DetectorOutput(
            final=matched[-1],
            auxiliary=matched[:-1],
            encoder=Prediction(selected.logits, selected.boxes.sigmoid()),
            pre=_rows(pre, slice(split, None)),
            denoising=denoised,
            denoising_pre=_rows(pre, slice(None, split)) if meta is not None else None,
            denoising_meta=meta,
            features=maps,
            queries=[state[:, split:] for state in states],
        )

    def _decode(
        self, x: Tensor, box_logits: Tensor, memory: Tensor, shapes: list[Shape], mask: Tensor | None
    ) -> tuple[list[Prediction], Prediction | None, list[Tensor]]:
        """All layers: their predictions, the first layer's plain box head, the states.

        In eval mode only the last layer's prediction is made, and not the second item.
        """
        reference = box_logits.sigmoid()
        position = self.query_pos_head(reference).clamp(-10, 10)
        initial = reference
        previous: Tensor | None = None
        corners: Tensor | None = None
        predictions: list[Prediction] = []
        states: list[Tensor] = []
        pre: Prediction | None = None
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            x = layer(x, position, reference, memory, shapes, mask)
            states.append(x)
            logits = self.dec_score_head[index](x) if self.training or last else None
            if index == 0:
                boxes = (self.pre_bbox_head(x) + box_logits.clamp(-SATURATED_LOGIT, SATURATED_LOGIT)).sigmoid()
                initial = boxes.detach()
                pre = Prediction(logits, boxes) if self.training and logits is not None else None
            step = self.dec_bbox_head[index](x if previous is None else x + previous)
            corners = step if corners is None else corners + step
            boxes = distance_to_box(initial, integral(corners, self.distances), self.config.reg_scale)
            if logits is not None:
                logits = self.lqe_layers[index](logits, corners)
                predictions.append(Prediction(logits, boxes, corners, initial))
            reference, previous = boxes.detach(), x.detach()
        return predictions, pre, states


def _rows(prediction: Prediction, rows: slice) -> Prediction:
    corners, reference = prediction.corners, prediction.reference
    return Prediction(
        prediction.logits[:, rows],
        prediction.boxes[:, rows],
        None if corners is None else corners[:, rows],
        None if reference is None else reference[:, rows],
    )

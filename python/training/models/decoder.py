"""The deformable decoder of the RT-DETR lineage: query selection, layers, and boxes refined from layer to layer.

One configuration covers RT-DETR (Zhao et al. 2023), RT-DETRv2 (Lv et al. 2024), D-FINE (Peng et al. 2024), DEIM (Huang
et al. 2024), RT-DETRv4 and DEIMv2 (Huang et al. 2025). What differs most is how boxes are refined, and there is one
class for each way: `DirectDecoder` and `DistributionDecoder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from training.boxes import weighting_function
from training.models.anchors import make_anchors
from training.models.decoder_layer import DecoderLayer, FeedForward, Norm
from training.models.deformable_attention import CellTable, DeformableAttention, HeadMaps, Shape, TrainedSampling
from training.models.denoising import DenoisingDraw, make_denoising_queries
from training.models.distribution import QualityEstimator, distance_to_box, integral
from training.models.layers import MLP, Activation, ConvNorm, prior_bias
from training.models.outputs import DenoisingMeta, DetectorOutput, Prediction

SATURATED_LOGIT = 11.5129155  # log((1 - 1e-5) / 1e-5): where the published code's inverse sigmoid saturates.


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What the decoder is made of. The defaults are those of DEIMv2's smallest models.

    in_channels: width of the encoder's maps, which a convolution brings to hidden_dim; None where they have it already
        and go in as they are. strides: of these maps. points: sampling points per map and head.
    eval_layers: how many layers are used outside of training; None for all.
    refinement: "direct": each layer adds to the logits of the boxes (RT-DETR). "distribution": each layer adds to the
        distributions of the edges around the first layer's boxes (D-FINE).
    position: what the queries know of where they are. "layer": made anew from each layer's boxes. "once": made from
        the selected boxes, for all layers (DEIMv2).
    memory_projection: a linear layer and a norm in front of query selection. value_projection: linear layers around
        the cross-attention's sampling. norm, gateway, feedforward: see `DecoderLayer`.
    activation: in heads and in feed-forward layers of the kind "mlp". share_bbox_head: one box head for all layers.
    reg_max: edge-distance bins minus one; reg_scale, up: shape of the weighting function (see `boxes`); these three
        for distributions only.
    denoising: number of denoising queries aimed at per image (0 switches them off), and their noise.
    """

    num_classes: int
    hidden_dim: int
    feedforward_dim: int
    num_queries: int
    in_channels: int | None = None
    strides: tuple[int, ...] = (16, 32)
    points: tuple[int, ...] = (4, 2)
    heads: int = 8
    num_layers: int = 3
    eval_layers: int | None = None
    refinement: Literal["direct", "distribution"] = "distribution"
    position: Literal["layer", "once"] = "once"
    memory_projection: bool = False
    value_projection: bool = False
    sampling: TrainedSampling = "bilinear"
    norm: Norm = "rms"
    gateway: bool = False
    feedforward: FeedForward = "swiglu"
    activation: Activation = "silu"
    share_bbox_head: bool = True
    reg_max: int = 32
    reg_scale: float = 4.0
    up: float = 0.5
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
        if self.eval_layers is not None and not 1 <= self.eval_layers <= self.num_layers:
            raise ValueError(f"eval_layers must be in [1, {self.num_layers}] or None, got {self.eval_layers}")
        if self.reg_max < 4 or self.reg_max % 2:
            raise ValueError(f"reg_max must be even and at least 4, got {self.reg_max}")
        if self.denoising < 0:
            raise ValueError(f"denoising must not be negative, got {self.denoising}")

    @property
    def map_channels(self) -> int:
        """Width of the maps that come in."""
        return self.in_channels or self.hidden_dim

    @property
    def deployed_layers(self) -> int:
        """How many layers are used outside of training."""
        return self.eval_layers or self.num_layers


class _Queries(NamedTuple):
    """What goes into the first layer: content (B, Q, D), logits of the boxes (B, Q, 4), and what may see what."""

    content: Tensor
    box_logits: Tensor
    mask: Tensor | None = None


class _Decoded(NamedTuple):
    """What the layers made: in training mode every layer's prediction, else the last one's; D-FINE's plain boxes."""

    predictions: list[Prediction]
    states: list[Tensor]
    pre: Prediction | None = None


class Decoder(nn.Module, ABC):
    """From encoder maps to detections; how boxes are refined is up to the subclass (see `build_decoder`).

    input_size: (height, width) the stored anchors are for. Another size works too: its anchors are made when they are
    first needed.
    """

    def __init__(self, config: DecoderConfig, input_size: tuple[int, int], box_outputs: int) -> None:
        """box_outputs: what the box heads of the layers give."""
        super().__init__()
        self.config = config
        dim, act, classes, layers = config.hidden_dim, config.activation, config.num_classes, config.num_layers
        self.input_proj: nn.ModuleList | None = None
        if config.in_channels is not None:
            self.input_proj = nn.ModuleList(ConvNorm(config.in_channels, dim, 1) for _ in config.strides)
        self.layers = nn.ModuleList(_layer(config) for _ in range(layers))

        if config.denoising:
            self.denoising_class_embed = nn.Embedding(classes + 1, dim, padding_idx=classes)
        self.enc_output: nn.Module = nn.Identity()
        if config.memory_projection:
            self.enc_output = nn.Sequential(OrderedDict(proj=nn.Linear(dim, dim), norm=nn.LayerNorm(dim)))
        self.enc_score_head = nn.Linear(dim, classes)
        self.enc_bbox_head = MLP(dim, dim, 4, 3, act)
        self.query_pos_head = MLP(4, 2 * dim, dim, 2, act) if config.position == "layer" else MLP(4, dim, dim, 3, act)
        self.dec_score_head = nn.ModuleList(nn.Linear(dim, classes) for _ in range(layers))
        shared = MLP(dim, dim, box_outputs, 3, act)
        self.dec_bbox_head = nn.ModuleList(
            shared if config.share_bbox_head else MLP(dim, dim, box_outputs, 3, act) for _ in range(layers)
        )

        self._anchor_shapes = [(input_size[0] // s, input_size[1] // s) for s in config.strides]
        self._other_anchors: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        anchors, valid = make_anchors(self._anchor_shapes)
        self.register_buffer("anchors", anchors)
        self.register_buffer("valid_mask", valid)
        self.anchors: Tensor
        self.valid_mask: Tensor
        self._initialise()

    def _initialise(self) -> None:
        for head in [self.enc_score_head, *self.dec_score_head]:
            nn.init.constant_(head.bias, prior_bias(0.01))
        for mlp in [self.enc_bbox_head, *self.dec_bbox_head]:
            mlp.zero_last()
        linears = [*self.query_pos_head.layers, *(m for m in self.enc_output.modules() if isinstance(m, nn.Linear))]
        for linear in [*linears, *(projection.conv for projection in self.input_proj or ())]:
            nn.init.xavier_uniform_(linear.weight)

    def anchors_for(self, shapes: list[Shape], device: torch.device) -> tuple[Tensor, Tensor]:
        """The anchors of maps of these (height, width), see `make_anchors`; made once per size and device."""
        if shapes == self._anchor_shapes:
            return self.anchors, self.valid_mask
        key = (*shapes, device)
        if key not in self._other_anchors:
            with torch.inference_mode(mode=False):  # or training could not use what an evaluation has made
                anchors, valid = make_anchors(shapes)
                self._other_anchors[key] = anchors.to(device), valid.to(device)
        return self._other_anchors[key]

    def _select_queries(self, memory: Tensor, shapes: list[Shape]) -> tuple[Tensor, Tensor]:
        """The best cells: their content (B, Q, D) and the logits of their boxes (B, Q, 4)."""
        anchors, valid = self.anchors_for(shapes, memory.device)
        # Only chosen cells learn, so the scores of all cells leave nothing to go back through. Weights that autocast
        # converts here must not be kept for later, when they need a gradient.
        kind = memory.device.type
        with torch.no_grad(), torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False):
            scores = self.enc_score_head(self.enc_output(memory * valid)).amax(-1)
        index = scores.topk(self.config.num_queries, dim=-1).indices.unsqueeze(-1)
        chosen = memory.gather(1, index.expand(-1, -1, memory.shape[-1])) * valid[0, index[..., 0]]
        content = self.enc_output(chosen)
        return content, self.enc_bbox_head(content) + anchors[0, index[..., 0]]

    def forward(
        self,
        maps: list[Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        *,
        draw: DenoisingDraw | None = None,
    ) -> DetectorOutput:
        """Detect.

        maps: (B, C, H, W) per level. targets: per image `labels` (n,) int64 and `boxes` (n, 4) float32 cxcywh in
        [0, 1]; used in training mode, for denoising queries. draw: how to draw their noise, see `DenoisingDraw`.
        """
        projected = maps
        if self.input_proj is not None:
            projected = [projection(m) for projection, m in zip(self.input_proj, maps, strict=True)]
        shapes = [(int(m.shape[-2]), int(m.shape[-1])) for m in projected]
        memory = torch.cat([m.flatten(2).transpose(1, 2) for m in projected], dim=1)
        content, box_logits = self._select_queries(memory, shapes)
        queries, meta = _Queries(content.detach(), box_logits.detach()), None
        if not self.training:
            decoded = self._decode(queries, memory, shapes)
            return DetectorOutput(decoded.predictions[-1], features=maps, queries=decoded.states)

        if self.config.denoising and targets is not None:
            queries, meta = self._with_denoising(queries, targets, draw)
        decoded = self._decode(queries, memory, shapes)
        split = 0 if meta is None else meta.queries
        matched = [_rows(prediction, slice(split, None)) for prediction in decoded.predictions]
        noisy = slice(None, split)
        return DetectorOutput(
            final=matched[-1],
            auxiliary=matched[:-1],
            encoder=Prediction(self.enc_score_head(content), box_logits.sigmoid()),
            pre=None if decoded.pre is None else _rows(decoded.pre, slice(split, None)),
            denoising=[] if meta is None else [_rows(prediction, noisy) for prediction in decoded.predictions],
            denoising_pre=None if meta is None or decoded.pre is None else _rows(decoded.pre, noisy),
            denoising_meta=meta,
            features=maps,
            queries=[state[:, split:] for state in decoded.states],
        )

    def _with_denoising(
        self, queries: _Queries, targets: Sequence[Mapping[str, Tensor]], draw: DenoisingDraw | None
    ) -> tuple[_Queries, DenoisingMeta | None]:
        """The queries behind denoising queries, if there is anything to make these from."""
        made = make_denoising_queries(
            targets,
            num_classes=self.config.num_classes,
            num_queries=self.config.num_queries,
            class_embedding=self.denoising_class_embed,
            num_denoising=self.config.denoising,
            label_noise_ratio=self.config.label_noise_ratio,
            box_noise_scale=self.config.box_noise_scale,
            draw=draw,
        )
        if made is None:
            return queries, None
        content = torch.cat([made.content, queries.content], dim=1)
        box_logits = torch.cat([made.boxes_unact, queries.box_logits], dim=1)
        return _Queries(content, box_logits, ~made.attention_mask), made.meta

    @abstractmethod
    def _decode(self, queries: _Queries, memory: Tensor, shapes: list[Shape]) -> _Decoded:
        """Run the layers: all in training mode, else those that are deployed."""

    def _run(self, memory: Tensor, shapes: list[Shape]) -> list[tuple[DecoderLayer, CellTable | HeadMaps, bool]]:
        """The layers to run, with what each samples from and whether its prediction is wanted."""
        count = self.config.num_layers if self.training else self.config.deployed_layers
        layers: list[DecoderLayer] = list(self.layers[:count])  # type: ignore[arg-type]
        if self.config.value_projection:
            values = [layer.cross_attn.values(memory, shapes) for layer in layers]
        else:
            values = [layers[0].cross_attn.values(memory, shapes)] * count
        return [(layer, values[i], self.training or i == count - 1) for i, layer in enumerate(layers)]


class DirectDecoder(Decoder):
    """Each layer moves the boxes of the one before (RT-DETR)."""

    def __init__(self, config: DecoderConfig, input_size: tuple[int, int]) -> None:
        super().__init__(config, input_size, box_outputs=4)

    def _decode(self, queries: _Queries, memory: Tensor, shapes: list[Shape]) -> _Decoded:
        x, mask = queries.content, queries.mask
        before = queries.box_logits.clamp(-SATURATED_LOGIT, SATURATED_LOGIT)
        reference = queries.box_logits.sigmoid()
        decoded = _Decoded([], [])
        for index, (layer, values, wanted) in enumerate(self._run(memory, shapes)):
            x = layer(x, self.query_pos_head(reference), reference, values, mask)
            decoded.states.append(x)
            step = self.dec_bbox_head[index](x)
            # A layer's boxes teach it and the layer before, no further ("look forward twice", DINO).
            boxes = (step + before).sigmoid()
            before = (step + before.detach()).clamp(-SATURATED_LOGIT, SATURATED_LOGIT)
            reference = boxes.detach()
            if wanted:
                decoded.predictions.append(Prediction(self.dec_score_head[index](x), boxes))
        return decoded


class DistributionDecoder(Decoder):
    """The first layer places boxes, and every layer refines distributions of where their edges are (D-FINE)."""

    def __init__(self, config: DecoderConfig, input_size: tuple[int, int]) -> None:
        dim, act, bins = config.hidden_dim, config.activation, config.reg_max + 1
        super().__init__(config, input_size, box_outputs=4 * bins)
        self.pre_bbox_head = MLP(dim, dim, 4, 3, act)
        self.pre_bbox_head.zero_last()
        self.lqe_layers = nn.ModuleList(QualityEstimator(bins, act) for _ in range(config.num_layers))
        self.register_buffer("up", torch.tensor([config.up]))
        self.register_buffer("reg_scale", torch.tensor([config.reg_scale]))
        weights = weighting_function(config.reg_max, config.up, config.reg_scale)
        self.register_buffer("distances", weights, persistent=False)
        self.distances: Tensor

    def _position(self, reference: Tensor) -> Tensor:
        return self.query_pos_head(reference).clamp(-10, 10)  # type: ignore[no-any-return]

    def _decode(self, queries: _Queries, memory: Tensor, shapes: list[Shape]) -> _Decoded:
        x, mask = queries.content, queries.mask
        start = queries.box_logits.clamp(-SATURATED_LOGIT, SATURATED_LOGIT)
        initial = reference = queries.box_logits.sigmoid()
        position = self._position(reference)
        previous: Tensor | None = None
        corners: Tensor | None = None
        pre: Prediction | None = None
        predictions: list[Prediction] = []
        states: list[Tensor] = []
        for index, (layer, values, wanted) in enumerate(self._run(memory, shapes)):
            if index > 0 and self.config.position == "layer":
                position = self._position(reference)
            x = layer(x, position, reference, values, mask)
            states.append(x)
            logits = self.dec_score_head[index](x) if wanted else None
            if index == 0:
                boxes = (self.pre_bbox_head(x) + start).sigmoid()
                initial = boxes.detach()
                pre = Prediction(logits, boxes) if self.training and logits is not None else None
            step = self.dec_bbox_head[index](x if previous is None else x + previous)
            corners = step if corners is None else corners + step
            boxes = distance_to_box(initial, integral(corners, self.distances), self.config.reg_scale)
            if logits is not None:
                logits = self.lqe_layers[index](logits, corners)
                predictions.append(Prediction(logits, boxes, corners, initial))
            reference, previous = boxes.detach(), x.detach()
        return _Decoded(predictions, states, pre)


def build_decoder(config: DecoderConfig, input_size: tuple[int, int]) -> Decoder:
    """A new decoder with fresh weights."""
    return (
        DirectDecoder(config, input_size) if config.refinement == "direct" else DistributionDecoder(config, input_size)
    )


def _layer(config: DecoderConfig) -> DecoderLayer:
    cross_attn = DeformableAttention(
        config.hidden_dim,
        config.heads,
        config.points,
        projections=config.value_projection,
        sampling=config.sampling,
    )
    return DecoderLayer(
        config.hidden_dim,
        config.heads,
        config.feedforward_dim,
        cross_attn,
        norm=config.norm,
        gateway=config.gateway,
        feedforward=config.feedforward,
        activation=config.activation,
    )


def _rows(prediction: Prediction, rows: slice) -> Prediction:
    return prediction.map(lambda each: each[:, rows])

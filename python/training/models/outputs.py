"""What detectors and teachers return: the types that models, losses and distillation share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Predictions of one decoder layer (or of the encoder's query selection).

    logits: (B, Q, C) float, before the sigmoid.
    boxes: (B, Q, 4) float, cxcywh in [0, 1] of the network input.
    corners: (B, Q, 4 * (reg_max + 1)) logits of the edge-distance distributions (D-FINE), or None.
    reference: (B, Q, 4) boxes the distributions are relative to, cxcywh in [0, 1], or None.
    """

    logits: Tensor
    boxes: Tensor
    corners: Tensor | None = None
    reference: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Prediction:
        """The prediction with every tensor changed."""
        return Prediction(
            change(self.logits),
            change(self.boxes),
            None if self.corners is None else change(self.corners),
            None if self.reference is None else change(self.reference),
        )


@dataclass(frozen=True)
class DenoisingMeta:
    """How the denoising queries of a batch are laid out.

    positive: per image, (groups * n_i,) int64 indices of the positive queries.
    groups: number of groups; queries: number of denoising queries (padded, the same for every image).
    """

    positive: list[Tensor]
    groups: int
    queries: int


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder makes of the backbone's maps.

    maps: (B, D, H, W) per level, fine to coarse. aifi: (B, D, H, W), the coarsest map after self-attention within it
    and before it is fused with the others (F5 in RT-DETR, Zhao et al. 2023), or None where there is no such layer.
    """

    maps: list[Tensor]
    aifi: Tensor | None = None


@dataclass(frozen=True)
class DetectorOutput:
    """Everything a forward pass yields. In eval mode only `final` (and the taps) is set.

    final: the last decoder layer. auxiliary: earlier layers, first to last. encoder: the query selection's predictions.
    pre: the plain box head on the first layer (D-FINE). denoising: every layer's denoising part, first to last, and
    denoising_pre its plain box head; denoising_meta says how they are laid out.

    Taps for distillation: features, encoder maps per level, (B, D, H, W); aifi, see `EncoderOutput`; queries, decoder
    states per layer, (B, Q, D); attention, per layer (B, heads, Q, L) over the cells of the memory, of decoders with
    plain cross-attention that were asked to record it, else empty.
    """

    final: Prediction
    auxiliary: list[Prediction] = field(default_factory=list)
    encoder: Prediction | None = None
    pre: Prediction | None = None
    denoising: list[Prediction] = field(default_factory=list)
    denoising_pre: Prediction | None = None
    denoising_meta: DenoisingMeta | None = None
    features: list[Tensor] = field(default_factory=list)
    aifi: Tensor | None = None
    queries: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class TeacherOutput:
    """What a teacher says about a batch; what it cannot say is None or empty.

    prediction: of its last layer, over the classes of the student. features, attention: as in `DetectorOutput`.
    queries: decoder states of its last layer, (B, Q, D). patches: (B, D, h, w), what a vision foundation model sees in
    each patch of the image.
    """

    prediction: Prediction | None = None
    features: list[Tensor] = field(default_factory=list)
    queries: Tensor | None = None
    attention: list[Tensor] = field(default_factory=list)
    patches: Tensor | None = None

    def detach(self) -> TeacherOutput:
        """The same without a way back for gradients."""
        return TeacherOutput(
            prediction=None if self.prediction is None else self.prediction.map(Tensor.detach),
            features=[each.detach() for each in self.features],
            queries=None if self.queries is None else self.queries.detach(),
            attention=[each.detach() for each in self.attention],
            patches=None if self.patches is None else self.patches.detach(),
        )


@dataclass(frozen=True)
class Widths:
    """What a network offers to distillation, and how wide it is; None or empty is what it does not offer.

    classes: of its predictions. features: channels of each encoder map, fine to coarse. semantic: channels of the map
    that DSI aligns (F5 of a student, patches of a foundation model). queries: of decoder states. bins: of each edge's
    distribution. attention: whether there are attention maps.
    """

    classes: int | None = None
    features: tuple[int, ...] = ()
    semantic: int | None = None
    queries: int | None = None
    bins: int | None = None
    attention: bool = False

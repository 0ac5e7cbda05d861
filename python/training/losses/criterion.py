"""The training loss of a DETR with distribution-based boxes: every term of every prediction of one step.

The predictions (last layer, earlier layers, plain box head, query selection, denoising) differ only in which of their
queries answer for which object. So their rows are put end to end, every kind of loss is computed once over all of
them, and the sums are taken apart again at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.distributed as distributed
from torch import Tensor

from edgedet import InvalidInputError
from training.boxes import box_cxcywh_to_xyxy, weighting_function
from training.losses.classification import Classification, matched_cost, unmatched_cost
from training.losses.distribution import (
    distillation_focal,
    edge_targets,
    fine_grained_localisation,
    soften,
)
from training.losses.localisation import box_costs
from training.losses.matcher import HungarianMatcher, MatcherConfig, Matching, union_matching
from training.losses.targets import PackedTargets, pack_targets
from training.models.outputs import DenoisingMeta, DetectorOutput, Prediction


@dataclass(frozen=True)
class CriterionConfig:
    """What the loss is made of. The defaults are DEIMv2's; Atto, Femto and Pico use fgl = ddf = 0, union_set = False.

    classification: "mal" (matchability-aware), "vfl" (varifocal) or "focal", with alpha and gamma as
        `losses.classification` says. DEIM: mal, None, 1.5. D-FINE, RT-DETR: vfl, 0.75, 2. DETR lineage: focal, 0.25, 2.
    class_weight, l1_weight, giou_weight, fgl_weight, ddf_weight: what the terms are multiplied by; fgl and ddf are
        not even computed when 0.
    union_set: train boxes and distributions of every layer on the pairs that any layer was matched on (D-FINE).
    reg_max, reg_scale, up: the bins of the model, see `boxes.weighting_function`.
    """

    classification: Classification = "mal"
    alpha: float | None = None
    gamma: float = 1.5
    class_weight: float = 1.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    fgl_weight: float = 0.15
    ddf_weight: float = 1.5
    union_set: bool = True
    reg_max: int = 32
    reg_scale: float = 4.0
    up: float = 0.5
    matcher: MatcherConfig = field(default_factory=MatcherConfig)

    def __post_init__(self) -> None:
        if self.classification not in ("mal", "vfl", "focal"):
            raise InvalidInputError(
                f"expected classification mal, vfl or focal, got {self.classification!r}; correct the config"
            )
        if (self.alpha is not None and not 0 <= self.alpha <= 1) or self.gamma < 0:
            raise InvalidInputError(
                "expected alpha None or in [0, 1] and gamma >= 0, "
                f"got {self.alpha} and {self.gamma}; correct the config"
            )
        weights = (self.class_weight, self.l1_weight, self.giou_weight, self.fgl_weight, self.ddf_weight)
        if min(weights) < 0:
            raise InvalidInputError(f"expected loss weights >= 0, got {weights}; correct the config")
        if self.reg_max < 4 or self.reg_max % 2 or self.reg_scale <= 0 or self.up <= 0:
            raise InvalidInputError(
                "expected an even reg_max >= 4, reg_scale > 0 and up > 0, "
                f"got {self.reg_max}, {self.reg_scale} and {self.up}; use the values of the model"
            )


@dataclass(frozen=True)
class _Part:
    """One prediction and what it is trained on: `labelled` pairs for its scores, `located` pairs for its boxes.

    groups: how many queries every object has by construction, if these are denoising queries.
    union: whether `located` is the union set. teacher: the last layer, if this is an earlier one.
    """

    name: str
    prediction: Prediction
    labelled: Matching
    located: Matching
    groups: int | None = None
    union: bool = False
    teacher: Prediction | None = None

    @property
    def length(self) -> int:
        """Number of rows when images and queries are flattened."""
        return self.prediction.logits.shape[0] * self.prediction.logits.shape[1]


@dataclass(frozen=True)
class _Pairs:
    """Pairs of all parts end to end: (M,) int64 `rows` of the joined predictions and `targets` of the batch.

    lengths: how many pairs each part has. offsets: where its predictions begin in the joined ones.
    """

    rows: Tensor
    targets: Tensor
    lengths: list[int]
    offsets: list[int]

    @classmethod
    def join(cls, parts: Sequence[_Part], matchings: Sequence[Matching], device: torch.device) -> _Pairs:
        """Concatenate the matchings of the parts; one copy to the device."""
        rows, offsets = [], [0]
        for part, matching in zip(parts, matchings, strict=True):
            rows.append(offsets[-1] + matching.image * part.prediction.logits.shape[1] + matching.query)
            offsets.append(offsets[-1] + part.length)
        targets = [matching.target for matching in matchings]
        pairs = torch.from_numpy(np.stack([np.concatenate(rows), np.concatenate(targets)])).to(device)
        lengths = [len(matching) for matching in matchings]
        return cls(rows=pairs[0], targets=pairs[1], lengths=lengths, offsets=offsets)

    def local_rows(self) -> list[Tensor]:
        """The rows of each part counted within that part."""
        return [rows - offset for rows, offset in zip(torch.split(self.rows, self.lengths), self.offsets, strict=False)]


class Criterion:
    """Computes the weighted loss terms of a step.

    `Criterion(config)(output, targets)` returns scalars named `<prediction>/<term>`, for instance `final/mal`,
    `aux0/bbox`, `pre/giou`, `encoder/mal`, `dn0/fgl`, `dn_pre/bbox`; their sum is the loss. Everything is computed in
    float32, whatever autocast is on. Terms count per object, averaged over all processes of torch.distributed: their
    mean over the processes is what one process would give for the whole batch.
    """

    def __init__(self, config: CriterionConfig | None = None) -> None:
        self.config = config or CriterionConfig()
        self.matcher = HungarianMatcher(self.config.matcher)

    def __call__(
        self,
        output: DetectorOutput,
        targets: Sequence[Mapping[str, Tensor]],
        *,
        epoch: int = 0,
        objects: float | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms of what the model made of a batch.

        Args:
            output: Of a model in training mode.
            targets: Per image `labels` (n,) int64 and `boxes` (n, 4) float32, cxcywh in [0, 1]. Without any
                objects the box terms are zero, yet connected to the graph.
            epoch: The current epoch, for `MatcherConfig.change_epoch`.
            objects: How many objects the whole batch has, if this is only a part of it (gradient accumulation): a
                mean over the processes, which then do not communicate here. The terms of the parts add up to those
                of the whole. Exactly so where a term counts per object; where it counts per pair of the union set,
                or per query (DDF), a part weighs as much as its share of the objects.

        Raises:
            InvalidInputError: The targets are malformed, or not as many as there are images.
            ModelError: The predictions hold NaN or infinity, so that matching is impossible.
        """
        logits = output.final.logits
        if len(targets) != logits.shape[0]:
            raise InvalidInputError(
                f"expected targets of {logits.shape[0]} images, got {len(targets)}; pass one dict per image"
            )
        with torch.autocast(logits.device.type, enabled=False):
            packed = pack_targets(targets, logits.device)
            parts = self._match(output, packed, epoch)
            return dict(self._terms(parts, packed, _count(parts, packed, objects)))

    def _match(self, output: DetectorOutput, targets: PackedTargets, epoch: int) -> list[_Part]:
        """Decide for every prediction of the output what it is trained on."""
        auxiliary = {f"aux{index}": prediction for index, prediction in enumerate(output.auxiliary)}
        predictions = {"final": output.final, **auxiliary}
        if output.pre is not None:
            predictions["pre"] = output.pre
        if output.encoder is not None:
            predictions["encoder"] = output.encoder
        matchings = self.matcher(predictions, targets, epoch=epoch)
        union = union_matching(list(matchings.values())) if self.config.union_set else None
        parts = [
            _Part(
                name=name,
                prediction=predictions[name],
                labelled=matching,
                located=matching if union is None else union,
                union=union is not None,
                teacher=output.final if name in auxiliary else None,
            )
            for name, matching in matchings.items()
        ]

        meta = output.denoising_meta
        if meta is None:
            return parts
        known = _known_matching(meta, targets)
        for index, prediction in enumerate(output.denoising):
            teacher = output.denoising[-1] if index + 1 < len(output.denoising) else None
            parts.append(_Part(f"dn{index}", prediction, known, known, groups=meta.groups, teacher=teacher))
        if output.denoising_pre is not None:
            parts.append(_Part("dn_pre", output.denoising_pre, known, known, groups=meta.groups))
        return parts

    def _terms(self, parts: Sequence[_Part], targets: PackedTargets, counts: _Counts) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every weighted term."""
        config, device = self.config, targets.labels.device
        labelled = _Pairs.join(parts, [part.labelled for part in parts], device)
        located = _Pairs.join(parts, [part.located for part in parts], device) if config.union_set else labelled
        groups = torch.tensor([part.groups or 1 for part in parts], device=device)
        per_label = counts.objects.clamp(min=counts.least) * groups
        union = torch.tensor([part.union for part in parts], device=device)
        per_location = torch.where(union, counts.pairs.clamp(min=counts.least), per_label)

        boxes = torch.cat([part.prediction.boxes.flatten(0, 1) for part in parts]).float()
        l1, giou, located_iou = box_costs(boxes[located.rows], targets.boxes[located.targets])
        labelled_iou = located_iou
        if config.union_set:
            labelled_iou = box_costs(boxes.detach()[labelled.rows], targets.boxes[labelled.targets])[2]
        scores = self._classification(parts, labelled, labelled_iou, targets)
        sums = {
            config.classification: config.class_weight * scores / per_label,
            "bbox": config.l1_weight * _sums(l1, located.lengths) / per_location,
            "giou": config.giou_weight * _sums(giou, located.lengths) / per_location,
        }
        for term, values in sums.items():
            for part, value in zip(parts, values.unbind(), strict=True):
                yield f"{part.name}/{term}", value

        if config.fgl_weight > 0:
            for index, value in self._fine_grained(parts, located, located_iou, targets):
                yield f"{parts[index].name}/fgl", config.fgl_weight * value / per_location[index]
        if config.ddf_weight > 0:
            for index, value in _distillation(parts, located, located_iou, counts):
                yield f"{parts[index].name}/ddf", config.ddf_weight * value

    def _classification(self, parts: Sequence[_Part], pairs: _Pairs, iou: Tensor, targets: PackedTargets) -> Tensor:
        """Classification cost of every part, (parts,)."""
        kind, alpha, gamma = self.config.classification, self.config.alpha, self.config.gamma
        logits = torch.cat([part.prediction.logits.flatten(0, 1) for part in parts]).float()
        own = logits[pairs.rows, targets.labels[pairs.targets]]
        everywhere = unmatched_cost(logits, kind=kind, alpha=alpha, gamma=gamma)
        replaced = unmatched_cost(own, kind=kind, alpha=alpha, gamma=gamma)
        replacement = matched_cost(own, iou, kind=kind, alpha=alpha, gamma=gamma)
        return _sums(everywhere, [part.length for part in parts]) + _sums(replacement - replaced, pairs.lengths)

    def _fine_grained(
        self, parts: Sequence[_Part], pairs: _Pairs, iou: Tensor, targets: PackedTargets
    ) -> Iterator[tuple[int, Tensor]]:
        """Index and FGL cost of every part that predicts distributions."""
        config = self.config
        ious = torch.split(iou, pairs.lengths)
        wanted = torch.split(targets.boxes[pairs.targets], pairs.lengths)
        rows = pairs.local_rows()
        chosen, corners, references = [], [], []
        for index, part in enumerate(parts):
            if part.prediction.corners is not None and part.prediction.reference is not None:
                chosen.append(index)
                corners.append(_by_edge(part.prediction.corners)[rows[index]])
                references.append(part.prediction.reference.detach().flatten(0, 1)[rows[index]])
        if not chosen:
            return
        left, right_weight = edge_targets(
            torch.cat(references).float(),
            box_cxcywh_to_xyxy(torch.cat([wanted[index] for index in chosen])),
            bins=weighting_function(config.reg_max, config.up, config.reg_scale).to(iou.device),
            reg_scale=config.reg_scale,
        )
        weight = torch.cat([ious[index] for index in chosen])
        costs = fine_grained_localisation(torch.cat(corners).float(), left, right_weight, weight)
        yield from zip(chosen, _sums(costs, [pairs.lengths[index] for index in chosen]).unbind(), strict=True)


def _sums(values: Tensor, lengths: list[int]) -> Tensor:
    """Sums of consecutive runs of `values` along the first axis, (runs,); an empty run gives 0."""
    return torch.stack([run.sum() for run in torch.split(values, lengths)])


def _by_edge(corners: Tensor) -> Tensor:
    """View (B, Q, 4 * bins) logits as (B * Q, 4, bins)."""
    return corners.reshape(corners.shape[0] * corners.shape[1], 4, -1)


def _known_matching(meta: DenoisingMeta, targets: PackedTargets) -> Matching:
    """Which denoising query was made from which object, in every group."""
    if [len(positive) for positive in meta.positive] != [size * meta.groups for size in targets.sizes]:
        raise InvalidInputError(
            f"expected denoising queries of {list(targets.sizes)} objects in {meta.groups} groups, got "
            f"{[len(positive) for positive in meta.positive]} positive ones; pass the targets the model was given"
        )
    sizes = np.array(targets.sizes, dtype=np.int64)
    target = [np.tile(np.arange(*ends), meta.groups) for ends in pairwise(targets.offsets)]
    return Matching(
        image=np.repeat(np.arange(len(sizes)), sizes * meta.groups),
        query=torch.cat(meta.positive).cpu().numpy(),
        target=np.concatenate(target),
    )


@dataclass(frozen=True)
class _Counts:
    """What terms are divided by: scalar float32 tensors, of the whole batch as a mean over the processes.

    objects: labelled objects. pairs: matched pairs of an ordinary prediction (of the union set, if there is one).
    images: images. least: what a divisor is at least: one in all processes together, as one process would have it.
    """

    objects: Tensor
    pairs: Tensor
    images: Tensor
    least: float

    def matched(self, part: _Part) -> Tensor:
        """How many queries of a prediction answer for an object."""
        return self.pairs if part.groups is None else self.objects * part.groups

    def unmatched(self, part: _Part) -> Tensor:
        """How many do not."""
        return self.images * part.prediction.logits.shape[1] - self.matched(part)


def _count(parts: Sequence[_Part], targets: PackedTargets, objects: float | None) -> _Counts:
    """Count over all processes, or extend the counts of this part to a whole batch with that many objects."""
    here = len(targets.labels)
    numbers = [here, len(parts[0].located), len(targets.sizes)]
    counts = torch.tensor(numbers, dtype=torch.float32, device=targets.labels.device)
    world = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if objects is not None:
        counts *= max(objects, 1 / world) / max(here, 1)
        counts[0] = objects
    elif world > 1:
        distributed.all_reduce(counts)
        counts /= world
    objects_of_all, pairs, images = counts.unbind()
    return _Counts(objects_of_all, pairs, images, least=1 / world)


def _distillation(parts: Sequence[_Part], pairs: _Pairs, iou: Tensor, counts: _Counts) -> Iterator[tuple[int, Tensor]]:
    """Index and DDF cost of every earlier layer that predicts distributions."""
    # One balance for all parts, also the denoising ones: that of the ordinary queries.
    inside, outside = counts.matched(parts[0]).sqrt(), counts.unmatched(parts[0]).sqrt()
    balance = inside / (inside + outside)
    softened: dict[int, Tensor] = {}
    ious, rows = torch.split(iou, pairs.lengths), pairs.local_rows()
    for index, part in enumerate(parts):
        teacher = part.teacher
        if teacher is None or teacher.corners is None or part.prediction.corners is None:
            continue
        if id(teacher) not in softened:
            softened[id(teacher)] = soften(_by_edge(teacher.corners).float())
        confidence = teacher.logits.detach().flatten(0, 1).float().sigmoid().amax(-1)
        confidence[rows[index]] = ious[index]
        student = _by_edge(part.prediction.corners).float()
        matched, unmatched = distillation_focal(student, softened[id(teacher)], confidence, rows[index])
        matched = matched / counts.matched(part).clamp(min=counts.least)
        unmatched = unmatched / counts.unmatched(part).clamp(min=counts.least)
        yield index, matched * balance + unmatched * (1 - balance)

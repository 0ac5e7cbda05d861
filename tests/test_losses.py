"""The criterion against transformers' loss code and against formulas written out in full, and its properties."""

from __future__ import annotations

import dataclasses
import functools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet import InvalidInputError, ModelError
from training.boxes import box_cxcywh_to_xyxy, elementwise_iou, weighting_function
from training.losses import criterion as criterion_module
from training.losses.classification import Classification, matched_cost, unmatched_cost
from training.losses.criterion import Criterion, CriterionConfig
from training.losses.distribution import edge_targets, fine_grained_localisation
from training.losses.localisation import box_costs
from training.losses.matcher import union_matching
from training.losses.targets import pack_targets
from training.models.denoising import make_denoising_queries
from training.models.distribution import distance_to_box
from training.models.outputs import DenoisingMeta, DetectorOutput, Prediction

CLASSES, QUERIES, LAYERS, REG_MAX = 5, 20, 3, 32
SIZES = [4, 0, 7, 1]
CPU = torch.device("cpu")
RT_DETR = CriterionConfig(classification="vfl", alpha=0.75, gamma=2.0, fgl_weight=0.0, ddf_weight=0.0, union_set=False)

Targets = list[dict[str, Tensor]]


def random_boxes(*shape: int) -> Tensor:
    return torch.cat([torch.rand(*shape, 2) * 0.8 + 0.1, torch.rand(*shape, 2) * 0.3 + 0.02], dim=-1)


def random_targets(sizes: list[int]) -> Targets:
    return [{"labels": torch.randint(CLASSES, (size,)), "boxes": random_boxes(size)} for size in sizes]


class Outputs:
    """A detector's output made of leaves, so that gradients can be looked at by name."""

    def __init__(self, targets: Targets, *, queries: int = QUERIES, denoising: int = 15) -> None:
        self.leaves: dict[str, Tensor] = {}
        images = len(targets)
        made = make_denoising_queries(
            targets,
            num_classes=CLASSES,
            num_queries=queries,
            class_embedding=nn.Embedding(CLASSES + 1, 4),
            num_denoising=denoising,
        )
        self.meta: DenoisingMeta | None = made.meta if made is not None else None
        layers = self._layers("", images, queries)
        noisy: list[Prediction] = []
        if self.meta is not None:
            noisy = self._layers("dn", images, self.meta.queries)
        self.output = DetectorOutput(
            final=layers[-1],
            auxiliary=layers[:-1],
            encoder=self._plain("encoder", images, queries),
            pre=self._plain("pre", images, queries),
            denoising=noisy,
            denoising_pre=self._plain("dn_pre", images, self.meta.queries) if self.meta is not None else None,
            denoising_meta=self.meta,
        )

    def _leaf(self, name: str, values: Tensor) -> Tensor:
        self.leaves[name] = values.requires_grad_()
        return values

    def _plain(self, name: str, images: int, queries: int) -> Prediction:
        return Prediction(
            self._leaf(f"{name}.logits", torch.randn(images, queries, CLASSES) * 2 - 1),
            self._leaf(f"{name}.boxes", random_boxes(images, queries)),
        )

    def _layers(self, name: str, images: int, queries: int) -> list[Prediction]:
        reference = random_boxes(images, queries)
        layers = []
        for index in range(LAYERS):
            plain = self._plain(f"{name}{index}", images, queries)
            corners = self._leaf(f"{name}{index}.corners", torch.randn(images, queries, 4 * (REG_MAX + 1)))
            layers.append(dataclasses.replace(plain, corners=corners, reference=reference))
        return layers


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


# --- against transformers


def transformers_terms(
    outputs: Outputs, targets: Targets, *, family: str, kind: str = "vfl", union: bool = False
) -> dict[str, float]:
    """Weighted terms of transformers' loss for RT-DETR (v1 and v2), D-FINE or DEIMv2, under our names."""
    name = {"rtdetr": "rt_detr", "dfine": "d_fine", "deimv2": "deimv2"}[family]
    module = pytest.importorskip(f"transformers.loss.loss_{name}", reason="transformers is the oracle here")
    config = SimpleNamespace(
        num_labels=CLASSES, matcher_class_cost=2, matcher_bbox_cost=5, matcher_giou_cost=2, use_focal_loss=True
    )
    config.matcher_alpha, config.matcher_gamma = 0.25, 2.0
    config.eos_coefficient, config.focal_loss_alpha, config.focal_loss_gamma = 1e-4, 0.75, 1.5 if kind == "mal" else 2.0
    config.max_num_bins, config.reg_scale, config.up = REG_MAX, 4.0, 0.5
    config.weight_loss_mal = config.weight_loss_vfl = 1.0
    config.weight_loss_bbox, config.weight_loss_giou = 5.0, 2.0
    config.weight_loss_fgl, config.weight_loss_ddf = 0.15, 1.5
    config.mal_alpha, config.use_dense_one_to_one = None, union
    theirs = getattr(module, {"rtdetr": "RTDetrLoss", "dfine": "DFineLoss", "deimv2": "Deimv2Loss"}[family])(config)

    def as_dict(prediction: Prediction, teacher: Prediction | None = None) -> dict[str, Tensor]:
        values = {"logits": prediction.logits, "pred_boxes": prediction.boxes}
        if family != "rtdetr" and prediction.corners is not None and prediction.reference is not None:
            values |= {"pred_corners": prediction.corners, "ref_points": prediction.reference}
            last = teacher or prediction
            assert last.corners is not None
            values |= {"teacher_corners": last.corners, "teacher_logits": last.logits}
        return values

    output = outputs.output
    assert output.encoder is not None
    assert output.denoising_meta is not None
    given: dict[str, Any] = as_dict(output.final)
    given["auxiliary_outputs"] = [as_dict(layer, output.final) for layer in output.auxiliary] + [
        as_dict(output.encoder)
    ]
    given["dn_auxiliary_outputs"] = [as_dict(layer, output.denoising[-1]) for layer in output.denoising]
    given["denoising_meta_values"] = {
        "dn_positive_idx": output.denoising_meta.positive,
        "dn_num_group": output.denoising_meta.groups,
    }
    terms = theirs(given, [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets])
    names = {}
    for key, value in terms.items():
        term, _, where = key.removeprefix("loss_").partition("_")
        place = where.replace("_", "") or "final"
        names[f"{'encoder' if place == f'aux{LAYERS - 1}' else place}/{term}"] = value.item()
    return names


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("family", "kind", "union"), [("deimv2", "mal", True), ("deimv2", "mal", False), ("dfine", "vfl", False)]
)
def test_terms_agree_with_transformers(
    family: str, kind: Classification, union: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(seed)
    targets = random_targets(SIZES)
    outputs = Outputs(targets)
    # It has no separate plain head, and where layers are evenly split it takes what an unstable sort leaves first.
    outputs.output = dataclasses.replace(outputs.output, pre=None, denoising_pre=None)
    monkeypatch.setattr(torch, "argsort", functools.partial(torch.argsort, stable=True))
    wanted = transformers_terms(outputs, targets, family=family, kind=kind, union=union)
    config = CriterionConfig(classification=kind, union_set=union)
    if kind == "vfl":
        config = dataclasses.replace(config, alpha=0.75, gamma=2.0)
    ours = {name: value.item() for name, value in Criterion(config)(outputs.output, targets).items()}

    # Its DDF balances the denoising layers by their own counts instead of the ordinary queries', and exists for the
    # last layers too, as 0; all other terms are the same.
    compared = [name for name in wanted if not (name.endswith("/ddf") and not name.startswith("aux"))]
    assert set(ours) - set(compared) == {f"dn{index}/ddf" for index in range(LAYERS - 1)}
    assert len(compared) == (LAYERS * 2 + 1) * 3 + LAYERS * 2 + LAYERS - 1
    for name in compared:
        assert ours[name] == pytest.approx(wanted[name], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("seed", range(3))
def test_terms_of_rt_detr_agree_with_transformers(seed: int) -> None:
    torch.manual_seed(seed)
    targets = random_targets(SIZES)
    outputs = Outputs(targets)
    outputs.output = dataclasses.replace(outputs.output, pre=None, denoising_pre=None)
    wanted = transformers_terms(outputs, targets, family="rtdetr")
    ours = Criterion(RT_DETR)(outputs.output, targets)
    assert set(ours) == set(wanted)
    assert len(ours) == (2 * LAYERS + 1) * 3
    for name, value in wanted.items():
        assert ours[name].item() == pytest.approx(value, rel=1e-5), name


# --- against formulas in full


def dense_classification(logits: Tensor, labels: Tensor, iou: Tensor, kind: str, alpha: float, gamma: float) -> Tensor:
    """The losses as their papers write them: over one-hot targets. labels: (N,), -1 for no object; iou: (N,)."""
    one_hot = F.one_hot(labels + 1, CLASSES + 1)[:, 1:].float()
    score = logits.sigmoid()
    if kind == "focal":
        p_true = score * one_hot + (1 - score) * (1 - one_hot)
        factor = alpha * one_hot + (1 - alpha) * (1 - one_hot)
        return (-factor * (1 - p_true) ** gamma * p_true.log()).sum()
    soft = one_hot * (iou**gamma if kind == "mal" else iou)[:, None]
    weight = alpha * score.detach() ** gamma * (1 - one_hot) + (one_hot if kind == "mal" else soft)
    return -(weight * (soft * score.log() + (1 - soft) * (1 - score).log())).sum()


@pytest.mark.parametrize("kind", ["mal", "vfl", "focal"])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.75, 2.0), (0.25, 1.5), (1.0, 0.0)])
def test_classification_equals_its_formula(kind: Classification, alpha: float, gamma: float) -> None:
    logits = (torch.randn(50, CLASSES, dtype=torch.float64) * 3).requires_grad_()
    labels = torch.randint(-1, CLASSES, (50,))
    iou = torch.rand(50, dtype=torch.float64)
    rows = (labels >= 0).nonzero().flatten()
    own = logits[rows, labels[rows]]
    options: dict[str, Any] = {"kind": kind, "alpha": alpha, "gamma": gamma}
    ours = (
        unmatched_cost(logits, **options).sum()
        + (matched_cost(own, iou[rows], **options) - unmatched_cost(own, **options)).sum()
    )
    theirs = dense_classification(logits, labels, iou, kind, alpha, gamma)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


@pytest.mark.parametrize("kind", ["mal", "vfl", "focal"])
def test_alpha_none_leaves_the_factor_out(kind: Classification) -> None:
    logits, iou = torch.randn(9), torch.rand(9)
    ones = 1.0 if kind != "focal" else 0.5  # focal splits alpha between the two parts
    for part in (unmatched_cost, functools.partial(matched_cost, iou=iou)):
        plain = part(logits, kind=kind, alpha=None, gamma=2.0)  # type: ignore[operator]
        scaled = part(logits, kind=kind, alpha=ones, gamma=2.0)  # type: ignore[operator]
        torch.testing.assert_close(plain, scaled / ones)


def test_box_costs_by_hand() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.4, 0.4]])
    wanted = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.6, 0.2, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]])
    l1, giou, iou = box_costs(boxes, wanted)
    torch.testing.assert_close(l1, torch.tensor([0.0, 0.4, 0.4]))
    torch.testing.assert_close(iou, torch.tensor([1.0, 0.0, 0.25]))
    torch.testing.assert_close(giou, torch.tensor([0.0, 1 + 0.04 / 0.12, 0.75]))


def test_edge_targets_lead_back_to_the_box() -> None:
    bins = weighting_function(REG_MAX, 0.5, 4.0)
    reference = random_boxes(200)
    moved = reference + (torch.rand(200, 4) - 0.5) * 0.3 * reference[:, 2:].repeat(1, 2)
    left, right_weight = edge_targets(reference, box_cxcywh_to_xyxy(moved), bins=bins, reg_scale=4.0)
    distance = bins[left] * (1 - right_weight) + bins[left + 1] * right_weight
    torch.testing.assert_close(distance_to_box(reference, distance, 4.0), moved, atol=1e-5, rtol=0)


def test_edges_beyond_the_bins_are_clipped_to_them() -> None:
    bins = weighting_function(REG_MAX, 0.5, 4.0)
    reference = torch.tensor([[0.5, 0.5, 0.1, 0.1]])
    left, weight = edge_targets(reference, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), bins=bins, reg_scale=4.0)
    assert left.unique().tolist() == [REG_MAX - 1]
    assert weight.unique().tolist() == [1.0]
    left, weight = edge_targets(reference, torch.tensor([[0.9, 0.9, 0.1, 0.1]]), bins=bins, reg_scale=4.0)
    assert left.unique().tolist() == [0]
    assert weight.unique().tolist() == [0.0]


def test_fine_grained_localisation_is_least_at_its_targets() -> None:
    left, right_weight = torch.randint(REG_MAX, (6, 4)), torch.rand(6, 4)
    weight = torch.rand(6) + 0.5
    wanted = torch.zeros(6, 4, REG_MAX + 1).scatter_(-1, left[..., None], 1 - right_weight[..., None])
    wanted.scatter_(-1, left[..., None] + 1, right_weight[..., None])
    logits = (wanted + 1e-12).log().requires_grad_()
    cost = fine_grained_localisation(logits, left, right_weight, weight)
    entropy = -(wanted * (wanted + 1e-12).log()).sum(-1).sum(-1)
    torch.testing.assert_close(cost, entropy * weight, atol=1e-5, rtol=1e-5)
    assert torch.autograd.grad(cost.sum(), logits)[0].abs().max() < 1e-6


def test_distillation_vanishes_for_a_layer_that_equals_the_last() -> None:
    targets = random_targets(SIZES)
    output = Outputs(targets).output
    same = dataclasses.replace(output, auxiliary=[output.final, output.auxiliary[0]])
    terms = Criterion(CriterionConfig())(same, targets)
    assert terms["aux0/ddf"].item() == pytest.approx(0, abs=1e-6)
    assert terms["aux1/ddf"].item() > 0.01
    assert "final/ddf" not in terms


def test_distillation_equals_its_formula() -> None:
    targets = random_targets(SIZES)
    output = Outputs(targets).output
    criterion = Criterion(CriterionConfig())
    terms = criterion(output, targets)
    assert output.encoder is not None
    assert output.pre is not None
    predictions = {"final": output.final, "pre": output.pre, "encoder": output.encoder}
    predictions |= {str(index): layer for index, layer in enumerate(output.auxiliary)}
    union = union_matching(list(criterion.matcher(predictions, pack_targets(targets, CPU)).values()))
    boxes = torch.cat([target["boxes"] for target in targets])

    def weights_and_groups(student: Prediction, teacher: Prediction) -> tuple[Tensor, Tensor]:
        weight = teacher.logits.sigmoid().amax(-1)
        inside = torch.zeros_like(weight, dtype=torch.bool)
        for image, query, target in zip(union.image, union.query, union.target, strict=True):
            overlap = box_cxcywh_to_xyxy(student.boxes[image, query]), box_cxcywh_to_xyxy(boxes[target])
            weight[image, query] = elementwise_iou(*overlap)
            inside[image, query] = True
        return weight, inside

    student, teacher = output.auxiliary[1], output.final
    assert student.corners is not None
    assert teacher.corners is not None
    weight, inside = weights_and_groups(student, teacher)
    p = (teacher.corners / 5).unflatten(-1, (4, -1)).softmax(-1)
    q = (student.corners / 5).unflatten(-1, (4, -1)).softmax(-1)
    divergence = 25 * weight[..., None] * (p * (p / q).log()).sum(-1)
    shares = inside.sum().sqrt(), (~inside).sum().sqrt()
    wanted = (divergence[inside].mean() * shares[0] + divergence[~inside].mean() * shares[1]) / sum(shares)
    torch.testing.assert_close(terms["aux1/ddf"], 1.5 * wanted)


# --- properties


def test_names_of_the_terms() -> None:
    targets = random_targets(SIZES)
    outputs = Outputs(targets)
    light = Criterion(CriterionConfig(fgl_weight=0, ddf_weight=0, union_set=False))(outputs.output, targets)
    places = ["final", "aux0", "aux1", "pre", "encoder", "dn0", "dn1", "dn2", "dn_pre"]
    assert set(light) == {f"{place}/{term}" for place in places for term in ("mal", "bbox", "giou")}
    full = Criterion()(outputs.output, targets)
    assert set(full) - set(light) == {f"{place}/fgl" for place in ("final", "aux0", "aux1", "dn0", "dn1", "dn2")} | {
        f"{place}/ddf" for place in ("aux0", "aux1", "dn0", "dn1")
    }
    assert all(value.shape == () and value.dtype == torch.float32 for value in full.values())


def test_weights_scale_their_terms() -> None:
    targets = random_targets(SIZES)
    output = Outputs(targets).output
    once = Criterion()(output, targets)
    config = CriterionConfig(class_weight=2.0, l1_weight=15.0, giou_weight=8.0, fgl_weight=0.75, ddf_weight=9.0)
    factors = {"mal": 2, "bbox": 3, "giou": 4, "fgl": 5, "ddf": 6}
    for name, value in Criterion(config)(output, targets).items():
        torch.testing.assert_close(value, once[name] * factors[name.split("/")[1]])


@pytest.mark.parametrize("union", [False, True])
def test_order_of_targets_does_not_matter(union: bool) -> None:
    targets = random_targets(SIZES)
    outputs = Outputs(targets)
    output = outputs.output
    criterion = Criterion(CriterionConfig(union_set=union))
    orders = [torch.randperm(size) for size in SIZES]
    shuffled = [
        {name: values[order] for name, values in target.items()} for target, order in zip(targets, orders, strict=True)
    ]
    assert output.denoising_meta is not None
    # Denoising query k of a group was made from object k: shuffle them alike.
    positive = [
        queries.view(output.denoising_meta.groups, -1)[:, order].flatten()
        for queries, order in zip(output.denoising_meta.positive, orders, strict=True)
    ]
    moved = dataclasses.replace(output, denoising_meta=dataclasses.replace(output.denoising_meta, positive=positive))
    if union:  # an even split between layers goes to the object that comes first: leave the layers one voice
        output = dataclasses.replace(output, auxiliary=[], pre=None, encoder=None)
        moved = dataclasses.replace(moved, auxiliary=[], pre=None, encoder=None)
    first, second = criterion(output, targets), criterion(moved, shuffled)
    assert set(first) == set(second)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=name)


def test_gradient_reaches_every_head() -> None:
    targets = random_targets(SIZES)
    outputs = Outputs(targets)
    total(Criterion()(outputs.output, targets)).backward()
    assert len(outputs.leaves) == 3 * 2 * LAYERS + 6
    for name, leaf in outputs.leaves.items():
        assert leaf.grad is not None, name
        assert torch.isfinite(leaf.grad).all(), name
        assert leaf.grad.any(), name


@pytest.mark.parametrize("term", ["mal", "fgl", "ddf"])
def test_overlap_is_a_weight_not_a_path_for_gradients(term: str) -> None:
    targets = random_targets(SIZES)
    outputs = Outputs(targets)
    terms = Criterion()(outputs.output, targets)
    total({name: value for name, value in terms.items() if name.endswith(term)}).backward()
    for name, leaf in outputs.leaves.items():
        if name.endswith("boxes"):
            assert leaf.grad is None or not leaf.grad.any(), name


def test_no_objects_give_zero_box_terms_that_stay_connected() -> None:
    targets = random_targets([0, 0, 0])
    outputs = Outputs(targets)
    assert outputs.output.denoising_meta is None
    terms = Criterion()(outputs.output, targets)
    for name, value in terms.items():
        assert value.requires_grad
        if name.endswith(("bbox", "giou", "fgl")):
            assert value.item() == 0, name
        else:
            assert value.item() > 0, name
    total(terms).backward()
    for name, leaf in outputs.leaves.items():
        assert leaf.grad is not None, name
        assert torch.isfinite(leaf.grad).all(), name
        assert bool(leaf.grad.any()) == name.endswith(("logits", "corners")) or name == "2.corners", name


def test_a_single_query_and_more_objects_than_queries() -> None:
    targets = random_targets([3, 1])
    outputs = Outputs(targets, queries=1)
    terms = Criterion()(outputs.output, targets)
    assert all(torch.isfinite(value) for value in terms.values())
    total(terms).backward()
    assert outputs.leaves["2.boxes"].grad is not None
    assert outputs.leaves["2.boxes"].grad.any(dim=-1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 30.0, 6e4])
def test_finite_at_the_extremes_of_half_precision(dtype: torch.dtype, size: float) -> None:
    targets = random_targets(SIZES)
    targets[0]["boxes"][0] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    targets[0]["boxes"][1] = torch.tensor([0.001, 0.001, 0.002, 0.002])
    outputs = Outputs(targets)
    with torch.no_grad():
        for name, leaf in outputs.leaves.items():
            if name.endswith(("logits", "corners")):
                leaf.copy_(leaf.sign() * size)
            else:  # empty, inverted and far too large boxes
                leaf[:, ::4, 2:] = 0
                leaf[:, 1::4, 2:] *= -1
                leaf[:, 2::4] *= 100

    def half(prediction: Prediction | None) -> Prediction | None:
        return prediction and Prediction(
            *(value if value is None else value.to(dtype) for value in vars(prediction).values())
        )

    output = outputs.output
    final, pre, encoder, noisy_pre = map(half, (output.final, output.pre, output.encoder, output.denoising_pre))
    assert final is not None
    auxiliary, noisy = ([p for p in map(half, layers) if p] for layers in (output.auxiliary, output.denoising))
    output = DetectorOutput(final, auxiliary, encoder, pre, noisy, noisy_pre, output.denoising_meta)
    with torch.autocast("cpu", dtype=dtype):
        terms = Criterion()(output, targets)
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert torch.isfinite(value), name
    total(terms).backward()
    for name, leaf in outputs.leaves.items():
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all(), name


def test_objects_are_counted_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, of which the other one has three times as many objects: the mean is twice ours."""
    targets = random_targets(SIZES)
    output = Outputs(targets).output
    alone = Criterion()(output, targets)
    calls = []

    def all_reduce(counts: Tensor) -> None:
        calls.append(counts.tolist())
        counts *= 1 + 3

    monkeypatch.setattr(criterion_module.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(criterion_module.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(criterion_module.distributed, "all_reduce", all_reduce)
    together = Criterion()(output, targets)
    assert len(calls) == 1
    assert calls[0][0] == sum(SIZES)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value / 2, msg=name)


def part_of(output: DetectorOutput, images: slice) -> DetectorOutput:
    """What the model would have made of some of the images, had it drawn the same denoising queries."""

    def cut(prediction: Prediction | None) -> Prediction | None:
        return prediction and Prediction(*(v if v is None else v[images] for v in vars(prediction).values()))

    final, encoder, pre, noisy_pre = map(cut, (output.final, output.encoder, output.pre, output.denoising_pre))
    assert final is not None
    auxiliary, noisy = ([p for p in map(cut, layers) if p] for layers in (output.auxiliary, output.denoising))
    meta = output.denoising_meta
    meta = meta and dataclasses.replace(meta, positive=meta.positive[images])
    return DetectorOutput(final, auxiliary, encoder, pre, noisy, noisy_pre, meta)


PARTS = [slice(0, 1), slice(1, 3), slice(3, 4)]


@pytest.mark.parametrize("kind", ["mal", "vfl", "focal"])
def test_terms_of_the_parts_of_a_batch_add_up(kind: Classification) -> None:
    targets = random_targets(SIZES)
    output = Outputs(targets).output
    criterion = Criterion(CriterionConfig(classification=kind, gamma=2.0, ddf_weight=0.0, union_set=False))
    parts = [criterion(part_of(output, part), targets[part], objects=sum(SIZES)) for part in PARTS]
    for name, value in criterion(output, targets).items():
        torch.testing.assert_close(torch.stack([part[name] for part in parts]).sum(), value, msg=name)


def test_parts_weigh_as_much_as_their_objects_where_terms_count_pairs_or_queries() -> None:
    targets = random_targets(SIZES)
    output = Outputs(targets).output
    criterion = Criterion()
    for part in PARTS:
        share = sum(SIZES[part]) / sum(SIZES)
        alone = criterion(part_of(output, part), targets[part])
        for name, value in criterion(part_of(output, part), targets[part], objects=sum(SIZES)).items():
            torch.testing.assert_close(value, alone[name] * share, msg=name)


def test_parts_without_objects_of_a_batch_with_some() -> None:
    targets = random_targets([0, 0])
    output = Outputs(targets).output
    alone, part = Criterion()(output, targets), Criterion()(output, targets, objects=4.0)
    for name, value in alone.items():
        torch.testing.assert_close(part[name], value / 4, msg=name)


@pytest.mark.cuda
@pytest.mark.parametrize("union", [False, True])
def test_terms_are_the_same_on_a_gpu(union: bool) -> None:
    targets = random_targets(SIZES)
    output = Outputs(targets).output
    criterion = Criterion(CriterionConfig(union_set=union))

    def moved(prediction: Prediction) -> Prediction:
        return Prediction(*(value if value is None else value.to("cuda") for value in vars(prediction).values()))

    assert output.encoder is not None
    assert output.pre is not None
    assert output.denoising_pre is not None
    on_gpu = DetectorOutput(
        final=moved(output.final),
        auxiliary=[moved(layer) for layer in output.auxiliary],
        encoder=moved(output.encoder),
        pre=moved(output.pre),
        denoising=[moved(layer) for layer in output.denoising],
        denoising_pre=moved(output.denoising_pre),
        denoising_meta=output.denoising_meta,
    )
    theirs = criterion(on_gpu, [{name: value.to("cuda") for name, value in target.items()} for target in targets])
    for name, value in criterion(output, targets).items():
        assert theirs[name].device.type == "cuda"
        torch.testing.assert_close(theirs[name].cpu(), value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_step_of_descent_lowers_the_loss() -> None:
    targets = random_targets(SIZES)
    outputs = Outputs(targets)
    criterion = Criterion()
    optimizer = torch.optim.SGD(outputs.leaves.values(), lr=1e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = total(criterion(outputs.output, targets))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# --- bad input


def test_wrong_number_of_targets() -> None:
    targets = random_targets(SIZES)
    with pytest.raises(InvalidInputError, match="expected targets of 4 images, got 3"):
        Criterion()(Outputs(targets).output, targets[:-1])


def test_denoising_queries_of_other_targets() -> None:
    targets = random_targets(SIZES)
    output = Outputs(targets).output
    with pytest.raises(InvalidInputError, match="pass the targets the model was given"):
        Criterion()(output, random_targets([4, 0, 6, 1]))


def test_nan_boxes_are_an_error_that_names_them() -> None:
    targets = random_targets(SIZES)
    outputs = Outputs(targets)
    with torch.no_grad():
        outputs.leaves["1.boxes"][0, 0, 0] = math.nan
    with pytest.raises(ModelError, match="boxes of the aux1 prediction"):
        Criterion()(outputs.output, targets)


@pytest.mark.parametrize(
    "options",
    [
        {"classification": "softmax"},
        {"alpha": -0.1},
        {"gamma": -1.0},
        {"giou_weight": -1.0},
        {"reg_max": 31},
        {"reg_scale": 0.0},
    ],
)
def test_bad_config(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        CriterionConfig(**options)

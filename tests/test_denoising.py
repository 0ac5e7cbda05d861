"""Denoising queries: their layout against plain loops, and what the noise may do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.boxes import box_cxcywh_to_xyxy
from training.models.denoising import DenoisingDraw, DenoisingQueries, make_denoising_queries

CLASSES, QUERIES, DIM = 5, 7, 6
SIZES = [3, 0, 5, 1]
FULLEST = max(SIZES)


def targets_of(sizes: list[int]) -> list[dict[str, Tensor]]:
    return [
        {
            "labels": torch.randint(CLASSES, (size,)),
            "boxes": torch.cat([torch.rand(size, 2) * 0.2 + 0.4, torch.rand(size, 2) * 0.2 + 0.1], dim=-1),
        }
        for size in sizes
    ]


def embedding() -> nn.Embedding:
    return nn.Embedding(CLASSES + 1, DIM, padding_idx=CLASSES)


def make(
    targets: list[dict[str, Tensor]],
    embed: nn.Embedding,
    *,
    count: int = 17,
    label_noise_ratio: float = 0.5,
    box_noise_scale: float = 1.0,
) -> DenoisingQueries:
    made = make_denoising_queries(
        targets,
        num_classes=CLASSES,
        num_queries=QUERIES,
        class_embedding=embed,
        num_denoising=count,
        label_noise_ratio=label_noise_ratio,
        box_noise_scale=box_noise_scale,
    )
    assert made is not None
    return made


@pytest.mark.parametrize(("count", "groups"), [(17, 3), (4, 1), (100, 20)])
def test_layout(count: int, groups: int) -> None:
    targets = targets_of(SIZES)
    made = make(targets, embedding(), count=count)
    total = groups * 2 * FULLEST
    assert (made.meta.groups, made.meta.queries) == (groups, total)
    assert made.content.shape == (len(SIZES), total, DIM)
    assert made.boxes_unact.shape == (len(SIZES), total, 4)
    for size, positive in zip(SIZES, made.meta.positive, strict=True):
        wanted = [group * 2 * FULLEST + index for group in range(groups) for index in range(size)]
        assert positive.dtype == torch.int64
        assert positive.tolist() == wanted


def test_attention_mask_keeps_answers_hidden() -> None:
    made = make(targets_of(SIZES), embedding())
    total = made.meta.queries
    assert made.attention_mask.shape == (total + QUERIES, total + QUERIES)
    assert made.attention_mask.dtype == torch.bool
    for row in range(total + QUERIES):
        for column in range(total + QUERIES):
            if column >= total:
                hidden = False  # everybody sees the ordinary queries
            elif row >= total:
                hidden = True  # which see no denoising query
            else:
                hidden = row // (2 * FULLEST) != column // (2 * FULLEST)
            assert made.attention_mask[row, column].item() == hidden


def test_without_noise_the_queries_are_the_objects() -> None:
    targets, embed = targets_of(SIZES), embedding()
    made = make(targets, embed, label_noise_ratio=0.0, box_noise_scale=0.0)
    for image, (size, target) in enumerate(zip(SIZES, targets, strict=True)):
        for group in range(made.meta.groups):
            for half in range(2):
                start = (2 * group + half) * FULLEST
                rows = slice(start, start + size)
                torch.testing.assert_close(made.boxes_unact[image, rows].sigmoid(), target["boxes"])
                assert torch.equal(made.content[image, rows], embed(target["labels"]))
                assert not made.content[image, start + size : start + FULLEST].any()


def test_noise_moves_edges_as_far_as_it_says() -> None:
    targets, scale = targets_of(SIZES), 0.4
    made = make(targets, embedding(), count=500, label_noise_ratio=0.0, box_noise_scale=scale)
    shifts: dict[int, list[Tensor]] = {0: [], 1: []}
    for image, (size, target) in enumerate(zip(SIZES, targets, strict=True)):
        halves = made.boxes_unact[image].sigmoid().view(made.meta.groups, 2, FULLEST, 4)[:, :, :size]
        for half in range(2):
            moved = box_cxcywh_to_xyxy(halves[:, half]) - box_cxcywh_to_xyxy(target["boxes"])
            shifts[half].append((moved / (target["boxes"][:, 2:].repeat(1, 2) / 2)).flatten())
    near, far = torch.cat(shifts[0]), torch.cat(shifts[1])
    assert near.abs().max() <= scale + 1e-4
    assert near.abs().max() > 0.98 * scale
    assert near.abs().min() < 0.02 * scale
    assert far.abs().min() >= scale - 1e-4
    assert far.abs().max() <= 2 * scale + 1e-4
    assert far.abs().max() > 1.98 * scale
    for values in (near, far):  # both directions, evenly
        assert 0.45 < (values > 0).float().mean() < 0.55


def test_large_noise_still_gives_boxes_in_the_image() -> None:
    targets = [
        {"labels": torch.zeros(2, dtype=torch.int64), "boxes": torch.tensor([[0.5] * 4, [0.05, 0.95, 0.1, 0.1]])}
    ]
    boxes = make(targets, embedding(), count=400, box_noise_scale=2.0).boxes_unact
    assert torch.isfinite(boxes).all()
    corners = box_cxcywh_to_xyxy(boxes.sigmoid())
    assert corners.min() >= -1e-4
    assert corners.max() <= 1 + 1e-4


def test_share_of_changed_labels() -> None:
    targets, embed = targets_of([20, 10]), embedding()
    made = make(targets, embed, count=2000, label_noise_ratio=0.6)
    rows = made.content[0].view(-1, 20, DIM)
    kept = (rows == embed(targets[0]["labels"])).all(-1).float().mean().item()
    assert kept == pytest.approx(1 - 0.3 * (1 - 1 / CLASSES), abs=0.03)
    padding = made.content[1].view(-1, 20, DIM)[:, 10:]
    assert not padding.any()


def test_a_part_of_a_batch_draws_what_the_whole_would() -> None:
    targets, embed, seeds = targets_of(SIZES), embedding(), (11, 12, 13, 2**62)

    def part(rows: slice, seeds: tuple[int, ...] = seeds) -> DenoisingQueries:
        made = make_denoising_queries(
            targets[rows],
            num_classes=CLASSES,
            num_queries=QUERIES,
            class_embedding=embed,
            draw=DenoisingDraw(fullest=FULLEST, seeds=seeds[rows]),
        )
        assert made is not None
        return made

    torch.manual_seed(0)
    whole = part(slice(None))
    torch.manual_seed(1)
    for rows in (slice(0, 1), slice(1, 2), slice(2, 4)):  # the second holds no object
        made = part(rows)
        assert torch.equal(made.boxes_unact, whole.boxes_unact[rows])
        assert torch.equal(made.content, whole.content[rows])
        assert torch.equal(made.attention_mask, whole.attention_mask)
        assert (made.meta.groups, made.meta.queries) == (whole.meta.groups, whole.meta.queries)
        for got, expected in zip(made.meta.positive, whole.meta.positive[rows], strict=True):
            assert torch.equal(got, expected)
    other = part(slice(None), (11, 12, 99, 2**62))
    same = [torch.equal(got, expected) for got, expected in zip(other.boxes_unact, whole.boxes_unact, strict=True)]
    assert same == [True, True, False, True]


@pytest.mark.parametrize(("fullest", "seeds"), [(4, (1, 2, 3, 4)), (5, (1, 2))])
def test_a_draw_must_be_of_the_whole_batch(fullest: int, seeds: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="expected a draw for 4 images with up to 5 objects"):
        make_denoising_queries(
            targets_of(SIZES),
            num_classes=CLASSES,
            num_queries=QUERIES,
            class_embedding=embedding(),
            draw=DenoisingDraw(fullest=fullest, seeds=seeds),
        )


def test_only_the_embedding_is_trained() -> None:
    embed = embedding()
    made = make(targets_of(SIZES), embed)
    assert not made.boxes_unact.requires_grad
    made.content.sum().backward()
    assert embed.weight.grad is not None
    assert embed.weight.grad[:CLASSES].any()
    assert not embed.weight.grad[CLASSES].any()


@pytest.mark.parametrize(("sizes", "count"), [([0, 0], 100), (SIZES, 0)])
def test_nothing_to_denoise(sizes: list[int], count: int) -> None:
    made = make_denoising_queries(
        targets_of(sizes), num_classes=CLASSES, num_queries=QUERIES, class_embedding=embedding(), num_denoising=count
    )
    assert made is None


@pytest.mark.parametrize("options", [{"count": -1}, {"label_noise_ratio": 1.5}, {"box_noise_scale": -0.1}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="correct the config"):
        make(targets_of(SIZES), embedding(), **options)  # type: ignore[arg-type]


@pytest.mark.cuda
def test_queries_are_made_where_the_embedding_is() -> None:
    targets = [{name: value.to("cuda") for name, value in target.items()} for target in targets_of(SIZES)]
    made = make(targets, embedding().to("cuda"), label_noise_ratio=0.0, box_noise_scale=0.0)
    assert {made.content.device.type, made.boxes_unact.device.type, made.attention_mask.device.type} == {"cuda"}
    assert all(positive.device.type == "cpu" for positive in made.meta.positive)
    torch.testing.assert_close(made.boxes_unact[0, : SIZES[0]].sigmoid(), targets[0]["boxes"])

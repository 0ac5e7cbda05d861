"""Deformable attention: what is sampled against a plain reference, in every way it is computed, and its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.models.cell_table import CellTable
from training.models.deformable_attention import DeformableAttention, HeadMaps, Shape

SHAPES: list[Shape] = [(6, 5), (3, 3), (1, 2)]
POINTS = (3, 2, 1)
CELLS = sum(h * w for h, w in SHAPES)
BATCH, QUERIES, HEADS, CHANNELS = 2, 7, 2, 4


def inputs(*, spread: float = 1.4) -> tuple[Tensor, Tensor, Tensor]:
    """Memory, locations (also outside of the maps) and weights."""

    memory = torch.randn(BATCH, CELLS, HEADS * CHANNELS)
    locations = (torch.rand(BATCH, QUERIES, HEADS, sum(POINTS), 2) - 0.5) * spread + 0.5
    weights = torch.randn(BATCH, QUERIES, HEADS, sum(POINTS)).softmax(-1)
    return memory, locations, weights


def reference(memory: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Point by point, cell by cell."""
    out = torch.zeros(BATCH, QUERIES, HEADS, CHANNELS)
    table = memory.view(BATCH, -1, HEADS, CHANNELS)
    level_of = [level for level, count in enumerate(POINTS) for _ in range(count)]
    for b, q, h, p in torch.cartesian_prod(*map(torch.arange, weights.shape)).tolist():
        height, width = SHAPES[level_of[p]]
        start = sum(a * b for a, b in SHAPES[: level_of[p]])
        x, y = (locations[b, q, h, p] * torch.tensor([width, height]) - 0.5).tolist()
        for row in range(math.floor(y), math.floor(y) + 2):
            for column in range(math.floor(x), math.floor(x) + 2):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[b, q, h, p]
                    out[b, q, h] += share * table[b, start + row * width + column, h]
    return out.flatten(2)


def sampled(kind: str, memory: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    values = (
        CellTable(memory, SHAPES, HEADS) if kind == "table" else HeadMaps(memory, SHAPES, HEADS, sampling="bilinear")
    )
    return values.sample(locations, weights, POINTS)


@pytest.mark.parametrize("kind", ["table", "maps"])
@pytest.mark.parametrize("spread", [0.5, 1.4, 5.0])
def test_sampling_equals_the_plain_reference(kind: str, spread: float) -> None:
    torch.manual_seed(0)
    given = inputs(spread=spread)
    torch.testing.assert_close(sampled(kind, *given), reference(*given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spread", [0.5, 1.4, 5.0])
def test_both_ways_of_sampling_have_the_same_gradients(spread: float) -> None:
    torch.manual_seed(1)
    given = [values.requires_grad_() for values in inputs(spread=spread)]
    table, maps = (sampled(kind, *given) for kind in ("table", "maps"))
    wanted = torch.randn_like(table)
    for ours, theirs in zip(*(torch.autograd.grad(out, given, wanted) for out in (table, maps)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("dim", "expected"), [(2 * 16, CellTable), (2 * 8, HeadMaps)])
def test_rows_are_added_up_where_they_are_long(dim: int, expected: type) -> None:
    layer = DeformableAttention(dim, 2, POINTS)
    assert isinstance(layer.values(torch.randn(1, CELLS, dim), SHAPES), expected)


def test_discrete_and_double_precision_sampling_take_maps() -> None:
    memory = torch.randn(1, CELLS, 64)
    assert isinstance(DeformableAttention(64, 2, POINTS, sampling="discrete").values(memory, SHAPES), HeadMaps)
    assert isinstance(DeformableAttention(64, 2, POINTS).values(memory.double(), SHAPES), HeadMaps)


def test_repeated_backward_is_the_same_bit_for_bit() -> None:
    """What an exact resume rests on."""
    torch.manual_seed(2)
    given = [values.requires_grad_() for values in inputs()]
    out = sampled("table", *given)
    wanted = torch.randn_like(out)
    first, second = (torch.autograd.grad(out, given, wanted, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

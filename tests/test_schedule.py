"""Learning rates against the formulas of the codes they come from, written once more."""

from __future__ import annotations

import math

import pytest

from edgedet import InvalidInputError
from training.schedule import Schedule

TOTAL = 1000


def flat_cosine(step: int, *, warmup: int, flat: int, tail: int, final: float) -> float:
    """DEIM's, for iteration numbers from 1."""
    if step <= warmup:
        return (step / warmup) ** 2
    if step <= flat:
        return 1.0
    if step >= TOTAL - tail:
        return final
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - flat) / (TOTAL - flat - tail)))


@pytest.mark.parametrize(
    ("warmup", "flat", "tail", "final"), [(50, 500, 140, 0.5), (20, 480, 90, 0.5), (50, 500, 0, 0)]
)
def test_flat_cosine_is_that_of_deim(warmup: int, flat: int, tail: int, final: float) -> None:
    schedule = Schedule(
        "flat-cosine", total=TOTAL, warmup_steps=warmup, flat=flat / TOTAL, tail=tail / TOTAL, final=final
    )
    for step in range(TOTAL):
        expected = flat_cosine(step + 1, warmup=warmup, flat=flat, tail=tail, final=final)
        assert schedule.factor(step) == pytest.approx(expected, abs=1e-9)


def test_a_flat_part_that_never_ends_is_constant() -> None:
    schedule = Schedule("flat-cosine", total=TOTAL, warmup_steps=20, flat=1.0, tail=0.075, final=1.0)
    assert {schedule.factor(step) for step in range(20, TOTAL)} == {1.0}


def test_cosine_rises_linearly_and_falls_to_the_end() -> None:
    schedule = Schedule("cosine", total=TOTAL, warmup_steps=50, final=0.0)
    for step in range(TOTAL):
        number = step + 1
        expected = number / 50 if number <= 50 else 0.5 * (1 + math.cos(math.pi * (number - 50) / (TOTAL - 50)))
        assert schedule.factor(step) == pytest.approx(expected, abs=1e-9)


def test_steps_divide_by_ten_at_each_milestone() -> None:
    schedule = Schedule("step", total=TOTAL, warmup_steps=10, milestones=(0.5, 0.9))
    assert [schedule.factor(step) for step in (0, 4, 9, 10, 499)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [schedule.factor(step) for step in (500, 899, 900, 999)] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert {Schedule("step", total=TOTAL, warmup=0.0).factor(step) for step in range(TOTAL)} == {1.0}


def test_one_cycle_is_that_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=TOTAL + 1, pct_start=100 / TOTAL, div_factor=25, final_div_factor=4
    )
    ours = Schedule("one-cycle", total=TOTAL, warmup=0.1, final=0.01)
    for step in range(TOTAL):
        optimizer.step()
        theirs.step()
        assert ours.factor(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-2)


def test_warm_up_is_the_shorter_of_steps_and_fraction() -> None:
    long, short = (Schedule("cosine", total=total, warmup=0.1, warmup_steps=500) for total in (100_000, 1000))
    assert long.factor(499) == 1.0
    assert long.factor(498) < 1.0
    assert short.factor(99) == 1.0
    assert short.factor(98) < 1.0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": "linear"}, "schedule"), ({"total": 0}, "schedule"), ({"warmup": 1.0}, "warmup"),
        ({"warmup_steps": -1}, "warmup"), ({"kind": "flat-cosine", "flat": 0.05}, "flat"), ({"tail": 1.0}, "tail"),
        ({"final": 1.5}, "final_lr"), ({"milestones": (1.5,)}, "milestones"),
    ],
)  # fmt: skip
def test_settings_are_checked(options: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        Schedule(**{"kind": "cosine", "total": 10, **options})  # type: ignore[arg-type]

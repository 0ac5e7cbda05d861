"""The weight average: its warm-up and a decay that changes on the way. Its recurrence is tested with the loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgedet import InvalidInputError
from training.ema import Ema, warmup_updates


@pytest.mark.parametrize(
    ("wanted", "total", "expected"),
    [(None, 1000, 50), (1000, 100_000, 1000), (1000, 1000, 50), (None, 3, 1), (0, 90, 1)],
)
def test_warm_up_fits_the_run(wanted: int | None, total: int, expected: int) -> None:
    assert warmup_updates(wanted, total) == expected


def test_a_decay_may_change_on_the_way() -> None:
    model = nn.Linear(1, 1, bias=False)
    ema = Ema(model, decay=0.9, warmup=1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        ema.module.weight.zero_()
    ema.update(model)
    first = 1 - 0.9 * (1 - math.exp(-1))
    assert ema.module.weight.item() == pytest.approx(first)
    ema.decay = 0.5
    ema.update(model)
    decay = 0.5 * (1 - math.exp(-2))
    assert ema.module.weight.item() == pytest.approx(decay * first + 1 - decay)


def test_no_average_is_the_model_itself() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model, decay=0.0, warmup=1)
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update(model)
    torch.testing.assert_close(ema.module.weight, model.weight)


@pytest.mark.parametrize(("decay", "warmup"), [(1.0, 1), (-0.1, 1), (0.9, 0)])
def test_settings_are_checked(decay: float, warmup: int) -> None:
    with pytest.raises(InvalidInputError, match="EMA"):
        Ema(nn.Linear(1, 1), decay=decay, warmup=warmup)

"""How much a term counts as training goes on: from features to logits, or the other way (stage-adaptive)."""

from __future__ import annotations

import math
from typing import Literal

DistillationSchedule = Literal["constant", "cosine", "linear", "step", "sigmoid", "inverse-cosine"]

_STEEPNESS = 10.0  # of the sigmoid


def schedule_factor(kind: DistillationSchedule, epoch: int, epochs: int) -> float:
    """The factor of epoch e of E, counted from 0, in [0, 1].

    cosine: cos(pi e / 2E). linear: 1 - e / E. step: 1 in the first half, then 0. sigmoid: 1 / (1 + exp(-k (E/2 - e) /
    E)) with k = 10. inverse-cosine: sin(pi e / 2E), the control that goes the other way. constant: 1.
    """
    done = min(max(epoch / epochs, 0.0), 1.0)
    if kind == "cosine":
        return math.cos(math.pi / 2 * done)
    if kind == "linear":
        return 1.0 - done
    if kind == "step":
        return float(done < 0.5)
    if kind == "sigmoid":
        return 1.0 / (1.0 + math.exp(-_STEEPNESS * (0.5 - done)))
    if kind == "inverse-cosine":
        return math.sin(math.pi / 2 * done)
    return 1.0

"""Learning rates as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from edgedet import InvalidInputError

ScheduleKind = Literal["one-cycle", "flat-cosine"]


@dataclass(frozen=True)
class Schedule:
    """Warm-up, maybe a flat part, then a cosine down to `final`.

    kind "one-cycle" rises by a half cosine from 1/25 and falls at once (Smith and Topin, 2019, with cosine legs);
    "flat-cosine" rises with the square of the step and stays up until `flat` (RTMDet, Lyu et al., 2022).
    total: steps of the run. warmup, flat: fractions of the run where the rise and the flat part end. final: factor at
    the end.
    """

    kind: ScheduleKind
    total: int
    warmup: float = 0.1
    flat: float = 0.5
    final: float = 0.01

    def __post_init__(self) -> None:
        """Raises InvalidInputError for an unknown kind, no steps, or fractions outside [0, 1] or out of order."""
        if self.kind not in get_args(ScheduleKind):
            raise InvalidInputError(f"schedule: expected one of {', '.join(get_args(ScheduleKind))}, got {self.kind!r}")
        if self.total < 1:
            raise InvalidInputError(f"schedule: expected at least one step, got {self.total}")
        if not 0.0 <= self.warmup < 1.0:
            raise InvalidInputError(f"warmup: expected a fraction of the run in [0, 1), got {self.warmup}")
        if self.kind == "flat-cosine" and not self.warmup <= self.flat <= 1.0:
            raise InvalidInputError(f"flat: expected a fraction of the run in [warmup, 1], got {self.flat}")
        if not 0.0 <= self.final <= 1.0:
            raise InvalidInputError(f"final_lr: expected a factor in [0, 1], got {self.final}")

    def factor(self, step: int) -> float:
        """What the base learning rate is multiplied by in step `step`, counted from 0."""
        rise = round(self.warmup * self.total)
        if step < rise:
            progress = (step + 1) / rise
            if self.kind == "flat-cosine":
                return progress * progress
            return 1.0 / 25.0 + (1.0 - 1.0 / 25.0) * (1.0 - math.cos(math.pi * progress)) / 2.0
        fall = rise if self.kind == "one-cycle" else max(rise, round(self.flat * self.total))
        if step < fall:
            return 1.0
        progress = min(1.0, (step + 1 - fall) / max(1, self.total - fall))
        return self.final + (1.0 - self.final) * (1.0 + math.cos(math.pi * progress)) / 2.0

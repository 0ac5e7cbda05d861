"""Learning rates as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from edgedet import InvalidInputError

ScheduleKind = Literal["one-cycle", "flat-cosine", "cosine", "step"]

_STEP_FACTOR = 0.1


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then what the kind says.

    "one-cycle" rises by a half cosine from 1/25 and falls at once by another one (Smith and Topin, 2019).
    "flat-cosine" rises with the square of the step, stays up until `flat`, falls by a half cosine to `final`, which it
    reaches at 1 - `tail` (RTMDet, Lyu et al., 2022). "cosine" rises linearly and falls at once by a half cosine.
    "step" rises linearly and is divided by ten after each milestone.

    total: steps of the run. warmup: fraction of the run in which the rate rises, or `warmup_steps` if that is sooner
    and not 0. flat, milestones: fractions of the run. tail: fraction at its end. final: factor at the end.
    """

    kind: ScheduleKind
    total: int
    warmup: float = 0.1
    warmup_steps: int = 0
    flat: float = 0.5
    tail: float = 0.0
    final: float = 0.01
    milestones: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raises InvalidInputError for an unknown kind, no steps, or fractions outside [0, 1] or out of order."""
        if self.kind not in get_args(ScheduleKind):
            raise InvalidInputError(f"schedule: expected one of {', '.join(get_args(ScheduleKind))}, got {self.kind!r}")
        if self.total < 1:
            raise InvalidInputError(f"schedule: expected at least one step, got {self.total}")
        if not 0.0 <= self.warmup < 1.0 or self.warmup_steps < 0:
            raise InvalidInputError(
                f"warmup: expected a fraction of the run in [0, 1) and steps of 0 or more, "
                f"got {self.warmup} and {self.warmup_steps}"
            )
        if self.kind == "flat-cosine" and not self.warmup <= self.flat <= 1.0:
            raise InvalidInputError(f"flat: expected a fraction of the run in [warmup, 1], got {self.flat}")
        if not 0.0 <= self.tail < 1.0:
            raise InvalidInputError(f"tail: expected a fraction of the run in [0, 1), got {self.tail}")
        if not 0.0 <= self.final <= 1.0:
            raise InvalidInputError(f"final_lr: expected a factor in [0, 1], got {self.final}")
        if any(not 0.0 < mark <= 1.0 for mark in self.milestones):
            raise InvalidInputError(f"milestones: expected fractions of the run in (0, 1], got {self.milestones}")

    def factor(self, step: int) -> float:
        """What the base learning rate is multiplied by in step `step`, counted from 0."""
        rise = round(self.warmup * self.total)
        if self.warmup_steps:
            rise = min(rise, self.warmup_steps)
        if step < rise:
            return self._rising((step + 1) / rise)
        if self.kind == "step":
            return _STEP_FACTOR ** sum(step >= round(mark * self.total) for mark in self.milestones)
        fall = max(rise, round(self.flat * self.total)) if self.kind == "flat-cosine" else rise
        if step < fall:
            return 1.0
        end = self.total - (round(self.tail * self.total) if self.kind == "flat-cosine" else 0)
        progress = min(1.0, (step + 1 - fall) / max(1, end - fall))
        return self.final + (1.0 - self.final) * (1.0 + math.cos(math.pi * progress)) / 2.0

    def _rising(self, progress: float) -> float:
        """The factor at a part of the warm-up, in (0, 1]."""
        if self.kind == "flat-cosine":
            return progress * progress
        if self.kind == "one-cycle":
            return 1.0 / 25.0 + (1.0 - 1.0 / 25.0) * (1.0 - math.cos(math.pi * progress)) / 2.0
        return progress

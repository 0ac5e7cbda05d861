"""What a search is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from calibration.render import BackendName
from edgedet import InvalidInputError

Target = Literal["latency", "accuracy"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What the answer has to hold, and what it may cost to find it.

    Attributes:
        backend: the engine.
        max_drop: largest accepted loss of AP on the images of the search.
        target: `latency` the fastest that holds; `accuracy` the one that loses least and is faster than float.
        budget_minutes: no candidate is begun later than this.
        threads: CPU threads of all engines, 0 for the backend's choice.
        probe: number of calibration images that divergence is measured on.
        seconds: of timing per candidate.
    """

    backend: BackendName = "openvino"
    max_drop: float = 0.005
    target: Target = "latency"
    budget_minutes: float = 60.0
    threads: int = 0
    probe: int = 32
    seconds: float = 2.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.0 < self.max_drop <= 1.0:
            raise InvalidInputError(f"expected max_drop in (0, 1], got {self.max_drop}")
        if self.target not in TARGETS:
            raise InvalidInputError(f"expected a target of {', '.join(TARGETS)}, got '{self.target}'")
        if self.budget_minutes <= 0.0 or self.threads < 0 or self.probe < 1 or self.seconds <= 0.0:
            raise InvalidInputError(
                f"expected budget_minutes > 0, threads >= 0, probe >= 1 and seconds > 0, got {self}"
            )

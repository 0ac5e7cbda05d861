"""Which sections there are, what they take, and how the time of a run is shared out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SectionPlan:
    """share: of a run's time. seconds: an estimate for a desktop GPU; nobody has measured it yet."""

    name: str
    text: str
    share: float
    seconds: int


# In the order of what matters if the time ends: engines first, without which there is nothing to measure.
SECTIONS = (
    SectionPlan("environment", "device, driver, versions, clocks", 0.02, 10),
    SectionPlan("build", "engines of every network and precision: seconds, MB, layers", 0.36, 420),
    SectionPlan("accuracy", "AP and boxes against onnxruntime in float32; the verdict of `verify`", 0.12, 70),
    SectionPlan("speed", "end to end, engine alone, stages, VRAM; batch 1 and 8", 0.14, 60),
    SectionPlan("oracle", "output tensors of another program on the same plan", 0.04, 20),
    SectionPlan("stress", "threads, 10,000 frames, memory limit, swap, several engines", 0.13, 80),
    SectionPlan("peers", "other ways from the frame to detections, by turns", 0.09, 60),
    SectionPlan("plugin", "fused deformable attention against gather", 0.03, 60),
    SectionPlan("tests", "the tests that need TensorRT, all of them required", 0.07, 60),
)
NAMES = tuple(section.name for section in SECTIONS)


@dataclass(frozen=True)
class Allotment:
    """A section and the second of the run by which it has to stop: what earlier ones left is its, too."""

    plan: SectionPlan
    until: float


def allot(only: Iterable[str] | None, minutes: float) -> list[Allotment]:
    """The time of a run, shared out among the sections that take part in it."""
    chosen = set(NAMES if only is None else only)
    plans = [section for section in SECTIONS if section.name in chosen]
    whole = sum(plan.share for plan in plans)
    found: list[Allotment] = []
    until = 0.0
    for plan in plans:
        until += plan.share / whole * minutes * 60
        found.append(Allotment(plan, until))
    return found


def plan_text(allotments: Sequence[Allotment], steps_left: dict[str, int]) -> str:
    """The plan, for people. steps_left: of sections that an earlier run began."""
    lines = ["section      until     estimate  what"]
    for allotment in allotments:
        plan = allotment.plan
        begun = f" ({steps_left[plan.name]} steps done)" if steps_left.get(plan.name) else ""
        until = f"{int(allotment.until) // 60}:{int(allotment.until) % 60:02d}"
        lines.append(f"{plan.name:<12} {until:<9} {plan.seconds:>5} s   {plan.text}{begun}")
    estimate = sum(allotment.plan.seconds for allotment in allotments)
    lines.append(
        f"estimated {estimate / 60:.0f} minutes (not measured), {allotments[-1].until / 60:.1f} given; "
        "the same command goes on where it stopped"
    )
    return "\n".join(lines)


@dataclass(frozen=True)
class Clock:
    """Counts down to a moment of `now`."""

    end: float
    now: Callable[[], float] = time.monotonic

    def left(self) -> float:
        """Seconds; 0 when it is over."""
        return max(self.end - self.now(), 0.0)

"""The rows of a sweep: figures of each contender against FP32, the Pareto front, and the recommendation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedet.coco_compare import allowed_drop
from edgedet.sweep.contenders import FP32, Contender
from edgedet.turns import ratio_of_medians


@dataclass(frozen=True)
class Row:
    """One contender and what was measured of it; figures are None where it did not run.

    Attributes:
        contender: Who.
        reason: Why it did not run, empty if it did.
        ap: AP, AP50, AP75, AP_small, AP_medium, AP_large.
        drop: AP that is lost against FP32.
        drop_se: Standard error of `drop`.
        latency_ms: p50, p90, p99, mean of a frame, from memory to detections.
        ratio: Of medians, against FP32 in the same turns.
        ratio_se: Standard error of `ratio`.
        facts: build_s, model_mb, rss_mb, vram_mb, device, threads, verified.
    """

    contender: Contender
    reason: str = ""
    ap: Mapping[str, float] = field(default_factory=dict)
    drop: float | None = None
    drop_se: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    ratio: float | None = None
    ratio_se: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether all figures are there."""
        return not self.reason and self.ratio is not None

    @property
    def verified(self) -> str:
        """The state of the bundle's report about this engine, "reference" for FP32."""
        return str(self.facts.get("verified") or "reference") if self.measured else ""

    def flat(self) -> dict[str, Any]:
        """One level of plain values, for CSV and JSON."""
        keys = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
        latency = {key: self.latency_ms.get(key) for key in ("p50", "p90", "p99", "mean")}
        mean = latency["mean"]
        return {
            "name": self.contender.name,
            "precision": self.contender.precision,
            "file": self.contender.file,
            "same_as": self.contender.same_as,
            **{key: _rounded(self.ap.get(key), 5) for key in keys},
            "AP_drop": _rounded(self.drop, 5),
            "AP_drop_se": _rounded(self.drop_se, 5),
            **{f"{key}_ms": _rounded(value, 3) for key, value in latency.items()},
            "fps": _rounded(1e3 / mean if mean else None, 2),
            "time_ratio": _rounded(self.ratio, 4),
            "time_ratio_se": _rounded(self.ratio_se, 4),
            "rss_mb": _rounded(self.facts.get("rss_mb"), 1),
            "vram_mb": _rounded(self.facts.get("vram_mb"), 1),
            "model_mb": _rounded(self.facts.get("model_mb"), 3),
            "build_s": _rounded(self.facts.get("build_s"), 2),
            "verified": self.verified,
            "reason": self.reason,
        }


def timed(milliseconds: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, Any]:
    """`latency_ms`, `ratio` and `ratio_se` of a row, from (T,) turns of it and of FP32."""
    levels = {f"p{level}": float(np.percentile(milliseconds, level)) for level in (50, 90, 99)}
    ratio, error = ratio_of_medians(milliseconds, reference)
    return {"latency_ms": {**levels, "mean": float(milliseconds.mean())}, "ratio": ratio, "ratio_se": error}


def front(rows: Sequence[Row]) -> list[Row]:
    """Those that none beats in time and AP alike, fastest first; rows of the same engine count once."""
    ranked = sorted(
        (row for row in rows if row.measured and not row.contender.same_as),
        key=lambda row: (row.ratio or 0.0, row.drop or 0.0),
    )
    kept: list[Row] = []
    for row in ranked:
        if not kept or (row.drop or 0.0) < (kept[-1].drop or 0.0):
            kept.append(row)
    return kept


def recommended(rows: Sequence[Row], max_drop: float) -> Row | None:
    """The fastest that is surely faster than FP32 and loses no more AP than `verify` accepts; None for FP32 itself."""
    fit = [
        row
        for row in rows
        if row.measured
        and not row.contender.same_as
        and row.contender.name != FP32
        and (row.ratio or 0.0) + 2.0 * (row.ratio_se or 0.0) < 1.0
        and (row.drop or 0.0) <= allowed_drop(max_drop, row.drop_se or 0.0)
    ]
    return min(fit, key=lambda row: row.ratio or 0.0) if fit else None


def advice(rows: Sequence[Row], max_drop: float) -> str:
    """The recommendation in one sentence."""
    row = recommended(rows, max_drop)
    if row is None:
        return f"fp32: nothing is faster within --max-drop {max_drop:g}"
    lost = -(row.drop or 0.0)
    proof = "verified" if row.verified == "passed" else f"{row.verified}: run python -m calibration verify"
    usual = row.contender.name in (row.contender.precision.upper(), "INT8 (Q/DQ)")
    name = row.contender.precision if usual else row.contender.name
    return f"best here: {name}, {row.ratio or 0.0:.2f}x of fp32's time, {lost:+.3f} AP, {proof}"


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), digits)

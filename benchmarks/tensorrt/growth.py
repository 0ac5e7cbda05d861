"""Whether something grows: a line through samples, and how sure its slope is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """A least-squares line through samples.

    Attributes:
        slope: units a frame.
        error: standard error of the slope, from the residuals.
        over: frames that `total` is for.
        total: slope * over.
        total_error: error * over.
        spread: largest sample minus the least.
    """

    slope: float
    error: float
    over: int
    total: float
    total_error: float
    spread: float

    def flat(self, limit: float) -> bool:
        """Whether `total` is at most `limit`, also with two standard errors added. What shrinks is flat."""
        return self.total + 2 * self.total_error <= limit

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def growth(frames: Sequence[float], values: Sequence[float], *, over: int) -> Growth:
    """Fits values = a + slope * frames.

    Standard error of the slope: sqrt(sum of squared residuals / (n - 2) / sum of squared distances of `frames` from
    their mean).

    Raises:
        ValueError: fewer than three samples, or all at one frame.
    """
    x, y = np.asarray(frames, np.float64), np.asarray(values, np.float64)
    centred = x - x.mean()
    spread = float((centred**2).sum())
    if len(x) < 3 or spread == 0:
        raise ValueError(f"expected three samples or more at different frames, got {len(x)}")
    slope = float((centred * y).sum()) / spread
    residuals = y - y.mean() - slope * centred
    error = float(np.sqrt((residuals**2).sum() / (len(x) - 2) / spread))
    return Growth(slope, error, over, slope * over, error * over, float(y.max() - y.min()))

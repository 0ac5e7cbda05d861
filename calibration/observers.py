"""Observers: streaming statistics of one tensor, and the range that each method reads from them.

One `Histogram` per tensor is filled in a single pass; every method (min-max, average, percentile, entropy, MSE) is a
pure function of it, so trying another method costs no second pass over the images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edgedet import InvalidInputError

Method = Literal["minmax", "average", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
BINS = 2048
LEVELS = 256
_LARGEST_CUT = 1e-3


@dataclass(frozen=True)
class Range:
    """The interval of real values that the integer grid of a tensor has to cover; `low` <= 0 <= `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse an interval no grid can represent."""
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low <= 0.0 <= self.high):
            raise InvalidInputError(
                f"expected a finite range that contains zero, got [{self.low}, {self.high}]; calibrate again"
            )


class Histogram:
    """Counts of a tensor's values over bins that widen as larger values arrive; memory does not grow with the data.

    The bins start on the extent of the first batch. When a value falls outside, the width of every bin doubles and
    pairs of bins are merged, so counts stay exact and a bin edge never moves to a place that would split an old bin.
    """

    def __init__(self, bins: int = BINS) -> None:
        """Start empty.

        Args:
            bins: number of bins, even and at least 2.
        """
        if bins < 2 or bins % 2:
            raise InvalidInputError(f"expected an even number of bins >= 2, got {bins}")
        self.bins = bins
        self.counts: npt.NDArray[np.int64] = np.zeros(bins, np.int64)
        self.minimum = np.inf
        self.maximum = -np.inf
        self.low_sum = 0.0
        self.high_sum = 0.0
        self.groups = 0
        self._low = 0.0
        self._width = 0.0

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Bin edges, `bins` + 1 values."""
        return self._low + self._width * np.arange(self.bins + 1, dtype=np.float64)

    @property
    def total(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    def update(self, values: npt.NDArray[np.float32], *, groups: int = 1) -> None:
        """Add the values of one batch.

        Args:
            values: any shape; the first axis is divisible by `groups`.
            groups: how many images the first axis holds; the `average` observer takes the extent of each.

        Raises:
            InvalidInputError: a value is NaN or infinite.
        """
        flat = values.reshape(-1)
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):  # NaN propagates through min and max
            raise InvalidInputError("expected finite activations, got NaN or infinity")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        images = flat.reshape(groups, -1)
        self.low_sum += float(images.min(axis=1).sum(dtype=np.float64))
        self.high_sum += float(images.max(axis=1).sum(dtype=np.float64))
        self.groups += groups
        if self._width == 0.0:
            # A constant first batch still needs a width; widening takes care of the rest.
            self._low = low
            self._width = max(high - low, abs(high) * 1e-6, 1e-12) * (1 + 1e-6) / self.bins
        while low < self._low or high >= self._low + self._width * self.bins:
            self._widen(downwards=low < self._low)
        position = (flat.astype(np.float64) - self._low) * (1.0 / self._width) if flat.size < 4096 else None
        index = (
            position.astype(np.int64)
            if position is not None
            else ((flat - np.float32(self._low)) * np.float32(1.0 / self._width)).astype(np.int32)
        )
        np.clip(index, 0, self.bins - 1, out=index)
        self.counts += np.bincount(index, minlength=self.bins)

    def state(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Counts and the other numbers, for `restore`."""
        numbers = [self.minimum, self.maximum, self.low_sum, self.high_sum, self.groups, self._low, self._width]
        return self.counts, np.array(numbers, np.float64)

    def restore(self, counts: npt.NDArray[np.int64], numbers: npt.NDArray[np.float64]) -> None:
        """Continue from what `state` gave."""
        self.counts = counts.astype(np.int64)
        self.minimum, self.maximum, self.low_sum, self.high_sum, groups, self._low, self._width = numbers.tolist()
        self.groups = int(groups)

    def _widen(self, *, downwards: bool) -> None:
        half = self.bins // 2
        merged = self.counts.reshape(half, 2).sum(axis=1)
        self.counts = np.zeros(self.bins, np.int64)
        if downwards:
            self._low -= self._width * self.bins
            self.counts[half:] = merged
        else:
            self.counts[:half] = merged
        self._width *= 2.0


def observe(histogram: Histogram, method: Method, *, percentile: float = 99.99) -> Range:
    """Range that `method` reads from a histogram. Zero is always inside, because padding and ReLU need it exact.

    Args:
        histogram: at least one value.
        method: `minmax` the extent; `average` the mean over images of each image's extent, what a moving average tends
            to whatever the order of the images; `percentile` cuts (100 - percentile) / 2 percent at each end; `entropy`
            minimises the Kullback-Leibler divergence between the clipped distribution and its 256-level version;
            `mse` minimises the expected squared error of the 256-level grid.
        percentile: kept share of values in percent, in (50, 100]; read by `percentile` only.

    Raises:
        InvalidInputError: the histogram is empty or an argument is out of range.
    """
    if histogram.total == 0:
        raise InvalidInputError("expected a histogram with values, got an empty one; check the calibration set")
    if method == "minmax":
        return Range(min(histogram.minimum, 0.0), max(histogram.maximum, 0.0))
    if method == "average":
        low, high = histogram.low_sum / histogram.groups, histogram.high_sum / histogram.groups
        return Range(min(low, 0.0), max(high, 0.0))
    if method == "percentile":
        if not 50.0 < percentile <= 100.0:
            raise InvalidInputError(f"expected a percentile in (50, 100], got {percentile}")
        return _percentile(histogram, percentile)
    if method == "entropy":
        return _search(histogram, _without_spikes(histogram.counts), entropy_loss)
    if method == "mse":
        return _search(histogram, histogram.counts, squared_loss)
    raise InvalidInputError(f"expected an observer of {', '.join(METHODS)}, got '{method}'")


def entropy_loss(counts: npt.NDArray[np.int64], first: int, last: int) -> float:
    """KL divergence between the histogram clipped to bins [first, last) and its 256-level version.

    The reference P is the window with the mass outside added to its edge bins; Q spreads the mass of each of the 256
    levels evenly over that level's occupied bins, without the outliers (Migacz, "8-bit inference with TensorRT", 2017).

    Returns:
        The divergence in nats, >= 0; infinity where the window is empty.
    """
    window = counts[first:last].astype(np.float64)
    if not window.any():
        return float("inf")
    reference = window.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last:].sum()
    size = last - first
    level = np.arange(size) * LEVELS // size if size > LEVELS else np.arange(size)
    occupied = reference > 0
    mass = np.bincount(level, window, LEVELS)
    members = np.bincount(level, occupied, LEVELS)
    spread = np.where(occupied, (mass / np.maximum(members, 1))[level], 0.0)
    p = reference / reference.sum()
    q = np.maximum(spread / spread.sum(), 1e-12)  # an edge bin holding outliers only has no mass in Q
    return float(np.sum(p[occupied] * np.log(p[occupied] / q[occupied])))


def squared_loss(counts: npt.NDArray[np.int64], first: int, last: int) -> float:
    """Expected squared error, in bin widths, of a 256-level grid over bins [first, last), clipping what is outside.

    Inside, rounding to a grid of step s costs s^2 / 12 per value; outside, the distance to the nearest end.
    """
    centres = np.arange(len(counts)) + 0.5
    step = (last - first) / (LEVELS - 1)
    distance = np.maximum(first - centres, 0.0) + np.maximum(centres - last, 0.0)
    cost = np.where(distance > 0, distance**2, step**2 / 12.0)
    return float(np.sum(cost * counts) / counts.sum())


def _percentile(histogram: Histogram, percentile: float) -> Range:
    tail = (100.0 - percentile) / 200.0
    cumulative = np.concatenate([[0.0], np.cumsum(histogram.counts) / histogram.total])
    ends = np.interp([tail, 1.0 - tail], cumulative, histogram.edges)
    low, high = max(float(ends[0]), histogram.minimum), min(float(ends[1]), histogram.maximum)
    return Range(min(low, 0.0), max(high, 0.0))


def _without_spikes(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The counts with every bin that stands above both neighbours lowered to the larger of them.

    ReLU, padding and constants put many values on single numbers. Such a number lies on one level whatever the
    range, so it says nothing about the range; left in, it drowns the rest of the distribution (TensorRT drops its
    zero bin for the same reason). A smooth distribution stays as it is.
    """
    beside = np.pad(counts, 1)
    return np.minimum(counts, np.maximum(np.maximum(beside[:-2], beside[2:]), 1))


def _search(
    histogram: Histogram,
    counts: npt.NDArray[np.int64],
    loss: Callable[[npt.NDArray[np.int64], int, int], float],
) -> Range:
    """Shrink the upper and the lower end in turn to the window of least loss.

    An end at zero stays there, and none cuts more than `_LARGEST_CUT` of the values: a floor that ReLU leaves below
    zero (a bias behind it) is cheap to cut for either loss, but it moves most values the same way.
    """
    edges = histogram.edges
    zero = float(np.clip(-edges[0] / (edges[1] - edges[0]), 0, histogram.bins))
    occupied = np.flatnonzero(histogram.counts)
    lowest, highest = min(int(occupied[0]), int(zero)), max(int(occupied[-1]) + 1, int(np.ceil(zero)))
    minimum_width = LEVELS // 2
    if highest - lowest <= minimum_width:
        return observe(histogram, "minmax")
    share = np.cumsum(histogram.counts) / histogram.total
    last_bottom = int(np.searchsorted(share, _LARGEST_CUT, side="right"))  # bins below it hold no more than the cut
    first_top = int(np.searchsorted(share, 1.0 - _LARGEST_CUT)) + 1
    first, last = lowest, highest
    stride = max((highest - lowest) // 128, 1)
    for _ in range(2):
        floor = max(int(np.ceil(zero)), first + minimum_width, first_top)
        tops = [*range(highest, floor, -stride), floor] if floor < highest else [highest]
        last = min(tops, key=lambda top: loss(counts, first, top))
        ceiling = min(int(zero), last - minimum_width, last_bottom)
        bottoms = [*range(lowest, ceiling, stride), ceiling] if ceiling > lowest else [lowest]
        first = min(bottoms, key=lambda bottom: loss(counts, bottom, last))
    low = histogram.minimum if first == lowest else float(edges[first])
    high = histogram.maximum if last == highest else float(edges[last])
    return Range(min(low, 0.0), max(high, 0.0))

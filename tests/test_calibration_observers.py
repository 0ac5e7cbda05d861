"""Observers against NumPy and against an independent, plainly written implementation of each loss."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.observers import LEVELS, METHODS, Histogram, Range, entropy_loss, observe, squared_loss
from edgedet import InvalidInputError


def filled(*batches: np.ndarray, bins: int = 2048) -> Histogram:
    histogram = Histogram(bins)
    for batch in batches:
        histogram.update(batch.astype(np.float32))
    return histogram


def heavy_tailed(seed: int = 0, size: int = 200_000) -> np.ndarray:
    """What activations look like: a bulk and a few values far away."""
    rng = np.random.default_rng(seed)
    values = np.abs(rng.normal(size=size))
    values[:20] *= 30.0
    return values.astype(np.float32)


def naive_divergence(counts: list[int], first: int, last: int) -> float:
    """Migacz 2017, slide 38, with loops: reference with outliers in its edge bins against its 256-level version."""
    reference = [float(count) for count in counts[first:last]]
    reference[0] += sum(counts[:first])
    reference[-1] += sum(counts[last:])
    size = last - first
    level_of = [position * LEVELS // size if size > LEVELS else position for position in range(size)]
    quantised = [0.0] * size
    for level in set(level_of):
        members = [position for position in range(size) if level_of[position] == level and reference[position] > 0]
        mass = sum(counts[first + position] for position in range(size) if level_of[position] == level)
        for position in members:
            quantised[position] = mass / len(members)
    p_total, q_total = sum(reference), sum(quantised)
    divergence = 0.0
    for p, q in zip(reference, quantised, strict=True):
        if p > 0:
            divergence += p / p_total * math.log((p / p_total) / max(q / q_total, 1e-12))
    return divergence


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 3.0, 0.1), (0.01, 100.0), (5.0, -40.0)])
def test_streaming_histogram_counts_what_numpy_counts(scales: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    batches = [(rng.normal(size=5000) * scale + scale).astype(np.float32) for scale in scales]
    histogram = filled(*batches)
    everything = np.concatenate(batches).astype(np.float64)
    assert histogram.total == everything.size
    assert histogram.minimum == everything.min()
    assert histogram.maximum == everything.max()
    expected, _ = np.histogram(everything, histogram.edges)
    # A value within rounding of an edge may fall to either side; cumulative counts then differ by that value only.
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 3
    assert histogram.counts.size == 2048


def test_widening_keeps_the_resolution_within_a_factor_of_two() -> None:
    histogram = filled(np.linspace(0, 1, 1000), np.linspace(-70, 900, 1000))
    occupied = np.flatnonzero(histogram.counts)
    assert occupied[-1] - occupied[0] >= 2048 // 4


def test_a_constant_first_batch_is_no_obstacle() -> None:
    histogram = filled(np.zeros(100), np.full(100, 7.0), np.full(100, -2.0))
    assert (histogram.minimum, histogram.maximum, histogram.total) == (-2.0, 7.0, 300)
    assert observe(histogram, "minmax") == Range(-2.0, 7.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InvalidInputError, match="NaN or infinity"):
        filled(np.array([0.0, bad, 1.0]))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_contains_zero_and_stays_inside_the_extent(method: str) -> None:
    for values in (heavy_tailed(), -heavy_tailed(), heavy_tailed() + 3, heavy_tailed() - 10, np.full(10, 2.5)):
        histogram = filled(values)
        found = observe(histogram, method)  # type: ignore[arg-type]
        assert found.low <= 0.0 <= found.high
        assert found.low >= min(histogram.minimum, 0.0)
        assert found.high <= max(histogram.maximum, 0.0)
        assert found.high > found.low


def test_minmax_is_the_extent_with_zero() -> None:
    values = heavy_tailed() - 0.25
    assert observe(filled(values), "minmax") == Range(float(values.min()), float(values.max()))
    assert observe(filled(np.linspace(2, 5, 100)), "minmax") == Range(0.0, 5.0)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 100.0])
def test_percentile_agrees_with_numpy(percentile: float) -> None:
    values = np.random.default_rng(3).normal(size=100_000).astype(np.float32)
    histogram = filled(values)
    tail = (100.0 - percentile) / 2
    low, high = np.percentile(values, [tail, 100.0 - tail])
    found = observe(histogram, "percentile", percentile=percentile)
    width = histogram.edges[1] - histogram.edges[0]
    assert found.low == pytest.approx(low, abs=2 * width)
    assert found.high == pytest.approx(high, abs=2 * width)


@pytest.mark.parametrize(("first", "last"), [(0, 2048), (0, 300), (100, 1500), (700, 956), (0, 200), (3, 1999)])
def test_entropy_loss_agrees_with_the_plain_implementation(first: int, last: int) -> None:
    counts = np.random.default_rng(4).poisson(np.linspace(50, 0.01, 2048)).astype(np.int64)
    expected = naive_divergence(counts.tolist(), first, last)
    assert entropy_loss(counts, first, last) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_entropy_loss_of_an_empty_window_is_infinite() -> None:
    counts = np.zeros(2048, np.int64)
    counts[5] = 10
    assert entropy_loss(counts, 100, 400) == math.inf


def test_entropy_cuts_the_tail_and_keeps_the_bulk() -> None:
    values = heavy_tailed()
    found = observe(filled(values), "entropy")
    assert np.percentile(values, 98) < found.high < 0.5 * values.max()


def test_entropy_is_not_misled_by_the_spike_that_relu_leaves() -> None:
    """Half of all values on one number must not change the range much: that number is on the grid anyway."""
    values = heavy_tailed()
    plain = observe(filled(values), "entropy")
    spiked = observe(filled(values, np.zeros(values.size)), "entropy")
    assert spiked.high == pytest.approx(plain.high, rel=0.35)


@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_a_floor_that_holds_many_values_is_never_cut(method: str) -> None:
    """ReLU and a bias: most values are exactly -0.4, far less than one step of the 256 below the maximum of 400."""
    values = np.maximum(np.random.default_rng(6).normal(-1, 1, size=50_000), 0) * 30 - 0.4
    values[:5] = 400.0
    assert observe(filled(values), method).low == pytest.approx(-0.4)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["entropy", "mse"])
@pytest.mark.parametrize("seed", range(4))
def test_no_end_cuts_more_than_a_thousandth(method: str, seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(1.5 + seed, size=100_000)
    found = observe(filled(values), method)  # type: ignore[arg-type]
    slack = 1e-3 + 2e-3 * (np.ptp(values) / 2048 > 0.01)  # a bin that straddles the end
    assert np.mean(values < found.low) <= slack
    assert np.mean(values > found.high) <= slack


def test_squared_loss_predicts_the_measured_error_of_the_grid() -> None:
    values = np.random.default_rng(5).gamma(2.0, 1.0, size=400_000)
    histogram = filled(values)
    width = histogram.edges[1] - histogram.edges[0]
    for last in (300, 700, 1200, 2048):
        high = histogram.edges[last]
        scale = (high - histogram.edges[0]) / (LEVELS - 1)
        steps = np.clip(np.rint((values - histogram.edges[0]) / scale), 0, LEVELS - 1)
        measured = np.mean((values - steps * scale - histogram.edges[0]) ** 2)
        assert squared_loss(histogram.counts, 0, last) * width**2 == pytest.approx(measured, rel=0.1)


def test_mse_finds_a_range_with_less_error_than_minmax() -> None:
    values = heavy_tailed(size=20_000)
    errors = {}
    for method in ("minmax", "mse"):
        found = observe(filled(values), method)  # type: ignore[arg-type]
        scale = (found.high - found.low) / 255
        errors[method] = np.mean((values - np.clip(np.rint(values / scale), 0, 255) * scale) ** 2)
    assert errors["mse"] <= errors["minmax"]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="empty"):
        observe(Histogram(), "minmax")
    with pytest.raises(InvalidInputError, match="percentile in"):
        observe(filled(np.ones(5)), "percentile", percentile=30.0)
    with pytest.raises(InvalidInputError, match="an observer of"):
        observe(filled(np.ones(5)), "median")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="even number"):
        Histogram(7)
    for low, high in ((1.0, 2.0), (0.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(InvalidInputError, match="finite range"):
            Range(low, high)

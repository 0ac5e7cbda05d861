"""The results of a study as a picture: what each method changes, beside what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.study.aggregate import Row, Summary
from training.study.grid import BASELINE

# Okabe and Ito's, which people tell apart who do not see all colours.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"


def draw(file: Path, summary: Summary) -> None:
    """Writes the picture, in the format of the file's ending."""
    from matplotlib.figure import Figure

    rows = [row for row in summary.rows if row.method != BASELINE]
    figure = Figure(figsize=(12, 2.4 + 0.32 * max(len(rows), 6)), layout="constrained")
    forest, scatter = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_forest(forest, rows)
    _draw_scatter(scatter, [*(row for row in summary.rows if row.method == BASELINE), *rows], summary)
    figure.savefig(file, dpi=130)


def _draw_forest(axes: Any, rows: Sequence[Row]) -> None:
    """Mean difference and interval of each method over zero, every seed a dot."""
    labels = []
    for place, row in enumerate(rows):
        difference = row.difference
        pairs = len(difference.by_seed) if difference else 0
        labels.append(f"{row.name}  ({pairs} pair{'' if pairs == 1 else 's'})  {place + 1}")
        if difference is None:
            continue
        if difference.low is not None and difference.high is not None:
            axes.plot(
                [difference.low, difference.high], [place, place], color=_BLUE, linewidth=2, solid_capstyle="butt"
            )
        axes.plot(difference.mean, place, "D", color=_BLUE, markersize=7, zorder=3)
        seeds = list(difference.by_seed.values())
        axes.plot(seeds, [place + 0.24] * len(seeds), "o", color=_ORANGE, markersize=4, alpha=0.8)
    axes.axvline(0, color=_GREY, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.set_xlabel("AP - baseline of the same seed: mean with 95 % interval (blue), seeds (orange)")
    axes.grid(axis="x", alpha=0.3)


def _draw_scatter(axes: Any, rows: Sequence[Row], summary: Summary) -> None:
    """AP with its standard deviation over the cost of a step; the numbers are those of the forest, 0 the baseline."""
    first = 0 if any(row.method == BASELINE for row in rows) else 1
    for number, row in enumerate(rows, start=first):
        ap = row.val["AP"]
        if ap is None or row.cost is None:
            continue
        colour = _GREY if row.method == BASELINE else _BLUE
        axes.errorbar(row.cost, ap.mean, yerr=ap.std or 0.0, fmt="o", color=colour, markersize=6, capsize=3)
        axes.annotate(str(number), (row.cost, ap.mean), xytext=(6, 5), textcoords="offset points")
    for name, metrics in summary.teachers.items():
        axes.axhline(metrics["AP"], color=_ORANGE, linewidth=1, linestyle=":")
        axes.annotate(f"teacher {name}", (0.02, metrics["AP"]), xycoords=("axes fraction", "data"), va="bottom")
    axes.set_xlabel("seconds per step, of the baseline's (0: baseline)")
    axes.set_ylabel("AP, mean ± standard deviation")
    axes.margins(0.15)
    axes.grid(alpha=0.3)

"""sweep.png: accuracy against latency, with error bars and the front. Colours after Okabe and Ito."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from edgedet.sweep.rows import Row, front, recommended

# Told apart by colour and by shape: for the colour-blind, and on paper.
_STYLES = (("#000000", "s"), ("#0072B2", "o"), ("#009E73", "D"), ("#D55E00", "^"), ("#CC79A7", "v"), ("#E69F00", "P"))


def plot(rows: Sequence[Row], about: Mapping[str, Any], max_drop: float) -> bytes:
    """PNG. Raises ModuleNotFoundError without matplotlib."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.measured and not row.contender.same_as]
    reference = shown[0].ap["AP"]
    figure = Figure(figsize=(7.6, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axhspan(reference - max_drop, 1.0, color="#009E73", alpha=0.08, linewidth=0)
    axes.axhline(reference - max_drop, color="#009E73", linewidth=1, linestyle="--")
    best = front(rows)
    axes.plot(
        [row.latency_ms["p50"] for row in best],
        [row.ap["AP"] for row in best],
        color="#666666",
        linewidth=1.2,
        drawstyle="steps-post",
        zorder=1,
        label="front: none is faster and better",
    )
    chosen = recommended(rows, max_drop)
    for number, row in enumerate(shown):
        colour, marker = _STYLES[number % len(_STYLES)]
        x, y = row.latency_ms["p50"], row.ap["AP"]
        scale = x / (row.ratio or 1.0)
        axes.errorbar(
            [x],
            [y],
            xerr=[(row.ratio_se or 0.0) * scale],
            yerr=[row.drop_se or 0.0],
            color=colour,
            marker=marker,
            markersize=8 if row in best else 7,
            markerfacecolor=colour if row in best else "white",
            linestyle="none",
            capsize=3,
            elinewidth=1,
            zorder=3,
        )
        if chosen is row:
            axes.plot(
                [x], [y], "o", markersize=17, markerfacecolor="none", color="#D55E00", zorder=2, label="best here"
            )
    lows = [row.ap["AP"] - (row.drop_se or 0.0) for row in shown]
    highs = [row.ap["AP"] + (row.drop_se or 0.0) for row in shown]
    margin = 0.12 * max(max(highs) - min([*lows, reference - max_drop]), 0.01)
    axes.set_ylim(min([*lows, reference - max_drop]) - margin, max(highs) + 1.6 * margin)
    slow, fast = (pick(row.latency_ms["p50"] for row in shown) for pick in (max, min))
    axes.set_xlim(fast - 0.12 * max(slow - fast, 0.1 * slow), slow + 0.28 * max(slow - fast, 0.1 * slow))
    axes.text(
        0.995, reference - max_drop, f"accepted loss {max_drop:g} ", transform=axes.get_yaxis_transform(),
        ha="right", va="top", fontsize=8, color="#00664b",
    )  # fmt: skip
    axes.set_xlabel("milliseconds from frame in memory to detections, median, one frame at a time")
    axes.set_ylabel(f"AP on {about['images']} images")
    axes.set_title(textwrap.fill(f"{about['name']}: {about['device']}, {about['threads_text']}", 100), fontsize=9)
    axes.grid(alpha=0.25)
    _label(figure, axes, [(row.latency_ms["p50"], row.ap["AP"], row.contender.name) for row in shown])
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()


def _label(figure: Any, axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Writes each name beside its point, where it lies on no other name and on no point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()
    dots = axes.transData.transform([(x, y) for x, y, _ in points])
    taken = [(x - 9.0, y - 9.0, x + 9.0, y + 9.0) for x, y in dots]
    for number, (x, y, name) in enumerate(points):
        colour = _STYLES[number % len(_STYLES)][0]
        for dx, dy, side in ((12, 5, "left"), (12, -13, "left"), (-12, 5, "right"), (-12, -13, "right")):
            text = axes.annotate(
                name, (x, y), (dx, dy), textcoords="offset points", fontsize=9, ha=side, color=colour, zorder=4
            )
            box = text.get_window_extent(renderer)
            edges = (box.x0, box.y0, box.x1, box.y1)
            if not any(_overlap(edges, other) for place, other in enumerate(taken) if place != number):
                break
            if side == "right" and dy < 0:
                break  # nowhere is free: better there than not at all
            text.remove()
        taken.append(edges)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

"""The measured candidates as people read them: a table, and a plot of accuracy against time with the front."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from calibration.search.journal import Candidate, value_of


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those with measured AP that none beats in time and AP alike, fastest first; the float model stands at (1, 0)."""
    measured = sorted(_measured(candidates), key=lambda entry: (value_of(entry.ratio), value_of(entry.drop)))
    kept: list[Candidate] = []
    for entry in measured:
        beaten = kept and value_of(entry.drop) >= value_of(kept[-1].drop)
        if not beaten and (value_of(entry.ratio) < 1.0 or value_of(entry.drop) < 0.0):
            kept.append(entry)
    return kept


def table(candidates: Sequence[Candidate], answer: dict[str, Any]) -> str:
    """Markdown: every candidate with measured AP, the front in bold, and what was decided."""
    best = {entry.choice for entry in front(candidates)}
    lines = [
        f"**{answer['precision']}**: {answer['reason']}.",
        "",
        f"Float: AP {answer['float_ap']:.4f} on the images of the search. Accepted drop: "
        f"{answer['limits']['max_drop']:.4f}." + ("" if answer["complete"] else " The budget ended the search early."),
        "",
        "| int8 layers | observer | equalised | AP | drop | standard error | time | divergence | tried because |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in sorted(_measured(candidates), key=lambda entry: value_of(entry.ratio)):
        observer = entry.choice.observer
        percentile = f" {entry.choice.percentile:g}" if observer == "percentile" else ""
        how = [str(entry.layers), f"{observer}{percentile}", f"{entry.choice.alpha:g}"]
        cells = [
            *(how if entry.choice.precision == "int8" else [entry.choice.precision, "", ""]),
            f"{value_of(entry.ap):.4f}",
            f"{value_of(entry.drop):+.4f}",
            f"{value_of(entry.drop_se):.4f}",
            f"x{value_of(entry.ratio):.3f}",
            f"{value_of(entry.divergence):.3f}",
            entry.why,
        ]
        if entry.choice in best:
            cells = [f"**{cell}**" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    tried = len(candidates) - len(_measured(candidates))
    lines += ["", f"{tried} more candidates were judged by divergence and time alone; search.json has all of them."]
    return "\n".join(lines) + "\n"


def plot(candidates: Sequence[Candidate], answer: dict[str, Any]) -> bytes:
    """PNG: AP lost against time, error bars of one standard error, the front, the limit, the answer."""
    from matplotlib.figure import Figure

    measured, best = _measured(candidates), front(candidates)
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    limit = answer["limits"]["max_drop"]
    axes.axhspan(-1.0, limit, color="#2a9d4a", alpha=0.08)
    axes.axhline(limit, color="#2a9d4a", linewidth=1, label=f"accepted: {limit:g}")
    axes.errorbar(
        [value_of(entry.ratio) for entry in measured],
        [value_of(entry.drop) for entry in measured],
        [value_of(entry.drop_se) for entry in measured],
        fmt="o",
        color="#8a93a0",
        ecolor="#c9ced6",
        markersize=5,
        label="measured",
    )
    axes.plot(
        [value_of(entry.ratio) for entry in best],
        [value_of(entry.drop) for entry in best],
        color="#1f6feb",
        marker="o",
        drawstyle="steps-post",
        label="front",
    )
    axes.plot([1.0], [0.0], marker="s", color="black", linestyle="none", label="float")
    chosen = next((entry for entry in measured if answer["precision"] != "fp32" and _is(entry, answer)), None)
    if chosen is not None:
        axes.plot(
            [value_of(chosen.ratio)], [value_of(chosen.drop)], "*", color="#d1242f", markersize=16, label="answer"
        )
        axes.annotate(
            f"{chosen.layers} layers" if chosen.choice.precision == "int8" else chosen.choice.precision,
            (value_of(chosen.ratio), value_of(chosen.drop)),
            (8, 8),
            textcoords="offset points",
        )
    drops = [value_of(entry.drop) + value_of(entry.drop_se) for entry in measured] + [limit, 0.0]
    axes.set_ylim(
        min(0.0, *(value_of(entry.drop) - value_of(entry.drop_se) for entry in measured)) - 0.002, max(drops) * 1.15
    )
    axes.set_xlabel("time from frame to detections, float = 1")
    axes.set_ylabel("AP lost")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()


def _measured(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [entry for entry in candidates if entry.ap is not None and entry.ratio is not None]


def _is(entry: Candidate, answer: dict[str, Any]) -> bool:
    chosen = answer["choice"]
    return bool(chosen) and (
        entry.choice.precision == chosen.get("precision", "int8")
        and list(entry.choice.keep_float) == list(chosen["keep_float"])
        and (entry.choice.observer, entry.choice.percentile, entry.choice.alpha)
        == (chosen["observer"], chosen["percentile"], chosen["alpha"])
    )

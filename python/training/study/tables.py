"""The results of a study as Markdown for people and as CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from training.memory import readable_bytes
from training.study.aggregate import METRICS, Row, Spread, Summary

_SHORT = {"AP_small": "APs", "AP_medium": "APm", "AP_large": "APl"}


def markdown(summary: Summary) -> str:
    """Two tables, the second of costs, and the notes."""
    names = [_SHORT.get(metric, metric) for metric in METRICS]
    figures = [["method", "n", *names, "AP - baseline", "95 % interval", "pairs", "of teacher gap", "selection AP"]]
    costs = [["method", "s/step", "of baseline", "peak memory"]]
    for row in summary.rows:
        difference = row.difference
        pairs = f"{len(difference.by_seed)}" if difference else "-"
        if difference and difference.missing:
            pairs += f" ({len(difference.missing)} missing)"
        figures.append(
            [
                row.name,
                f"{len(row.seeds)}",
                *(_spread(row.val[metric]) for metric in METRICS),
                f"{difference.mean:+.4f}" if difference else "-",
                _interval(row),
                pairs,
                _number(row.recovered, ".0%"),
                _spread(row.select),
            ]
        )
        memory = "-" if row.peak_memory is None else readable_bytes(row.peak_memory)
        costs.append([row.name, _number(row.seconds_per_step, ".3g"), _number(row.cost, ".2f"), memory])
    for name, metrics in summary.teachers.items():
        cells = [f"{metrics[metric]:.4f}" if metrics[metric] >= 0 else "-" for metric in METRICS]
        figures.append([f"teacher {name}", "1", *cells, "-", "-", "-", "-", "-"])
    about = (
        "Means ± sample standard deviations over seeds, on the real validation split, of the checkpoints that were "
        "best on the selection split. Differences are between runs of one seed; their interval is Student's t."
    )
    notes = "\n".join(f"- {note}" for note in summary.notes)
    return "\n\n".join(filter(None, [about, _table(figures), _table(costs), notes])) + "\n"


def as_csv(summary: Summary) -> str:
    """A line per method and weight; figures in full, empty where there are none."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    figures = [f"{metric}_{part}" for metric in METRICS for part in ("mean", "std")]
    writer.writerow(
        ["method", "weight", "n", *figures, "difference", "low", "high", "pairs", "pairs_missing", "recovered",
         "select_AP_mean", "select_AP_std", "seconds_per_step", "cost", "peak_memory", "failed", "missing"]
    )  # fmt: skip
    for row in summary.rows:
        spreads = [row.val[metric] for metric in METRICS]
        difference = row.difference
        writer.writerow(
            [
                row.method,
                row.weight,
                len(row.seeds),
                *(part for each in spreads for part in _parts(each)),
                *((difference.mean, difference.low, difference.high) if difference else (None,) * 3),
                len(difference.by_seed) if difference else 0,
                len(difference.missing) if difference else None,
                row.recovered,
                *_parts(row.select),
                row.seconds_per_step,
                row.cost,
                row.peak_memory,
                len(row.failed),
                len(row.missing),
            ]
        )
    return stream.getvalue()


def _parts(spread: Spread | None) -> tuple[float | None, float | None]:
    return (None, None) if spread is None else (spread.mean, spread.std)


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean:.4f}" + ("" if spread.std is None else f" ± {spread.std:.4f}")


def _interval(row: Row) -> str:
    difference = row.difference
    if difference is None or difference.low is None or difference.high is None:
        return "-"
    return f"{difference.low:+.4f} to {difference.high:+.4f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

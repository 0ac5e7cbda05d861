"""sweep.csv, sweep.md and sweep.json, and the same as a table for a terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgedet.sweep.rows import Row, front


def as_csv(rows: Sequence[Row]) -> bytes:
    """One line per contender, empty cells where it did not run."""
    target = io.StringIO()
    writer = csv.DictWriter(target, fieldnames=list(rows[0].flat()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.flat() for row in rows)
    return target.getvalue().encode()


def as_json(rows: Sequence[Row], about: Mapping[str, Any], sentence: str) -> bytes:
    """Everything, with what it was measured on."""
    document = {
        "format": "edgedet.sweep",
        "version": 1,
        **about,
        "advice": sentence,
        "front": [row.contender.name for row in front(rows)],
        "rows": [row.flat() for row in rows],
    }
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def as_markdown(rows: Sequence[Row], about: Mapping[str, Any], sentence: str) -> bytes:
    """The table with its caption; the front in bold."""
    best = {row.contender.name for row in front(rows)}
    cells = table(rows)
    head = list(cells[0])
    lines = [
        f"**{sentence}**",
        "",
        f"{about['name']}, {about['device']}, {about['threads_text']}, AP on {about['images']} of "
        f"{about['images_in_all']} images, times of {about['turns']} turns.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for row, entry in zip(rows, cells):
        values = [value.replace("|", "\\|") for value in entry.values()]
        if row.contender.name in best:
            values = [f"**{value}**" if value else "" for value in values]
        lines.append("| " + " | ".join(values) + " |")
    notes = [f"- {row.contender.name}: {row.reason}" for row in rows if row.reason]
    return "\n".join([*lines, *(["", *notes] if notes else [])]).encode() + b"\n"


def table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Cells for `edgedet.cli.common.print_table`."""
    cells = [_cells(row) for row in rows]
    empty = [key for key in ("VRAM MB",) if not any(entry[key] for entry in cells)]  # there is no GPU
    return [{key: value for key, value in entry.items() if key not in empty} for entry in cells]


def _cells(row: Row) -> dict[str, str]:
    flat = row.flat()

    def number(key: str, form: str) -> str:
        return "" if flat[key] is None else format(flat[key], form)

    drop = f"{number('AP_drop', '+.4f')} ± {number('AP_drop_se', '.4f')}" if row.drop_se is not None else ""
    verdict = row.verified
    if row.contender.same_as:
        verdict = f"{verdict} (= {row.contender.same_as})".strip()
    return {
        "contender": row.contender.name,
        "AP": number("AP", ".4f"),
        "AP50": number("AP50", ".4f"),
        "small": number("AP_small", ".3f"),
        "medium": number("AP_medium", ".3f"),
        "large": number("AP_large", ".3f"),
        "AP lost": drop,
        "p50 ms": number("p50_ms", ".2f"),
        "p99 ms": number("p99_ms", ".2f"),
        "FPS": number("fps", ".1f"),
        "time": f"x{number('time_ratio', '.3f')}" if row.ratio is not None else "",
        "RSS MB": number("rss_mb", ".0f"),
        "VRAM MB": number("vram_mb", ".0f"),
        "model MB": number("model_mb", ".2f"),
        "build s": number("build_s", ".2f"),
        "verified": verdict if row.measured else "did not run",
    }

"""Results, step by step: saved after each, so that a run that is cut short goes on, and a crash costs one step."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.cuda_frames.record import told
from benchmarks.tensorrt.plan import Clock
from edgedet.files import write_atomically

FORMAT = "edgedet.tensorrt_benchmark"

# What was measured, or "error" or "skipped" with the reason.
Row = dict[str, Any]
Step = Callable[[], Row]
OUT_OF_TIME = "out of time"


class NotMeasured(Exception):  # noqa: N818 - nothing went wrong
    """Something that this figure needs is not here; the message says what."""


def read_record(file: Path) -> dict[str, Any]:
    """What an earlier run left at `file`; an empty record if there is none, or it is no such file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["format"] == FORMAT and isinstance(found["sections"], dict):
            return dict(found)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"format": FORMAT, "commands": [], "sections": {}}


def save_record(file: Path, record: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(record, indent=2, default=str) + "\n").encode())


def section_of(record: dict[str, Any], name: str) -> dict[str, Any]:
    """The section's entry: "rows" by step, "error" if it could not begin, "running" while a step runs."""
    found: dict[str, Any] = record["sections"].setdefault(name, {"rows": {}})
    return found


def finished(row: Row) -> bool:
    """Whether a step need not be run again: it was measured, or what it needs is not here."""
    return "error" not in row and row.get("skipped") != OUT_OF_TIME


def measured(record: Mapping[str, Any], section: str) -> dict[str, Row]:
    """The rows of a section that have figures, by step."""
    rows = record["sections"].get(section, {}).get("rows", {})
    return {key: row for key, row in rows.items() if "error" not in row and "skipped" not in row}


def run_step(step: Step) -> Row:
    """A step's row, with its seconds; an error is its result."""
    start = time.perf_counter()
    try:
        row = step()
    except NotMeasured as reason:
        row = {"skipped": str(reason)}
    except Exception as error:  # whatever it is belongs to the results
        row = {"error": told(error), "traceback": traceback.format_exc()}
    return {**row, "step_seconds": round(time.perf_counter() - start, 2)}


def run_steps(
    file: Path, section: str, steps: Mapping[str, Step], clock: Clock, say: Callable[[str], None] = print
) -> None:
    """Runs the steps that are not finished in the record at `file`, which is saved before and after each.

    A step that an earlier process left as "running" killed it; `supervise` has written that down.
    """
    record = read_record(file)
    entry = section_of(record, section)
    for key, step in steps.items():
        if key in entry["rows"] and finished(entry["rows"][key]):
            continue
        if clock.left() <= 0:
            entry["rows"][key] = {"skipped": OUT_OF_TIME}
            continue
        if entry["rows"].get(key, {}).get("died") and entry["rows"][key].get("run") == len(record["commands"]):
            continue  # once a run
        entry["running"] = key
        save_record(file, record)
        row = run_step(step)
        del entry["running"]
        entry["rows"][key] = row
        save_record(file, record)
        say(f"  {section}: {key}: {row.get('error') or row.get('skipped') or 'done'} ({row['step_seconds']:.1f} s)")
    save_record(file, record)

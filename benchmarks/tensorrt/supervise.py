"""Each section in a process of its own: what crashes or hangs in a driver costs one step, not the run."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.cuda_frames.tools import run_tool
from benchmarks.tensorrt.plan import Allotment, Clock
from benchmarks.tensorrt.record import OUT_OF_TIME, read_record, save_record, section_of

_GRACE = 20.0  # seconds that a step may take beyond the end of its section's time
_LINES_KEPT = 15
_DEATHS = 5  # of one section, in a run


def run_sections(
    file: Path,
    allotments: Sequence[Allotment],
    arguments: Sequence[str],
    start: float,
    say: Callable[[str], None],
    judge: Callable[[Path], None] = lambda file: None,
) -> None:
    """Runs every section with `python -m benchmarks.tensorrt ARGUMENTS --child NAME --seconds N`.

    judge: called after every section with the file.
    """
    for allotment in allotments:
        say(f"{allotment.plan.name} ...")
        run_section(file, allotment.plan.name, arguments, Clock(start + allotment.until), say)
        judge(file)


def run_section(file: Path, name: str, arguments: Sequence[str], clock: Clock, say: Callable[[str], None]) -> None:
    """Starts the section's process again after each step that kills it, until all steps have a row."""
    for _ in range(_DEATHS):
        command = [sys.executable, "-m", "benchmarks.tensorrt", *arguments]
        command += ["--child", name, "--seconds", f"{clock.left():.0f}"]
        outcome = run_tool(command, clock.left() + _GRACE)
        say("\n".join(line for line in outcome.output.splitlines() if line.startswith("  ")))
        record = read_record(file)
        entry = section_of(record, name)
        entry.pop("error", None)
        if outcome.status == 0:
            save_record(file, record)
            return
        cause = ended_by(outcome.status)
        tail = outcome.output.splitlines()[-_LINES_KEPT:]
        step = entry.pop("running", None)
        if step is None:
            entry.update(error=cause, output_tail=tail)
            save_record(file, record)
            say(f"  {name}: {cause}: {tail[-1] if tail else ''}")
            return
        run = len(record["commands"])
        entry["rows"][step] = {"error": cause, "output_tail": tail, "died": True, "run": run}
        save_record(file, record)
        say(f"  {name}: {step}: {cause}")
        if clock.left() <= 0:
            return


def ended_by(status: int | None) -> str:
    """How a process ended that did not end well."""
    if status is None:
        return f"{OUT_OF_TIME}: the process was ended"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"the process died of {name}"
    return f"the process ended with status {status}"

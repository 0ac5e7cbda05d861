"""The file of results: written whole after every section, so that a run that is cut short keeps what it has."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.cuda_frames.figures import Row, goals
from edgedet.files import write_atomically

# Gets the sections so far and returns its figures.
Section = Callable[[Mapping[str, Any]], dict[str, Any]]
Say = Callable[[str], None]
Case = TypeVar("Case")


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    samples: int  # of a figure of the device
    rounds: int  # turns of the peers
    frames: int  # of a latency
    seconds: float  # at most for a figure of frames
    compile: bool  # whether torch.compile is among the peers
    sanitizers: tuple[str, ...]
    pytest_seconds: float
    sanitizer_seconds: float


def save(file: Path, record: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(record, indent=2, default=str) + "\n").encode())


def told(error: BaseException) -> str:
    """An error on one line or more, with its type."""
    return f"{type(error).__name__}: {error}"


def measure_rows(cases: Sequence[Case], name: Callable[[Case], Row], measure: Callable[[Case], Row]) -> list[Row]:
    """A row a case; a case that fails has its error there, and the next goes on."""

    def row(case: Case) -> Row:
        try:
            return {**name(case), **measure(case)}
        except Exception as error:  # whatever it is belongs to the results
            return {**name(case), "error": told(error)}

    return [row(case) for case in cases]


def run_section(section: Section, done: Mapping[str, Any]) -> dict[str, Any]:
    """Its "result", or its "error" and "traceback"; and its "seconds"."""
    start = time.perf_counter()
    try:
        entry: dict[str, Any] = {"result": section(done)}
    except Exception as error:  # whatever it is belongs to the results
        entry = {"error": told(error), "traceback": traceback.format_exc()}
    return {**entry, "seconds": round(time.perf_counter() - start, 2)}


def run_sections(
    sections: Mapping[str, Section], record: dict[str, Any], save: Callable[[Mapping[str, Any]], None], say: Say
) -> None:
    """Runs each, and puts what it found into record["sections"] and saves the record before the next."""
    done: dict[str, Any] = record.setdefault("sections", {})
    for name, section in sections.items():
        say(f"{name} ...")
        done[name] = run_section(section, done)
        record["goals"] = goals(done)
        save(record)
        say(f"{name}: {done[name].get('error', 'done')} ({done[name]['seconds']:.1f} s)")


def tests_failed(sections: Mapping[str, Any]) -> bool:
    """Whether the tests or a sanitizer ran and did not pass."""
    if "tests" not in sections:
        return False
    return not sections["tests"].get("result", {}).get("passed", False)

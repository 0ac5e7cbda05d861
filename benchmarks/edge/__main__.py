"""Size, memory and start-up on this machine.

    python -m benchmarks.edge BUNDLE [--runs 15] [--out benchmarks/results/edge.json]

Start-up counts from the moment the process is started to its first detections, in processes of their own that take
turns: Python and `edgedet-bench`, without and with what an earlier process kept of the compiled network. Files are in
the page cache. Memory is what /proc counts as resident in such a process, by what the pages belong to.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.edge.measure import installed_sizes, machine, native_start, python_start
from benchmarks.edge.report import render
from edgedet import InvalidInputError
from edgedet.command import run_command
from edgedet.terminal.progress import progress


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="processes of each kind (default: 15)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/edge.json"), metavar="FILE")
    arguments = parser.parse_args()
    return run_command(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """The whole measurement."""
    if arguments.runs < 1:
        raise InvalidInputError(f"--runs: expected 1 or more, got {arguments.runs}")
    if not (arguments.bundle / "model.json").is_file():
        raise InvalidInputError(f"{arguments.bundle}: expected a bundle, got no model.json there")
    figures = measure(arguments.bundle, backend=arguments.backend, runs=arguments.runs)
    figures["command"] = " ".join(["python -m benchmarks.edge", *sys.argv[1:]])
    text = render(figures)
    print(text, end="")
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


def measure(bundle: Path, *, backend: str, runs: int) -> dict[str, Any]:
    """Every figure of one bundle; start-ups take turns."""
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder) / "warm"
        kinds: dict[str, Callable[[], dict[str, Any]]] = {
            "Python": lambda: python_start(bundle, backend, ""),
            "Python, kept network": lambda: python_start(bundle, backend, str(warm)),
            "edgedet-bench": lambda: native_start(bundle, backend, ""),
            "edgedet-bench, kept network": lambda: native_start(bundle, backend, str(warm)),
        }
        first = {name: start() for name, start in kinds.items()}  # fills the page cache, and what is kept
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
        names = list(kinds)
        with progress() as tell:
            for turn in range(runs):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    taken[name].append(kinds[name]())
                tell("start-up", turn + 1, runs)
        kept = sum(file.stat().st_size for file in warm.iterdir())
    start_up = {
        name: {
            "first_detection_ms": [one["first_detection_ms"] for one in all_runs],
            "median_ms": statistics.median(one["first_detection_ms"] for one in all_runs),
            "peak_mib": statistics.median(one["peak_mib"] for one in all_runs),
        }
        for name, all_runs in taken.items()
    }
    return {
        "bundle": bundle.name,
        "backend": first["Python"]["backend"],
        "device": first["Python"]["device"],
        "machine": machine(),
        "runs": runs,
        "start_up": start_up,
        "steps": {name: _median_steps(taken[name]) for name in names if name.startswith("Python")},
        "memory_mib": {name: taken[name][0]["steps"][-1]["memory_mib"] for name in names if name.startswith("Python")},
        "size_bytes": {**installed_sizes(), "bundle": _size(bundle), "kept network": kept},
    }


def _median_steps(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The median of when each step ended, and of what was resident then."""
    return [
        {
            "step": step["step"],
            "ms": statistics.median(one["steps"][place]["ms"] for one in runs),
            "resident_mib": statistics.median(sum(one["steps"][place]["memory_mib"].values()) for one in runs),
        }
        for place, step in enumerate(runs[0]["steps"])
    ]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())

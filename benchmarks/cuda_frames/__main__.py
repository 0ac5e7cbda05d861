"""What surrounds a network on a CUDA device: speed, memory and agreement, by one command that writes one JSON.

    python -m benchmarks.cuda_frames --out results.json [--quick] [--only SECTION ...]

Needs a CUDA device, torch with CUDA and OpenCV; torchvision, CuPy, compute-sanitizer and Nsight Compute take part
where they are installed. Sections:

    tests       pytest's tests of the device, and those in C++ under compute-sanitizer
    copy        bandwidth of copying device memory, which preprocessing is measured by
    preprocess  microseconds and share of that bandwidth, against images that no cache holds
    decode      microseconds, beside torch
    frame       latency, processor time, throughput and memory of FramePool without a network
    peers       one 1080p frame end to end, beside torch, torch.compile, torchvision, CuPy and OpenCV, in turns
    nsight      counters of the kernels; left out by --quick unless named

The file is written after every section. A section that fails has its error there, and the next goes on. Times are
given as p50 (the median), p99, least and number of samples.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.cuda_frames.record import Scale, Section, run_sections, save, tests_failed
from benchmarks.cuda_frames.report import report
from edgedet import cuda
from edgedet.command import run_command

SECTIONS = ("tests", "copy", "preprocess", "decode", "frame", "peers", "nsight")


def main() -> int:
    """The exit status: 1 if the tests or a sanitizer did not pass, 2 without a device."""
    options = _parser().parse_args()
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    cuda.devices()  # raises where there is none
    # One process: few kernels are compiled, and starting helpers takes longer.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if options.child is not None:
        from benchmarks.cuda_frames import kernels

        kernels.child(options.child)
        return 0

    from benchmarks.cuda_frames.environment import command_line, environment

    scale = make_scale(quick=options.quick, sanitizer_seconds=options.sanitizer_seconds)
    record: dict[str, Any] = {
        "benchmark": "cuda_frames",
        "command": command_line("benchmarks.cuda_frames"),
        "started": _now(),
        "finished": None,
        "quick": options.quick,
        "environment": environment(),
        "sections": {},
        "goals": [],
    }
    save(options.out, record)
    chosen = choose(options.only, quick=options.quick)
    sections = {name: section for name, section in _sections(scale).items() if name in chosen}
    run_sections(sections, record, lambda record: save(options.out, record), _say)
    record["finished"] = _now()
    save(options.out, record)
    print(f"\n{report(record)}\nwritten: {options.out}")
    return int(tests_failed(record["sections"]))


def choose(only: list[str] | None, *, quick: bool) -> tuple[str, ...]:
    """The sections to run."""
    if only:
        return tuple(name for name in SECTIONS if name in only)
    return SECTIONS[:-1] if quick else SECTIONS


def make_scale(*, quick: bool, sanitizer_seconds: float) -> Scale:
    """Under four minutes on an H100, or under one; a sanitizer that needs its time in full adds to that."""
    if quick:
        return Scale(
            samples=15,
            rounds=50,
            frames=50,
            seconds=0.15,
            compile=False,
            sanitizers=(),
            pytest_seconds=90.0,
            sanitizer_seconds=sanitizer_seconds,
        )
    return Scale(
        samples=50,
        rounds=300,
        frames=300,
        seconds=0.5,
        compile=True,
        sanitizers=("memcheck", "racecheck", "initcheck"),
        pytest_seconds=120.0,
        sanitizer_seconds=sanitizer_seconds,
    )


def _sections(scale: Scale) -> dict[str, Section]:
    """Each imports what it needs when its turn comes, so that a package that is missing stops no other."""

    def tests(done: Mapping[str, Any]) -> dict[str, Any]:
        from benchmarks.cuda_frames import tools

        return tools.tests(scale)

    def copy(done: Mapping[str, Any]) -> dict[str, Any]:
        from benchmarks.cuda_frames import kernels

        return kernels.copy(scale)

    def preprocess(done: Mapping[str, Any]) -> dict[str, Any]:
        from benchmarks.cuda_frames import kernels

        return kernels.preprocess(scale, done)

    def decode(done: Mapping[str, Any]) -> dict[str, Any]:
        from benchmarks.cuda_frames import kernels

        return kernels.decode(scale)

    def frame(done: Mapping[str, Any]) -> dict[str, Any]:
        from benchmarks.cuda_frames import frames

        return frames.frame(scale)

    def peers(done: Mapping[str, Any]) -> dict[str, Any]:
        from benchmarks.cuda_frames import peers

        return peers.peers(scale)

    def nsight(done: Mapping[str, Any]) -> dict[str, Any]:
        from benchmarks.cuda_frames import kernels, tools

        return tools.nsight(kernels.child_names())

    return dict(zip(SECTIONS, (tests, copy, preprocess, decode, frame, peers, nsight), strict=True))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda_frames",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="FILE", help="JSON to write")
    what.add_argument("--child", choices=("preprocess", "decode"), help="launch the kernels that nsight profiles")
    parser.add_argument("--quick", action="store_true", help="fewer samples; no torch.compile, sanitizers or nsight")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--sanitizer-seconds",
        type=float,
        default=30.0,
        metavar="N",
        help="for each of three; out of time is not passed (default: 30)",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

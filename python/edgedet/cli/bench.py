"""``edgedet bench``: latency and throughput of a bundle on this machine."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgedet import Detector, read_image
from edgedet.cli.common import (
    add_bundle,
    add_detector_options,
    describe,
    open_detector,
    output_file,
    positive_number,
    print_running,
    progress_bar,
    whole_number,
    write_json,
)
from edgedet.images import find_images

if TYPE_CHECKING:
    from edgedet.cli.common import Commands

_MOST_IMAGES = 64


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "bench",
        help="measure latency and throughput",
        description="Measure from a frame in memory to its detections: percentiles, stages, frames per second, memory.",
        epilog="edgedet-bench does the same without Python. Compare figures of one machine and one moment only.",
    )
    add_bundle(parser)
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        help=f"run on images of this folder, {_MOST_IMAGES} at the most (default: a synthetic 640x480 frame)",
    )
    parser.add_argument("--json", metavar="FILE", type=output_file, help="write the figures as JSON")
    parser.add_argument(
        "--frames", type=positive_number, default=200, metavar="N", help="calls that are measured (default: 200)"
    )
    parser.add_argument("--warmup", type=whole_number, default=20, metavar="N", help="calls before that (default: 20)")
    add_detector_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints."""
    if arguments.images is None:
        frames = [synthetic_frame(640, 480)]
    else:
        frames = [read_image(file) for file in find_images(arguments.images)[:_MOST_IMAGES]]
    detector = open_detector(arguments)
    print_running(detector)
    figures = measure(detector, frames, calls=arguments.frames, warmup=arguments.warmup)
    latency, stages = figures["latency_ms"], figures["stages_ms"]
    print("latency    " + "  ".join(f"{name} {value:.2f} ms" for name, value in latency.items()))
    print("stages     " + "  ".join(f"{name} {value:.2f} ms" for name, value in stages.items()))
    print(f"throughput {figures['fps']:.1f} frames/s")
    print(f"memory     {figures['rss_mb']:.0f} MB at the peak")
    if arguments.json is not None:
        write_json(
            arguments.json, {**figures, "mode": arguments.mode, "bundle": str(arguments.bundle), **describe(detector)}
        )
    return 0


def measure(detector: Detector, frames: list[NDArray[np.uint8]], *, calls: int, warmup: int) -> dict[str, Any]:
    """Times ``calls`` calls over the frames in turn.

    A call holds one frame, in throughput mode as many as there are requests.

    Returns:
        latency_ms of a call (p50, p90, p99, mean), stages_ms (mean per call), fps, rss_mb (peak of the process), and
        what was measured.
    """
    batch = detector.info.requests
    groups = [[frames[(start + place) % len(frames)] for place in range(batch)] for start in range(len(frames))]
    show = progress_bar("bench")
    for call in range(warmup):
        detector.detect_timed(groups[call % len(groups)])
    seconds = np.empty(calls)
    stages = np.empty((calls, 3))
    for call in range(calls):
        group = groups[call % len(groups)]
        start = time.perf_counter()
        _, stages[call] = detector.detect_timed(group)
        seconds[call] = time.perf_counter() - start
        show(call + 1, calls)
    p50, p90, p99 = (float(value) for value in np.percentile(seconds * 1e3, (50, 90, 99)))
    preprocess, inference, decode = stages.mean(axis=0).tolist()
    sizes = sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames})
    return {
        "latency_ms": {"p50": p50, "p90": p90, "p99": p99, "mean": float(seconds.mean() * 1e3)},
        "stages_ms": {"preprocess": preprocess, "inference": inference, "decode": decode},
        "fps": batch * calls / float(seconds.sum()),
        "rss_mb": _peak_memory(),
        "calls": calls,
        "frames_per_call": batch,
        "frame_size": sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes",
    }


def synthetic_frame(width: int, height: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: coarse random patches, the same every time; an even grey would let caches look too good."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width])


def _peak_memory() -> float:
    """Peak resident memory of this process in MB (10^6 bytes). Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6

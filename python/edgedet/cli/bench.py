"""``edgedet bench``: latency, throughput, memory, clocks and energy of a bundle on this machine."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgedet import Detector, _core, read_image
from edgedet.cli.common import (
    add_bundle,
    add_detector_options,
    open_detector,
    output_file,
    pixel_size,
    positive_number,
    print_running,
    whole_number,
)
from edgedet.images import find_images
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands

_MOST_IMAGES = 64


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "bench",
        help="measure latency, throughput, memory and energy",
        description="Measure from a frame in memory to its detections, and the network alone: percentiles, stages, "
        "frames per second, memory, clocks, power, joules per frame.",
        epilog="edgedet-bench does the same without Python. Compare figures of one machine and one moment only; "
        "docs/benchmarking.md says what each means.",
        examples=(
            "edgedet bench femto",
            "edgedet bench femto --images val/images --frames 500 --threads 4 --plot times.png",
            "edgedet bench femto --mode throughput --json bench.json",
        ),
    )
    add_bundle(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--images", metavar="DIR", type=Path, help=f"run on images of this folder, {_MOST_IMAGES} at the most"
    )
    what.add_argument(
        "--synthetic",
        metavar="WxH",
        type=pixel_size,
        default=(640, 480),
        help="run on a synthetic frame of this size (default: 640x480)",
    )
    add_json(parser, "the figures")
    parser.add_argument(
        "--plot", metavar="FILE", type=output_file, help="draw the times of all calls (.png, .svg, ...; matplotlib)"
    )
    parser.add_argument(
        "--frames", type=positive_number, default=200, metavar="N", help="calls that are measured (default: 200)"
    )
    parser.add_argument("--warmup", type=whole_number, default=20, metavar="N", help="calls before that (default: 20)")
    parser.add_argument(
        "--batch", type=positive_number, metavar="N", help="frames a call (default: as many as there are requests)"
    )
    add_detector_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints."""
    if arguments.images is None:
        frames = [synthetic_frame(*arguments.synthetic)]
    else:
        frames = [read_image(file) for file in find_images(arguments.images)[:_MOST_IMAGES]]
    detector = open_detector(arguments)
    print_running(detector)
    batch = arguments.batch or detector.info.requests
    latency, stages, telemetry = measure(detector, frames, batch=batch, calls=arguments.frames, warmup=arguments.warmup)
    sizes = sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in frames})
    report, text = detector.core.bench_report(
        _core.BenchRun(
            latency=latency,
            stages=stages,
            parts=detector.core.time_parts(_group(frames, 0, batch), "rgb", arguments.frames),
            telemetry=telemetry,
            frames_per_call=batch,
            frame_size=sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes",
            mode=arguments.mode,
            bundle=str(arguments.bundle),
            command=shlex.join(["edgedet", *sys.argv[1:]]),
        )
    )
    print(text, end="")
    if arguments.json is not None:
        arguments.json.write(json.loads(report))
    if arguments.plot is not None:
        from edgedet.cli.bench_plot import draw

        draw(arguments.plot, latency, title=f"{detector.info.name}, {detector.info.backend} {detector.info.precision}")
    return 0


def measure(
    detector: Detector, frames: list[NDArray[np.uint8]], *, batch: int, calls: int, warmup: int
) -> tuple[list[float], list[tuple[float, float, float]], _core.TelemetryRecord]:
    """Times ``calls`` calls of ``batch`` frames, taken in turn.

    Returns:
        Milliseconds of each call, its stages (preprocess, inference, decode), and what the machine told meanwhile.
    """
    groups = [_group(frames, start, batch) for start in range(len(frames))]
    sampler = _core.Sampler(gpu=detector.core.gpu)
    for call in range(warmup):
        detector.detect_timed(groups[call % len(groups)])
    latency: list[float] = []
    stages: list[tuple[float, float, float]] = []
    with progress() as tell:
        show = partial(tell, "bench")
        sampler.start()
        for call in range(calls):
            group = groups[call % len(groups)]
            start = time.perf_counter()
            _, times = detector.detect_timed(group)
            latency.append((time.perf_counter() - start) * 1e3)
            stages.append((times.preprocess, times.inference, times.decode))
            show(call + 1, calls)
    return latency, stages, sampler.stop()


def _group(frames: list[NDArray[np.uint8]], start: int, batch: int) -> list[NDArray[np.uint8]]:
    return [frames[(start + place) % len(frames)] for place in range(batch)]


def synthetic_frame(width: int, height: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: coarse random patches, the same every time; an even grey would let caches look too good."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width])

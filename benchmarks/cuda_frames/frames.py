"""`frame`: whole frames through FramePool, without a network, on the host's clock."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from benchmarks.cuda_frames import timing
from benchmarks.cuda_frames.figures import Row, rates, summary
from benchmarks.cuda_frames.kernels import SIZES, random_head
from benchmarks.cuda_frames.record import Scale, measure_rows
from benchmarks.cuda_frames.timing import host_times, need_torch
from benchmarks.cuda_frames.torch_peer import MEAN, STD
from edgedet import cuda

# device: a torch tensor there. pinned: a pinned torch tensor, which the device reads in place. pageable: a NumPy array.
Place = Literal["device", "pinned", "pageable"]
Outputs = Literal["written once", "zeros"]

SIDE, ROWS, CLASSES = 640, 300, 80
_IMAGES = 4
_WARM_UP = 10
_WINDOW = 25  # frames of a sample of throughput


@dataclass(frozen=True)
class FrameCase:
    """paths is 0 where one frame at a time is timed; else frames are kept in flight on all paths."""

    width: int
    height: int
    place: Place
    graph: bool
    outputs: Outputs = "written once"
    paths: int = 0

    def name(self) -> Row:
        named = asdict(self)
        return {"source": f"{named.pop('width')}x{named.pop('height')}", **named}


def frame_cases() -> list[FrameCase]:
    places: tuple[Place, ...] = ("device", "pinned", "pageable")
    cases = [
        FrameCase(*size, place, graph, paths=paths)
        for paths, size, place, graph in itertools.product((0, 1, 2, 4), SIZES, places, (True, False))
    ]
    return [*cases, *(FrameCase(*size, "device", graph, "zeros") for size in SIZES for graph in (True, False))]


class GivenOutputs:
    """A network for FramePool that copies given outputs."""

    def __init__(self, logits: torch.Tensor, boxes: torch.Tensor) -> None:
        self.logits = logits
        self.boxes = boxes

    def __call__(self, buffers: Mapping[str, cuda.DeviceView], batch: int, stream: int) -> None:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            torch.as_tensor(buffers["logits"], device=timing.DEVICE).copy_(self.logits[:batch])
            torch.as_tensor(buffers["boxes"], device=timing.DEVICE).copy_(self.boxes[:batch])


class OutputsOnce(GivenOutputs):
    """Copies them at the first call for some buffers, which is not captured, and queues nothing after.

    What is measured then is a pool without a network, whose outputs are not the zeros of a fresh one: logits that are
    all equal are the slow case of decoding.
    """

    def __init__(self, logits: torch.Tensor, boxes: torch.Tensor) -> None:
        super().__init__(logits, boxes)
        self._written: set[int] = set()

    def __call__(self, buffers: Mapping[str, cuda.DeviceView], batch: int, stream: int) -> None:
        place = buffers["logits"].pointer
        if place not in self._written:
            super().__call__(buffers, batch, stream)
            self._written.add(place)


def frame(scale: Scale) -> dict[str, Any]:
    """Latency, processor time, throughput and memory."""
    need_torch()
    return {
        "network_input": f"{SIDE}x{SIDE} float32, antialias",
        "head": f"{ROWS}x{CLASSES} float32",
        "rows": measure_rows(frame_cases(), FrameCase.name, lambda case: _frame_row(case, scale)),
    }


def _frame_row(case: FrameCase, scale: Scale) -> Row:
    head = random_head(1, ROWS, CLASSES, "float32")
    images = _images(case)
    torch.cuda.synchronize()
    pool = cuda.FramePool(
        OutputsOnce(*head) if case.outputs == "written once" else None,
        width=SIDE,
        height=SIDE,
        filter="antialias",
        mean=MEAN,
        std=STD,
        rows=ROWS,
        classes=CLASSES,
        paths=max(case.paths, 1),
        max_width=case.width,
        max_height=case.height,
        graph=case.graph,
    )
    memory = {f"{kind}_bytes": held for kind, held in pool.memory.items()}
    if case.paths > 0:
        stamps = pipeline(pool, images, paths=case.paths, frames=_WINDOW * (scale.frames // _WINDOW + 1), scale=scale)
        return {"frames_a_second": summary(rates(stamps, _WINDOW)), "frames_a_sample": _WINDOW, **memory}
    times = host_times(
        lambda index: pool.detect([images[index % _IMAGES]], "bgr"),
        samples=scale.frames,
        seconds=scale.seconds,
        warmup=_WARM_UP,
    )
    return {
        "microseconds": summary(times.wall),
        "thread_cpu_microseconds": summary(times.thread),
        "process_cpu_microseconds": summary(times.process),
        **memory,
    }


def _images(case: FrameCase) -> Sequence[Any]:
    shape = (case.height, case.width, 3)
    made = [torch.randint(0, 256, shape, dtype=torch.uint8, device=timing.DEVICE) for _ in range(_IMAGES)]
    if case.place == "device":
        return made
    if case.place == "pinned":
        return [image.cpu().pin_memory() for image in made]
    return [image.cpu().numpy() for image in made]


def pipeline(pool: Any, images: Sequence[Any], *, paths: int, frames: int, scale: Scale) -> list[float]:
    """Seconds of the clock at which each frame was done, with one in flight on every path; ends early out of time.

    pool: has `submit` as FramePool. The first frames of a path, which set it up, are not among them.
    """
    flight: deque[Any] = deque()
    stamps: list[float] = []
    skipped = 2 * paths + _WARM_UP
    end = math.inf
    for index in range(skipped + frames + 1):
        if len(flight) == paths:
            flight.popleft().result()
            stamps.append(time.perf_counter())
            if len(stamps) == skipped:
                end = stamps[-1] + scale.seconds
            if stamps[-1] > end and len(stamps) > skipped + _WINDOW:
                break
        flight.append(pool.submit([images[index % len(images)]], "bgr", timeout=math.inf))
    while flight:
        flight.popleft().result()
        stamps.append(time.perf_counter())
    return stamps[skipped : skipped + frames + 1]

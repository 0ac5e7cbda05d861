"""`peers`: one 1080p BGR frame to its detections on the host, edgedet and what people write, in turns.

Every contender gets the frame where it lies in device memory, a different one each turn, and the outputs of the
network as tensors; OpenCV, which works on the CPU, gets it in host memory and is compared with edgedet from there.
Their results are compared with edgedet's on the CPU, so that speed is read beside what it is the speed of.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch

import edgedet
from benchmarks.cuda_frames import torch_peer
from benchmarks.cuda_frames.contenders import Contender, Frame, NotInstalled, Task, Ways, all_contenders
from benchmarks.cuda_frames.figures import Row, summary
from benchmarks.cuda_frames.kernels import Filter, random_head
from benchmarks.cuda_frames.record import Scale, told
from benchmarks.cuda_frames.timing import need_torch, round_robin
from benchmarks.cuda_frames.torch_peer import MEAN, STD

_FRAMES = 8
_WARM_UP = 10

Key = tuple[str, str]  # name and filter of a contender


def peers(scale: Scale) -> dict[str, Any]:
    """Both the whole way and preprocessing alone, each with the wait for the device."""
    need_torch()
    task = make_task()
    frames = [make_frame(task, seed) for seed in range(_FRAMES)]
    contenders = all_contenders(task, compiled=scale.compile)
    made, agreements = make_all(contenders, task, frames[0])
    times = {
        "end_to_end": in_turns({key: ways.detect for key, ways in made.items()}, frames, scale),
        "preprocess": in_turns({key: _waited(ways.preprocess) for key, ways in made.items()}, frames, scale),
    }
    return {
        "frame": f"{task.width}x{task.height} bgr to {task.side}x{task.side} float32",
        "head": f"{task.logits.shape[1]}x{task.logits.shape[2]} float32, top {task.top_k}",
        "opencv_threads": cv2.getNumThreads(),
        "rows": compare(contenders, times, agreements),
    }


def make_task() -> Task:
    return Task(1920, 1080, 640, 300, *random_head(1, 300, 80, "float32"))


def make_frame(task: Task, seed: int) -> Frame:
    """Smooth structure with some noise: filters differ on it as on pictures."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(task.height // 8, 2), max(task.width // 8, 2), 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (task.width, task.height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    host = np.clip(smooth + random.integers(-8, 9, smooth.shape, dtype=np.int16), 0, 255).astype(np.uint8)
    return Frame(torch.from_numpy(host).to(task.device), host)


def make_all(contenders: Sequence[Contender], task: Task, frame: Frame) -> tuple[dict[Key, Ways], dict[Key, Row]]:
    """Those that work on a frame, and how far each agrees; of the others "skipped" or "error" in its place."""
    made: dict[Key, Ways] = {}

    def make(contender: Contender) -> Row:
        try:
            ways = contender.make()
            agrees = agreement(ways, contender.filter, task, frame)
        except NotInstalled as error:
            return {"skipped": str(error)}
        except Exception as error:  # a compiler that is missing, an operator that a version lacks
            return {"error": told(error)}
        made[contender.key] = ways
        return {"agreement": agrees}

    told_of = {contender.key: make(contender) for contender in contenders}
    return made, told_of


def agreement(ways: Ways, filter: Filter, task: Task, frame: Frame) -> Row:
    """What both ways make of a frame against edgedet's own on the CPU."""
    found = torch.as_tensor(ways.preprocess(frame), device=task.device).cpu().numpy()
    right = edgedet.preprocess(
        frame.host, width=task.side, height=task.side, filter=filter, mean=MEAN, std=STD, format="bgr"
    )
    detected = edgedet.decode_logits(
        task.logits[0].cpu().numpy(),
        task.boxes[0].cpu().numpy(),
        width=task.side,
        height=task.side,
        image_width=task.width,
        image_height=task.height,
        top_k=task.top_k,
    )
    return {
        **torch_peer.input_agreement(found.reshape(right.shape), right),
        **torch_peer.detection_agreement(torch_peer.as_rows(ways.detect(frame)), detected),
    }


def in_turns(
    calls: Mapping[Key, Callable[[Frame], Any]], frames: Sequence[Frame], scale: Scale
) -> dict[Key, list[float]]:
    """Microseconds of each call of each contender, on frames that take turns too."""

    def on_frames(call: Callable[[Frame], Any]) -> Callable[[int], object]:
        return lambda turn: call(frames[turn % len(frames)])

    return round_robin(
        {key: on_frames(call) for key, call in calls.items()},
        rounds=scale.rounds,
        warmup=_WARM_UP,
        between=torch.cuda.synchronize,
    )


def _waited(call: Callable[[Frame], Any]) -> Callable[[Frame], Any]:
    def run(frame: Frame) -> None:
        call(frame)
        torch.cuda.synchronize()

    return run


def compare(
    contenders: Sequence[Contender], times: Mapping[str, Mapping[Key, Sequence[float]]], told_of: Mapping[Key, Row]
) -> list[Row]:
    """A row a contender: of each kind in `times` the summary, and how many times as long as its base it takes."""
    rows = []
    for contender in contenders:
        row: Row = {"name": contender.name, "filter": contender.filter, "against": contender.base}
        for kind, taken in times.items():
            if contender.key not in taken:
                continue
            row[kind] = {"microseconds": summary(taken[contender.key])}
            base = taken.get((contender.base, contender.filter))
            if base is not None:
                row[kind]["ratio_of_medians"] = statistics.median(taken[contender.key]) / statistics.median(base)
        rows.append({**row, **told_of[contender.key]})
    return rows

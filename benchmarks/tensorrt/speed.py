"""`speed`: from a 1080p frame to detections, beside the engine alone, by turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cuda_frames.figures import summary
from benchmarks.cuda_frames.timing import host_times
from benchmarks.tensorrt.models import Engine
from benchmarks.tensorrt.record import NotMeasured, Row, Step
from benchmarks.tensorrt.runtime import (
    Scene,
    detect_on_device,
    device_used,
    network_times,
    open_detector,
    resident,
)
from edgedet.cli.bench import synthetic_frame

WIDTH, HEIGHT = 1920, 1080
_ROUNDS, _CALLS, _WARM_UP = 10, 30, 30
_SECONDS = 8.0  # at most, for a turn of one contender

HOST, DEVICE, ENGINE = "host frame", "device frame", "engine alone"


def steps(scene: Scene) -> dict[str, Step]:
    found: dict[str, Step] = {}
    for engine in scene.engines:
        found[engine.key] = _step(scene, engine)
    return found


def _step(scene: Scene, engine: Engine) -> Step:
    return lambda: speed(scene, engine)


def speed(scene: Scene, engine: Engine) -> Row:
    """Milliseconds a call, each way in turns with the engine alone; memory; stages."""
    before = device_used()
    detector = open_detector(scene, engine)
    frames = [synthetic_frame(WIDTH, HEIGHT)] * engine.batch
    ways: dict[str, Callable[[int], list[float]]] = {
        HOST: lambda calls: wall(lambda: detector(frames, format="bgr"), calls)
    }
    missing: dict[str, str] = {}
    makers: dict[str, Callable[[], Callable[[int], list[float]]]] = {
        DEVICE: lambda: _device_way(detector, frames),
        ENGINE: lambda: _engine_way(detector, engine.batch),
    }
    for name, make in makers.items():
        way = unless_missing(make)
        if isinstance(way, str):
            missing[name] = way
        else:
            ways[name] = way
    times = in_turns(ways, rounds=scene.count(_ROUNDS), calls=scene.count(_CALLS), warmup=scene.count(_WARM_UP))
    row: Row = {
        "frame": f"{WIDTH}x{HEIGHT} bgr",
        "batch": engine.batch,
        "milliseconds": {name: summary(values) for name, values in times.items()},
        "not_measured": missing,
        "device_bytes": None if before is None else (device_used() or 0) - before,
        "resident_bytes": resident(),
        "device": detector.info.device,
    }
    if ENGINE in times:
        base = statistics.median(times[ENGINE])
        row["of_engine"] = {name: statistics.median(values) / base for name, values in times.items()}
    return {**row, **_stages(engine, detector, frames[0])}


def unless_missing(make: Callable[[], Callable[[int], list[float]]]) -> Callable[[int], list[float]] | str:
    """What it makes, or why it cannot."""
    try:
        return make()
    except NotMeasured as reason:
        return str(reason)


def in_turns(
    ways: dict[str, Callable[[int], list[float]]], *, rounds: int, calls: int, warmup: int
) -> dict[str, list[float]]:
    """Milliseconds of each call; a round gives every way a block of calls, in an order that rotates."""
    for way in ways.values():
        way(warmup)
    names = list(ways)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name] += ways[name](calls)
    return times


def wall(call: Callable[[], object], calls: int) -> list[float]:
    times = host_times(lambda _: call(), samples=calls, seconds=_SECONDS, warmup=1).wall
    return [value / 1e3 for value in times]


def _device_way(detector: Any, frames: list[Any]) -> Callable[[int], list[float]]:
    torch = _torch()
    call = detect_on_device(detector, [torch.from_numpy(frame).cuda() for frame in frames])
    return lambda calls: wall(call, calls)


def _engine_way(detector: Any, batch: int) -> Callable[[int], list[float]]:
    return lambda calls: network_times(detector, batch=batch, calls=calls)


def _torch() -> Any:
    import torch

    if not torch.cuda.is_available():
        raise NotMeasured(f"torch {torch.__version__} sees no CUDA device")
    return torch


def _stages(engine: Engine, detector: Any, frame: np.ndarray[Any, Any]) -> Row:
    """Microseconds of preprocessing and decoding on the device, each by itself, for one image."""
    try:
        torch = _torch()
        from benchmarks.cuda_frames.timing import current_stream, gpu_times
        from edgedet import cuda

        spec = detector.info.spec
        how, out = spec["input"], spec["output"]
        if out["form"] != "logits_boxes":
            raise NotMeasured("stages are timed of networks with raw outputs")
        size = {key: how[key] for key in ("width", "height", "resize")}
        rows = detector.core.infer(np.zeros((1, 3, how["height"], how["width"]), np.float32))
        preprocessor = cuda.Preprocessor(
            **size,
            **{key: how[key] for key in ("filter", "channels", "pad_value")},
            mean=tuple(how["mean"]),
            std=tuple(how["std"]),
            max_width=WIDTH,
            max_height=HEIGHT,
        )
        image = torch.from_numpy(frame).cuda()
        network_input = torch.empty((1, 3, how["height"], how["width"]), device="cuda")
        logits, boxes = (torch.from_numpy(rows[out[part]]).cuda() for part in ("logits", "boxes"))
        decoder = cuda.Decoder(**size, rows=logits.shape[1], classes=logits.shape[2], top_k=out["top_k"])
        results = torch.empty((1, decoder.result_bytes), dtype=torch.uint8, device="cuda")
        outputs = {"logits": logits, "boxes": boxes}
    except NotMeasured as reason:
        return {"stages": {"not_measured": str(reason)}}
    timed = {
        "preprocess": gpu_times(
            lambda _: preprocessor.run([image], network_input, format="bgr", stream=current_stream()),
            calls=16,
            samples=30,
        ),
        "decode": gpu_times(
            lambda _: decoder.run(outputs, [(WIDTH, HEIGHT)], results, stream=current_stream()), calls=16, samples=30
        ),
    }
    return {"stages": {name: summary(found.microseconds) for name, found in timed.items()}}

"""`stress`: threads, many frames, a memory limit, a swap under traffic, several engines: the same detections, flat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import edgedet
from benchmarks.tensorrt.growth import growth
from benchmarks.tensorrt.models import TRAINED, Engine
from benchmarks.tensorrt.record import NotMeasured, Row, Step
from benchmarks.tensorrt.runtime import Scene, device_used, open_detector, photos, resident
from edgedet import Detections

Detect = Callable[[Any], Detections]

FRAMES = 10_000
WARM_UP = 1_000  # pools and caches of the driver, the allocator and Python fill
SAMPLES = 100
FLAT_BYTES = 8 * 2**20  # over FRAMES: 840 bytes a frame; one leaked result of 300 rows is 8,400
MEMORY_LIMIT_MB = 4096
_PHOTOS = 16
_TURNS = 200  # of each thread


def steps(scene: Scene) -> dict[str, Step]:
    model = next((name for name in TRAINED if name in scene.prepared.names), None)
    if model is None:
        return {}
    engine = Engine(model, "fp16")
    return {
        "four threads, a detector each": lambda: threads_each(scene, engine, 4),
        "eight threads, one detector": lambda: threads_shared(scene, engine, 8),
        "several engines": lambda: several_engines(scene),
        "swap under traffic": lambda: swap_under_traffic(scene, engine),
        "memory limit": lambda: memory_limit(scene, engine),
        f"{FRAMES} frames": lambda: many_frames(scene, engine),
    }


def same(a: Detections, b: Detections) -> bool:
    """Bit for bit."""
    pairs = ((a.boxes, b.boxes), (a.scores, b.scores), (a.labels, b.labels))
    return all(np.array_equal(one, other) for one, other in pairs)


def disagreements(detectors: Sequence[Detect], wanted: Sequence[Detections], images: Sequence[Any], turns: int) -> int:
    """Calls of one thread a detector, all at once, whose detections are not those wanted."""
    barrier = threading.Barrier(len(detectors))

    def work(place: int) -> int:
        barrier.wait()
        wrong = 0
        for turn in range(turns):
            at = (place + turn) % len(images)
            wrong += not same(detectors[place](images[at]), wanted[at])
        return wrong

    with ThreadPoolExecutor(len(detectors)) as pool:
        return sum(pool.map(work, range(len(detectors))))


def threads_each(scene: Scene, engine: Engine, count: int) -> Row:
    images = photos(scene, _PHOTOS)
    detectors = [open_detector(scene, engine) for _ in range(count)]
    wanted = [open_detector(scene, engine)(image) for image in images]
    return _agreement(detectors, wanted, images, scene.count(_TURNS))


def threads_shared(scene: Scene, engine: Engine, count: int) -> Row:
    images = photos(scene, _PHOTOS)
    detector = open_detector(scene, engine)
    wanted = [detector(image) for image in images]
    return _agreement([detector] * count, wanted, images, scene.count(_TURNS))


def _agreement(detectors: Sequence[Detect], wanted: Sequence[Detections], images: Sequence[Any], turns: int) -> Row:
    wrong = disagreements(detectors, wanted, images, turns)
    return {"threads": len(detectors), "calls": turns * len(detectors), "wrong": wrong, "passed": wrong == 0}


def several_engines(scene: Scene) -> Row:
    """Engines of several networks in one process, by turns and at once, against each alone."""
    models = [name for name in TRAINED if name in scene.prepared.names]
    engines = [Engine(model, variant) for model in models for variant in ("fp32", "fp16")]
    images = photos(scene, _PHOTOS)
    alone = []
    for engine in engines:
        detector = open_detector(scene, engine)
        alone.append([detector(image) for image in images])
        del detector
    detectors = [open_detector(scene, engine) for engine in engines]
    wrong = 0

    def work(place: int) -> int:
        found = [detectors[place](image) for image in images]
        return sum(not same(a, b) for a, b in zip(found, alone[place], strict=True))

    wrong += sum(work(place) for place in range(len(engines)))
    with ThreadPoolExecutor(len(engines)) as pool:
        wrong += sum(pool.map(work, range(len(engines))))
    return {"engines": [engine.key for engine in engines], "wrong": wrong, "passed": wrong == 0}


def swap_under_traffic(scene: Scene, engine: Engine) -> Row:
    """While threads detect, the bundle changes there and back: every answer is one bundle's or the other's."""
    images = photos(scene, 4)
    detector = open_detector(scene, engine)
    first = scene.prepared.bundle(engine)
    others = [name for name in TRAINED if name in scene.prepared.names and name != engine.model]
    if not others:
        raise NotMeasured("only one network of trained weights was prepared")
    second_engine = Engine(others[0], engine.variant)
    second = scene.prepared.bundle(second_engine)
    old = [detector(image) for image in images]
    alone = open_detector(scene, second_engine)
    new = [alone(image) for image in images]
    stop = threading.Event()
    counts = {"old": 0, "new": 0, "neither": 0}
    lock = threading.Lock()

    def work(place: int) -> None:
        turn = place
        while not stop.is_set():
            at = turn % len(images)
            found = detector(images[at])
            kind = "old" if same(found, old[at]) else "new" if same(found, new[at]) else "neither"
            with lock:
                counts[kind] += 1
            turn += 1

    swaps = scene.count(10)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, place) for place in range(4)]
        try:
            for turn in range(swaps):
                detector.swap(second if turn % 2 == 0 else first)
        finally:
            stop.set()
        for one in running:
            one.result()
    last = new if swaps % 2 else old
    after = same(detector(images[0]), last[0])
    passed = counts["neither"] == 0 and min(counts["old"], counts["new"]) > 0 and after
    return {"swaps": swaps, "answers": counts, "last_is_right": after, "passed": passed}


def memory_limit(scene: Scene, engine: Engine) -> Row:
    """The most device memory while an engine is built and run under a limit of 4 GiB, sampled."""
    before = device_used()
    if before is None:
        raise NotMeasured("no CUDA device")
    held: list[int] = [before]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            held.append(device_used() or 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        cache = scene.work / "limited"
        detector = open_detector(scene, engine, cache=cache, memory_limit_mb=MEMORY_LIMIT_MB)
        built = max(held) - before
        for image in photos(scene, _PHOTOS):
            detector(image)
    finally:
        stop.set()
        watcher.join()
    used = max(held) - before
    return {
        "limit_bytes": MEMORY_LIMIT_MB * 2**20,
        "built_bytes": built,
        "most_bytes": used,
        "counted": "device memory in use beyond what was in use before, every 10 ms; of this process and the builder's",
        "passed": used <= MEMORY_LIMIT_MB * 2**20,
    }


def many_frames(scene: Scene, engine: Engine) -> Row:
    detector = open_detector(scene, engine)
    return flatness(detector, photos(scene, _PHOTOS), frames=scene.count(FRAMES), warmup=scene.count(WARM_UP))


def flatness(
    detector: Detect | edgedet.Detector, images: Sequence[Any], *, frames: int, warmup: int, limit: float = FLAT_BYTES
) -> Row:
    """A line through the memory of this process and of the device over many frames.

    Samples are `frames` / SAMPLES frames apart, those of the first `warmup` frames left out. `limit`: bytes that the
    line may rise over `frames` frames, two standard errors of the slope included.
    """
    at: list[float] = []
    host: list[float] = []
    device: list[float] = []
    every = max(frames // SAMPLES, 1)
    for index in range(warmup + frames):
        detector(images[index % len(images)])
        if index >= warmup and (index - warmup) % every == every - 1:
            at.append(index)
            host.append(resident())
            device.append(device_used() or 0)
    found = {"resident": growth(at, host, over=frames)}
    if any(device):
        found["device"] = growth(at, device, over=frames)
    return {
        "frames": frames,
        "warmup": warmup,
        "samples": len(at),
        "limit_bytes": limit,
        **{f"{name}_bytes": line.to_json() for name, line in found.items()},
        "passed": all(line.flat(limit) for line in found.values()),
    }

"""`plugin`: deformable attention fused in one layer against gather, end to end and by turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import edgedet
from benchmarks.cuda_frames.figures import summary
from benchmarks.tensorrt.models import Engine
from benchmarks.tensorrt.record import NotMeasured, Row, Step
from benchmarks.tensorrt.runtime import Scene, fused_bundle, open_detector, photos
from benchmarks.tensorrt.speed import HEIGHT, WIDTH, in_turns, wall
from benchmarks.tensorrt.stress import same
from edgedet.cli.bench import synthetic_frame
from edgedet.matching import drift

GATHER, FUSED = "gather", "fused"


def steps(scene: Scene) -> dict[str, Step]:
    return {model: _step(scene, Engine(model, "fp16")) for model in scene.prepared.names}


def _step(scene: Scene, engine: Engine) -> Step:
    return lambda: compare(scene, engine)


def compare(scene: Scene, engine: Engine) -> Row:
    fused = fused_bundle(scene.prepared.bundle(engine), engine.precision, scene.work / "fused" / engine.model)
    detectors = {
        GATHER: open_detector(scene, engine),
        FUSED: open_detector(scene, engine, bundle=fused, cache=scene.work / "engines" / f"fused_{engine.model}"),
    }
    images = photos(scene, 16)
    found = {name: [detector(image) for image in images] for name, detector in detectors.items()}
    if all(same(a, b) for a, b in zip(found[GATHER], found[FUSED], strict=True)):
        raise NotMeasured("both engines give the same bits: the plugin was not used")
    frame = synthetic_frame(WIDTH, HEIGHT)
    times = in_turns(
        {name: _way(detector, frame) for name, detector in detectors.items()},
        rounds=scene.count(10),
        calls=scene.count(30),
        warmup=scene.count(30),
    )
    return {
        "milliseconds": {name: summary(values) for name, values in times.items()},
        "fused_of_gather": statistics.median(times[FUSED]) / statistics.median(times[GATHER]),
        "boxes": drift(found[GATHER], found[FUSED]).to_json(),
    }


def _way(detector: edgedet.Detector, frame: NDArray[np.uint8]) -> Callable[[int], list[float]]:
    return lambda calls: wall(lambda: detector([frame], format="bgr"), calls)

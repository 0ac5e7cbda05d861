"""`build`: how long an engine takes, how large it is, and what it consists of."""

from __future__ import annotations

import shutil
from typing import Any

from benchmarks.tensorrt.layers import layer_summary, why_not_faster
from benchmarks.tensorrt.models import MODELS, TRAINED, Engine
from benchmarks.tensorrt.record import NotMeasured, Row, Step
from benchmarks.tensorrt.runtime import Scene, cache_of, device_used, open_detector, timed


def engines(names: tuple[str, ...]) -> tuple[Engine, ...]:
    """In the order in which they are built: what matters most first, for a build may take minutes."""
    plain = [Engine(model, variant) for model in TRAINED for variant in ("fp32", "fp16", "int8")]
    large = [Engine(model.name, variant) for model in MODELS if not model.trained for variant in ("fp16", "int8")]
    mixed = [Engine(model.name, "int8+fp16") for model in MODELS]
    batched = [Engine(model, "fp16", 8) for model in TRAINED]
    calibrated = [Engine(model, "int8 calibrator") for model in TRAINED]
    rest = [Engine(model.name, "fp32") for model in MODELS if not model.trained]
    more = [Engine(model, variant, 8) for model in TRAINED for variant in ("fp32", "int8")]
    ordered = (*plain, *large, *mixed, *batched, *calibrated, *rest, *more)
    return tuple(engine for engine in ordered if engine.model in names)


def steps(scene: Scene) -> dict[str, Step]:
    return {engine.key: _step(scene, engine) for engine in scene.engines}


def _step(scene: Scene, engine: Engine) -> Step:
    return lambda: build(scene, engine)


def build(scene: Scene, engine: Engine) -> Row:
    """Builds it anew and opens it again from the cache."""
    cache = cache_of(scene, engine)
    shutil.rmtree(cache, ignore_errors=True)
    scene.prepared.bundle(engine)  # restored before the clock runs
    before = device_used()
    detector, seconds = timed(lambda: open_detector(scene, engine))
    graph = detector.execution_graph()
    held = None if before is None else (device_used() or 0) - before
    spec = detector.info
    del detector
    _, again = timed(lambda: open_detector(scene, engine))
    files = list(cache.glob("*.engine"))
    return {
        "seconds": round(seconds, 2),
        "open_seconds": round(again, 3),
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 2) if files else None,
        "device_bytes": held,
        "device": spec.device,
        "precision": spec.precision,
        "layers": layer_summary(graph),
    }


def explanation(rows: dict[str, Any], model: str) -> list[str]:
    """Why int8 is no faster than half precision, as far as both engines' layers tell.

    Raises:
        NotMeasured: one of them was not built.
    """
    both = [rows.get(f"{model} {variant}", {}).get("layers") for variant in ("int8", "fp16")]
    if None in both:
        raise NotMeasured("not both engines were built")
    return why_not_faster(both[0], both[1])

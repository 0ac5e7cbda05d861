"""`oracle`: other programs on the same plan and the same input must give the same output tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cuda_frames.figures import summary
from benchmarks.tensorrt.models import Engine
from benchmarks.tensorrt.other_programs import PythonEngine, compile_oracle, run_oracle
from benchmarks.tensorrt.record import Row, Step
from benchmarks.tensorrt.runtime import Scene, open_detector, photos, plan_file, raw_outputs
from calibration.inputs import network_feed, network_input

# A plan holds the kernels, so the same bits are expected; a kernel that adds in another order each time is allowed this
# share of the largest value.
TOLERANCE = 1e-3

Outputs = Mapping[str, NDArray[Any]]


def steps(scene: Scene) -> dict[str, Step]:
    found: dict[str, Step] = {}
    for engine in scene.engines:
        if engine.batch == 1:
            found[f"{engine.key}: C++"] = _step(scene, engine, _by_program)
            found[f"{engine.key}: Python"] = _step(scene, engine, _by_python)
    return found


def _step(scene: Scene, engine: Engine, run: Callable[[Scene, Path, Outputs], tuple[Outputs, Row]]) -> Step:
    return lambda: agreement(scene, engine, run)


def agreement(scene: Scene, engine: Engine, run: Callable[[Scene, Path, Outputs], tuple[Outputs, Row]]) -> Row:
    detector = open_detector(scene, engine)
    spec = detector.info.spec
    tensor = network_input(photos(scene, 1)[0], spec)[None]
    ours = raw_outputs(detector, tensor)
    theirs, more = run(scene, plan_file(scene, engine), network_feed(tensor, spec))
    return {**compare(ours, theirs), **more}


def compare(ours: Outputs, theirs: Outputs) -> Row:
    """Whether outputs of the same names are equal, and by how much they differ as a share of the largest value."""
    if missing := sorted(set(ours) - set(theirs)):
        raise RuntimeError(f"expected outputs {', '.join(sorted(ours))}, got none named {', '.join(missing)}")
    rows = {}
    for name, right in theirs.items():
        if name in ours:
            a, b = ours[name].astype(np.float64), right.astype(np.float64).reshape(ours[name].shape)
            largest = max(float(np.abs(b).max(initial=0)), 1e-30)
            rows[name] = {"equal": bool(np.array_equal(a, b)), "difference": float(np.abs(a - b).max()) / largest}
    worst = max(row["difference"] for row in rows.values())
    return {
        "outputs": rows,
        "equal": all(row["equal"] for row in rows.values()),
        "difference": worst,
        "passed": bool(worst <= TOLERANCE),
    }


def _by_program(scene: Scene, plan: Path, feed: Outputs) -> tuple[Outputs, Row]:
    ran = run_oracle(compile_oracle(scene.work), plan, _typed(feed), scene.work / "oracle.values", calls=200)
    return ran.outputs, {"milliseconds": summary(ran.milliseconds)}


def _by_python(scene: Scene, plan: Path, feed: Outputs) -> tuple[Outputs, Row]:
    return PythonEngine(plan, 1)(_typed(feed)), {"memory": "torch tensors"}


def _typed(feed: Outputs) -> Outputs:
    """Before version 10 the parser makes int32 of int64."""
    from benchmarks.tensorrt.runtime import tensorrt_version

    narrow = tensorrt_version() < (10, 0)
    return {
        name: values.astype(np.int32) if narrow and values.dtype == np.int64 else values
        for name, values in feed.items()
    }

"""Makes the engine of a contender, and says what that cost: the one place where backends differ in a sweep."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from edgedet import Detector, EngineOptions
from edgedet.bundle import Precision, load_model_json, name_model
from edgedet.verdict import model_file


@dataclass(frozen=True)
class Prepared:
    """An engine that is ready.

    Attributes:
        detector: It.
        seconds: That making it took; where it was there already, that reading it took.
        bytes: Of the engine; for OpenVINO, which builds none, of the model file.
    """

    detector: Detector
    seconds: float
    bytes: int


def prepare(bundle: Path, *, backend: str, precision: str, threads: int, calibrator: bool = False) -> Prepared:
    """Makes an engine; with TensorRT's entropy calibrator out of the float model, if so asked.

    Raises:
        Error: It cannot be made; the message says why.
    """
    start = time.perf_counter()
    options = EngineOptions(calibrator="entropy" if calibrator else None)
    # OpenVINO's time is that of compiling, which a kept network would hide; TensorRT's engines are worth keeping.
    cache = "" if backend == "openvino" else None
    detector = Detector(bundle, backend=backend, precision=precision, threads=threads, cache_dir=cache, engine=options)
    seconds = time.perf_counter() - start
    if (engine := detector.info.engine) is not None:
        return Prepared(detector, engine.seconds, engine.bytes)
    spec = detector.info.spec
    return Prepared(detector, seconds, spec["files"][model_file(spec, precision, backend)]["bytes"])


def runnable(bundle: Path, *, file: str, backend: str, precision: str, scratch: Path) -> Path:
    """A bundle whose model of this precision is `file`: itself, or a copy in `scratch` that names it."""
    if model_file(load_model_json(bundle), precision, backend) == file:
        return bundle
    copy = scratch / f"{bundle.name}.{precision}"
    shutil.copytree(bundle, copy)
    known: Precision = precision  # type: ignore[assignment]  # checked by name_model's reader
    name_model(copy, known, backend, file)
    return copy

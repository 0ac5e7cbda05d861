"""edgedet's runtime, as narrow as the benchmark needs it: what a version lacks is not measured, and said so."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgedet
from benchmarks.tensorrt.models import Engine, Prepared
from benchmarks.tensorrt.record import NotMeasured
from calibration.fusion.choice import fused_model, gather_file
from calibration.inputs import fused_name
from edgedet import BackendError, InvalidInputError, ModelError, _core
from edgedet.bundle import Precision, add_file, name_model
from edgedet.known_bad.check import installed_version

# An entry of the engine cache: this word, then key, size and digest in hexadecimal digits, then the plan.
_MAGIC = b"edgedet engine 1\n"
_HEADER = len(_MAGIC) + 64 + 16 + 64


@dataclass(frozen=True)
class Scene:
    """What all sections need to know.

    backend: "tensorrt"; tests of the benchmark run its sections on another one.
    scale: 1 for the full number of frames, less for tests.
    """

    prepared: Prepared
    images: Path
    annotations: Path
    work: Path
    backend: str = "tensorrt"
    scale: float = 1.0
    engines: tuple[Engine, ...] = field(default=())

    def count(self, full: int) -> int:
        return max(int(full * self.scale), 4)


def cache_of(scene: Scene, engine: Engine) -> Path:
    """The folder of one engine, so that the one file in it is that engine."""
    return scene.work / "engines" / engine.key.replace(" ", "_").replace("+", "_")


def open_detector(
    scene: Scene, engine: Engine, *, cache: Path | None = None, bundle: Path | None = None, **more: Any
) -> edgedet.Detector:
    """A detector on an engine, which is built where it is not in the cache.

    bundle: another one than the engine's own.
    more: fields of EngineOptions beyond the batch sizes.

    Raises:
        NotMeasured: this edgedet cannot be asked for it.
    """
    wanted = dict(more)
    if engine.batch > 1:
        wanted["batch"] = (1, engine.batch, engine.batch)
    if engine.variant == "int8 calibrator":
        wanted["calibrator"] = "entropy"
    if engine.variant == "int8+fp16" and tensorrt_version() < (10, 0):
        raise NotMeasured("needs TensorRT 10 or newer; before, the INT8 file runs with the FP16 flag for the rest")
    return edgedet.Detector(
        bundle or scene.prepared.bundle(engine),
        backend=scene.backend,
        precision=engine.precision if scene.backend == "tensorrt" else "fp32",
        cache_dir=cache or cache_of(scene, engine),
        engine=edgedet.EngineOptions(**wanted),
    )


def network_times(detector: edgedet.Detector, *, batch: int, calls: int) -> list[float]:
    """Milliseconds of the engine alone, replayed as a CUDA graph."""
    frame = np.zeros((detector.info.height, detector.info.width, 3), np.uint8)
    return detector.core.time_parts([frame] * batch, "rgb", calls).network


def detect_on_device(detector: edgedet.Detector, frames: list[Any]) -> Callable[[], object]:
    """A call that detects on BGR frames in device memory (torch tensors).

    Raises:
        NotMeasured: this edgedet's Detector takes no arrays in device memory.
    """
    try:
        detector(frames, format="bgr")
    except InvalidInputError as error:
        raise NotMeasured(f"this edgedet's Detector takes no frame in device memory: {error}") from None
    return lambda: detector(frames, format="bgr")


def raw_outputs(detector: edgedet.Detector, tensor: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The network alone: (N, 3, H, W) to its outputs by name."""
    return detector.core.infer(np.ascontiguousarray(tensor))


def fused_bundle(bundle: Path, precision: Precision, folder: Path) -> Path:
    """A copy of a bundle whose model of a precision has fused deformable attention.

    Raises:
        NotMeasured: its attention is of a form that cannot be fused.
    """
    try:
        content = fused_model(bundle, precision)[0].SerializeToString()
    except ModelError as error:
        raise NotMeasured(str(error)) from None
    copy = Path(shutil.copytree(bundle, folder, dirs_exist_ok=True))
    name = fused_name(gather_file(bundle, precision))
    add_file(copy, name, content)
    name_model(copy, precision, "tensorrt", name)
    return copy


def tensorrt_version() -> tuple[int, int]:
    """Major and minor of the library that runs; (0, 0) where there is none."""
    return installed_version(_backend()) or (0, 0)


def need_backend() -> str:
    """What the TensorRT backend says of itself.

    Raises:
        BackendError: it is not available; the message says why.
    """
    entry = _backend()
    if not entry["available"]:
        raise BackendError(f"expected TensorRT on a CUDA device, got: {entry['detail']}")
    return str(entry["detail"])


def _backend() -> dict[str, Any]:
    return next(entry for entry in _core.backends() if entry["name"] == "tensorrt")


def plan_bytes(entry: bytes) -> bytes:
    """The plan in an entry of the engine cache, or the file as it is if it is a bare plan."""
    return entry[_HEADER:] if entry.startswith(_MAGIC) else entry


def plan_file(scene: Scene, engine: Engine) -> Path:
    """A bare plan of the engine, for other programs.

    Raises:
        NotMeasured: it has not been built.
    """
    cache = cache_of(scene, engine)
    entries = sorted(cache.glob("*.engine"))
    if not entries:
        raise NotMeasured(f"no engine of {engine.key} was built")
    file = cache / "bare.plan"
    if not file.is_file():
        file.write_bytes(plan_bytes(entries[0].read_bytes()))
    return file


def device_used() -> int | None:
    """Bytes of device memory in use, by everyone; None without a device."""
    found, _ = _core.cuda_devices()
    return int(found[0]["total_bytes"] - found[0]["free_bytes"]) if found else None


def resident() -> int:
    """Bytes of this process in memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def timed(call: Callable[[], object]) -> tuple[Any, float]:
    """What it returns, and its seconds."""
    gc.collect()
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def photos(scene: Scene, count: int) -> list[NDArray[np.uint8]]:
    """The first images, RGB."""
    files: Sequence[Path] = sorted(scene.images.glob("*.[jp][pn]g"))[:count]
    return [edgedet.read_image(file) for file in files]

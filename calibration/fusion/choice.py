"""Whether a bundle's TensorRT model samples by gathers or by the fused operator: whichever is faster where it runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from calibration.fusion.rewrite import fuse
from calibration.inputs import fused_name, unfused_name
from calibration.sampling import read_record
from calibration.search.bench import divergence, medians_by_turns
from edgedet import BackendError, Detector, InvalidInputError, ModelError, backends
from edgedet.bundle import Precision, add_file, add_json, load_model_json, name_model

Form = Literal["gather", "fused"]

_BACKEND = "tensorrt"
# The fused form is kept if it saves this share of the time of a frame, and moves detections by no more than this
# (`calibration.search.bench.divergence`): rounding alone, or something is wrong.
_LEAST_GAIN = 0.01
_MOST_DIVERGENCE = 0.02


@dataclass(frozen=True)
class Choice:
    """Both forms, measured by turns from frame in memory to detections.

    Attributes:
        kept: the form that the bundle has now.
        gather_ms: median milliseconds a frame.
        fused_ms: median milliseconds a frame.
        divergence: of the fused form's detections from the others, in [0, 1].
        device: that it was measured on, and the version of the backend.
        source_sha256: of the file with gathers.
    """

    kept: Form
    gather_ms: float
    fused_ms: float
    divergence: float
    device: str
    source_sha256: str


def faster(gather_ms: float, fused_ms: float, moved: float) -> Form:
    """The form to keep; the one that needs no plugin unless the other one is measured to be better."""
    return "fused" if fused_ms <= gather_ms * (1.0 - _LEAST_GAIN) and moved <= _MOST_DIVERGENCE else "gather"


def gather_file(bundle: Path, precision: Precision) -> str:
    """Name of the file in standard operators that TensorRT runs in a precision.

    Raises:
        InvalidInputError: the bundle has none.
    """
    spec = load_model_json(bundle)
    files = spec["models"].get(precision, {})
    name = unfused_name(str(files.get(_BACKEND, files.get("*", ""))))
    if name not in spec["files"]:
        made = {"fp16": "half", "int8": "quantize --backend tensorrt"}.get(precision)
        remedy = f'; make one with "python -m calibration {made}"' if made else ""
        raise InvalidInputError(f"{bundle}: expected a {precision} model for {_BACKEND}, got none{remedy}")
    return name


def fused_model(bundle: Path, precision: Precision) -> tuple[onnx.ModelProto, int]:
    """What TensorRT runs in a precision, with fused attention, and the number of its attentions.

    Raises:
        InvalidInputError: as `gather_file`.
        ModelError: as `fuse`.
    """
    path = bundle / gather_file(bundle, precision)
    try:
        return fuse(onnx.load(str(path)))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def need_tensorrt() -> None:
    """Check that engines can be timed here.

    Raises:
        BackendError: why they cannot.
    """
    entry = next((entry for entry in backends() if entry["name"] == _BACKEND), None)
    if entry is None or not entry["available"]:
        reason = "this build knows no such backend" if entry is None else entry["detail"]
        raise BackendError(
            f"expected {_BACKEND}, to time both forms on the device that will run them, got: {reason}; run it there, "
            "or write the fused file without choosing (--out FILE)"
        )


def choose(
    bundle: Path,
    precision: Precision,
    frames: Sequence[npt.NDArray[np.uint8]],
    *,
    seconds: float,
    engine: Callable[..., Detector] = Detector,
) -> Choice:
    """Build and time both forms, give the bundle the faster one, and record the figures in calibration.json.

    The file with gathers stays in the bundle, so that another device can choose again.

    Args:
        bundle: with a model of that precision.
        precision: "fp32", "fp16" or "int8".
        frames: (H, W, 3) uint8 RGB, at least one.
        seconds: that timing takes.
        engine: what opens a bundle; called as `Detector`.

    Raises:
        InvalidInputError, ModelError: as `fused_model`.
        BackendError: an engine cannot be built.
    """
    record = read_record(bundle)
    source = gather_file(bundle, precision)
    target = fused_name(source)
    content = fused_model(bundle, precision)[0].SerializeToString()
    with tempfile.TemporaryDirectory() as scratch:
        engines = []
        for form, name in (("gather", source), ("fused", target)):
            copy = Path(shutil.copytree(bundle, Path(scratch) / form))
            if form == "fused":
                add_file(copy, target, content)
            name_model(copy, precision, _BACKEND, name)
            engines.append(engine(copy, backend=_BACKEND, precision=precision))
        found = [[detector(frame) for frame in frames] for detector in engines]
        moved = divergence(*found)
        gather_ms, fused_ms = medians_by_turns(engines, frames, seconds=seconds)
        info = engines[0].info
    kept = faster(gather_ms, fused_ms, moved)
    if kept == "fused":
        add_file(bundle, target, content)
        name_model(bundle, precision, _BACKEND, target)
    elif load_model_json(bundle)["models"][precision].get(_BACKEND) == target:
        name_model(bundle, precision, _BACKEND, source)
    sha256 = load_model_json(bundle)["files"][source]["sha256"]
    choice = Choice(kept, gather_ms, fused_ms, moved, info.device, sha256)
    earlier: Any = record.get("fusion", {})
    add_json(bundle, "calibration.json", {**record, "fusion": {**earlier, precision: asdict(choice)}})
    return choice

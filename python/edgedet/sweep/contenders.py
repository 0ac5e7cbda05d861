"""Which engines a sweep compares, and why some of them cannot run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedet import _core
from edgedet._core import BackendError, InvalidInputError
from edgedet.bundle import load_model_json
from edgedet.known_bad.check import installed_version
from edgedet.verdict import HALVES, model_file

FP32 = "FP32"
BEST = "best mixed"


@dataclass(frozen=True)
class Contender:
    """One engine of the comparison.

    Attributes:
        name: Of its row.
        bundle: That it is made of.
        precision: As :class:`edgedet.Detector` takes it.
        file: The network in the bundle, empty where there is none.
        calibrator: Its int8 ranges come from a calibrator of the backend, not from the file.
        same_as: Name of the contender that is the same engine and is measured in its place.
        reason: Why it cannot run, with what helps; empty where it can.
    """

    name: str
    bundle: Path
    precision: str
    file: str = ""
    calibrator: bool = False
    same_as: str = ""
    reason: str = ""


def choose_backend(name: str) -> Mapping[str, Any]:
    """The entry of ``edgedet.backends()`` that runs.

    Args:
        name: Of a backend, or "auto".

    Raises:
        BackendError: It is not available; the message says why.
    """
    entries = [entry for entry in _core.backends() if name in ("auto", entry["name"])]
    for entry in entries:
        if entry["available"]:
            return entry
    reasons = "; ".join(f"{entry['name']}: {entry['detail']}" for entry in entries)
    raise BackendError(f"expected an available backend, got none: {reasons}")


def contenders(bundle: Path, backend: Mapping[str, Any], also: Sequence[Path] = ()) -> list[Contender]:
    """The rows of a sweep, FP32 first and what verification found best last.

    Args:
        bundle: The bundle folder.
        backend: From :func:`choose_backend`.
        also: Further bundles of the same network, whose INT8 models get a row each.

    Raises:
        BundleError: A bundle is not valid.
        InvalidInputError: A further bundle has other classes, or the name of another.
    """
    spec, name = load_model_json(bundle), backend["name"]
    float_file = str(model_file(spec, "fp32", name))
    rows = [Contender(name=FP32, bundle=bundle, precision="fp32", file=float_file)]
    rows += _halves(bundle, spec, backend, float_file)
    if name == "tensorrt":
        rows.append(_calibrator(bundle, backend, float_file))
    rows.append(_int8("INT8 (Q/DQ)", bundle, spec, backend))
    for other in also:
        theirs = load_model_json(other)
        if any(theirs[key] != spec[key] for key in ("classes", "category_ids")):
            raise InvalidInputError(
                f"{other}: expected the classes of {bundle}, got others; compare bundles of one network"
            )
        rows.append(_int8(f"INT8 ({other.resolve().name})", other, theirs, backend))
    if len({row.name for row in rows}) < len(rows):
        raise InvalidInputError("expected bundles in folders of different names, got one twice; rename a copy")
    best = spec["best"].get(name)
    if best is None:
        reason = "nothing is recorded as best yet; run: python -m calibration search, then verify"
        return [*rows, Contender(name=BEST, bundle=bundle, precision="auto", reason=reason)]
    same = next(row for row in rows if row.precision == best and not row.calibrator and row.bundle == bundle)
    return [*rows, Contender(name=BEST, bundle=bundle, precision=best, file=same.file, same_as=same.name)]


def _halves(bundle: Path, spec: Mapping[str, Any], backend: Mapping[str, Any], float_file: str) -> list[Contender]:
    rows = []
    for half in HALVES if backend["name"] == "openvino" else ("fp16",):
        reason, file = "", model_file(spec, half, backend["name"]) or ""
        if half not in backend["precisions"]:
            reason = f"this device does not compute in {half}, but in {', '.join(backend['precisions'])}"
        elif not file and backend["name"] == "openvino":
            file = float_file  # OpenVINO runs the float file in a half type
        elif not file:
            reason = f"the bundle has no {half} model for {backend['name']}; run: python -m calibration half"
        rows.append(Contender(name=half.upper(), bundle=bundle, precision=half, file=file, reason=reason))
    return rows


def _calibrator(bundle: Path, backend: Mapping[str, Any], float_file: str) -> Contender:
    reason = ""
    version = installed_version(backend)
    if "int8" not in backend["precisions"]:
        reason = f"this device does not compute in int8, but in {', '.join(backend['precisions'])}"
    elif version is not None and version >= (11,):
        reason = f"TensorRT {'.'.join(map(str, version))} has no calibrators; the row of Q/DQ is its int8"
    return Contender(
        name="INT8 (calibrator)", bundle=bundle, precision="int8", file=float_file, calibrator=True, reason=reason
    )


def _int8(name: str, bundle: Path, spec: Mapping[str, Any], backend: Mapping[str, Any]) -> Contender:
    file, reason = model_file(spec, "int8", backend["name"]) or "", ""
    if "int8" not in backend["precisions"]:
        reason = f"this device does not compute in int8, but in {', '.join(backend['precisions'])}"
    elif not file:
        reason = (
            f"the bundle has no int8 model for {backend['name']}; "
            f"run: python -m calibration quantize --backend {backend['name']}"
        )
    return Contender(name=name, bundle=bundle, precision="int8", file=file, reason=reason)

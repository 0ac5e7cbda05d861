"""Whether the candidate still belongs to the float model and the preprocessing that it was calibrated for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from calibration.sampling import read_record
from edgedet.verdict import Candidate, model_file


class Binding(NamedTuple):
    """Why the candidate is refused, and what could not be checked; each empty where there is nothing to say."""

    reason: str
    note: str


def calibration_binding(bundle: Path, spec: Mapping[str, Any], backend: str, precision: Candidate) -> Binding | None:
    """Compare calibration.json's record with the bundle as it is; None where the candidate is the float file itself.

    Args:
        bundle: the bundle folder.
        spec: its model.json.
        backend: whose model.
        precision: of the candidate.

    Raises:
        InvalidInputError: calibration.json is not a record of this version.
    """
    if precision != "int8":
        return _half_binding(bundle, spec, backend)
    recorded = read_record(bundle).get("quantization")
    record = recorded.get(backend) if isinstance(recorded, dict) else None
    files = {precision: spec["files"][model_file(spec, precision, backend)] for precision in ("fp32", "int8")}
    if not isinstance(record, dict) or record.get("int8_sha256") != files["int8"]["sha256"]:
        return Binding(
            "", "calibration.json says nothing about this INT8 model, so what it was calibrated for is unknown"
        )
    if record.get("float_sha256") != files["fp32"]["sha256"]:
        return Binding("the float model was replaced since the INT8 model was made from it; run `quantize` again", "")
    calibrated = record.get("input")
    if not isinstance(calibrated, dict):
        return Binding("", "calibration.json does not say for which preprocessing the INT8 model was calibrated")
    changed = [
        f"{key} {value!r} where it was calibrated with {calibrated.get(key)!r}"
        for key, value in spec["input"].items()
        if calibrated.get(key) != value
    ]
    if changed:
        return Binding(f"model.json says {', '.join(changed)}; run `quantize` again or correct model.json", "")
    return Binding("", "")


def _half_binding(bundle: Path, spec: Mapping[str, Any], backend: str) -> Binding | None:
    """Of a file with half precision written into it."""
    source, file = (model_file(spec, precision, backend) for precision in ("fp32", "fp16"))
    if file in (None, source):
        return None
    recorded = read_record(bundle).get("half")
    record = recorded.get(backend) if isinstance(recorded, dict) else None
    if not isinstance(record, dict):
        return Binding("", "calibration.json says nothing about this fp16 model, so what it was made of is unknown")
    if record.get("float_sha256") != spec["files"][source]["sha256"]:
        return Binding("the float model was replaced since the fp16 model was made from it; run `half` again", "")
    return Binding("", "")

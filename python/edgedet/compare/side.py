"""One side of a comparison: which bundle, and how it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgedet import Detector, _core
from edgedet._core import InvalidInputError
from edgedet.suggest import did_you_mean
from edgedet.verdict import CANDIDATES, model_file

PRECISIONS: Final = ("auto", "fp32", *CANDIDATES)


@dataclass(frozen=True)
class Side:
    """A bundle, and the backend and precision that are asked for.

    Attributes:
        text: As it was written.
        bundle: The folder.
        backend: Name of a backend, or "auto".
        precision: As :class:`edgedet.Detector` takes it.
    """

    text: str
    bundle: Path
    backend: str = "auto"
    precision: str = "auto"


def read_side(text: str) -> Side:
    """Reads ``BUNDLE``, ``BUNDLE@PRECISION``, ``BUNDLE@BACKEND`` or ``BUNDLE@BACKEND:PRECISION``.

    A folder whose name has an @ is taken as it is.

    Raises:
        InvalidInputError: What follows the @ is neither a backend nor a precision.
    """
    folder, at, how = text.rpartition("@")
    if not at or Path(text).exists():
        return Side(text, Path(text))
    backends = ["auto", *(backend["name"] for backend in _core.backends())]
    first, colon, second = how.partition(":")
    if not colon and first in PRECISIONS:
        return Side(text, Path(folder), precision=first)
    if first in backends and (not colon or second in PRECISIONS):
        return Side(text, Path(folder), first, second or "auto")
    wrong, known = (second, PRECISIONS) if first in backends else (first, (*backends, *PRECISIONS))
    raise InvalidInputError(
        f"{text}: expected BUNDLE@BACKEND:PRECISION, of {', '.join(backends)} and {', '.join(PRECISIONS)}, "
        f"got {how!r}{did_you_mean(wrong, known)}"
    )


def facts(side: Side, detector: Detector) -> dict[str, Any]:
    """What is compared: the model, the engine, and their sizes."""
    info = detector.info
    return {
        "bundle": str(side.bundle),
        "name": info.name,
        "backend": info.backend,
        "precision": info.precision,
        "device": info.device,
        "threads": info.threads,
        "input_width": info.width,
        "input_height": info.height,
        "classes": len(info.classes),
        "file_bytes": _file_bytes(info.spec, info.precision, info.backend),
        "verified": "" if info.precision == "fp32" else info.verified.state,
    }


def _file_bytes(spec: Mapping[str, Any], precision: str, backend: str) -> int:
    """Of the network that runs; a half type may run the float file."""
    name = model_file(spec, precision, backend) or model_file(spec, "fp32", backend)
    return int(spec["files"][name]["bytes"])

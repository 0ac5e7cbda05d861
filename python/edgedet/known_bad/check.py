"""Holds a bundle's networks against the table: before an engine is made, and for ``edgedet doctor``."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgedet import _core
from edgedet._core import BackendError
from edgedet.bundle import load_model_json
from edgedet.known_bad.table import TABLE, KnownBad, Version
from edgedet.onnx_graph import OnnxGraph, read_graph
from edgedet.verdict import model_file


class KnownBadWarning(UserWarning):
    """An engine is made of a combination that was wrong elsewhere."""


def known_bad(
    graph: OnnxGraph, *, backend: str, version: Version, precision: str, capability: Version | None = None
) -> list[KnownBad]:
    """The entries that apply, the certain ones first.

    Args:
        graph: Of the network.
        backend: Its name.
        version: (major, minor) of it.
        precision: That would run.
        capability: Compute capability of the GPU; None if it is not known.
    """
    found = [
        entry
        for entry in TABLE
        if entry.backend == backend
        and entry.covers(version)
        and (not entry.precisions or precision in entry.precisions)
        and (entry.capability is None or (capability is not None and entry.capability(capability)))
        and (entry.graph is None or entry.graph(graph))
    ]
    return sorted(found, key=lambda entry: not entry.certain)


_VERSION: Final = re.compile(r"\b(?:TensorRT|OpenVINO) (\d+)\.(\d+)")


def installed_version(backend: Mapping[str, Any]) -> Version | None:
    """(major, minor) of a backend, None where it is not available. `backend`: of ``edgedet.backends()``."""
    match = _VERSION.search(backend["detail"]) if backend["available"] else None
    return None if match is None else (int(match[1]), int(match[2]))


def gpu_capability() -> Version | None:
    """Compute capability of the GPU that the TensorRT backend takes, the first one."""
    devices, _ = _core.cuda_devices()
    return None if not devices else tuple(devices[0]["compute_capability"])


def check_before_building(bundle: str | os.PathLike[str], *, backend: str, precision: str) -> None:
    """Refuses what is certain to fail on TensorRT, and warns of what was wrong elsewhere. Nothing on other backends.

    Engines of TensorRT take minutes to build, and a wrong one does not say so. What other backends do is checked by
    `python -m calibration verify`, and shown by ``edgedet doctor BUNDLE``.

    Args:
        bundle: The bundle folder.
        backend: As :class:`edgedet.Detector` takes it.
        precision: Likewise.

    Raises:
        BackendError: It cannot work; the message says what helps.
        BundleError, ModelError: The bundle or the network is damaged.
    """
    if backend not in ("auto", "tensorrt"):
        return
    here = next(
        (entry for entry in _core.backends() if entry["available"] and backend in ("auto", entry["name"])), None
    )
    if here is None or here["name"] != "tensorrt" or (version := installed_version(here)) is None:
        return
    spec = load_model_json(bundle)
    if precision == "auto":
        precision = spec["best"].get("tensorrt", "fp32")
    file = model_file(spec, precision, "tensorrt")
    if file is None:
        return  # the detector says so
    graph = read_graph(Path(bundle) / file)
    for entry in known_bad(
        graph, backend="tensorrt", version=version, precision=precision, capability=gpu_capability()
    ):
        text = (
            f"{bundle}: {file} in {precision} on {here['detail']}: {entry.symptom}; {entry.remedy} ({entry.sources[0]})"
        )
        if entry.certain:
            raise BackendError(text)
        warnings.warn(text, KnownBadWarning, stacklevel=3)

"""A bundle's networks against what is installed, and against every version of TensorRT that edgedet is built for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgedet.bundle import load_model_json
from edgedet.doctor.finding import Finding
from edgedet.known_bad.check import gpu_capability, installed_version, known_bad
from edgedet.known_bad.table import KnownBad, Version
from edgedet.onnx_graph import OnnxGraph, read_graph
from edgedet.verdict import model_file

#: Those whose headers edgedet is compiled against.
TENSORRT: Final[tuple[Version, ...]] = ((8, 5), (8, 6), (10, 3), (10, 13), (10, 16), (11, 1))
_PRECISIONS: Final = ("fp32", "bf16", "fp16", "int8")


def examine(bundle: Path, backends: list[dict[str, Any]]) -> tuple[dict[str, Any], list[Finding]]:
    """Holds every network of a bundle against the table of known-bad combinations.

    Args:
        bundle: The bundle folder.
        backends: Of ``edgedet.backends()``.

    Returns:
        JSON values: for each model of TensorRT the names of the entries by version ("refused", "warned"), and what the
        names mean; and the findings that hold for what is installed here.

    Raises:
        BundleError, ModelError: The bundle or a network is damaged.
    """
    spec = load_model_json(bundle)
    graphs: dict[str, OnnxGraph] = {}

    def graph_of(file: str) -> OnnxGraph:
        if file not in graphs:
            graphs[file] = read_graph(bundle / file)
        return graphs[file]

    capability = gpu_capability()
    met: dict[str, KnownBad] = {}
    matrix: list[dict[str, Any]] = []
    for precision in _tried(spec):
        file = model_file(spec, precision, "tensorrt") or str(model_file(spec, "fp32", "tensorrt"))
        versions = {}
        for version in TENSORRT:
            entries = known_bad(
                graph_of(file), backend="tensorrt", version=version, precision=precision, capability=capability
            )
            met.update((entry.name, entry) for entry in entries)
            versions[_text(version)] = {
                "refused": [entry.name for entry in entries if entry.certain],
                "warned": [entry.name for entry in entries if not entry.certain],
            }
        matrix.append({"precision": precision, "file": file, "versions": versions})
    findings = []
    for backend in backends:
        here = installed_version(backend)
        if here is None:
            continue
        for precision in _PRECISIONS:
            name = model_file(spec, precision, backend["name"])
            if name is None:
                continue
            entries = known_bad(
                graph_of(name), backend=backend["name"], version=here, precision=precision, capability=capability
            )
            findings += [
                Finding(
                    name=entry.name,
                    text=f"{name} in {precision} on {backend['name']} {_text(here)}: {entry.symptom}",
                    remedy=entry.remedy,
                    sources=entry.sources,
                )
                for entry in entries
            ]
    notes = {
        name: {"symptom": entry.symptom, "remedy": entry.remedy, "sources": list(entry.sources)}
        for name, entry in met.items()
    }
    networks = {
        file: {"opset": graph.opset, "operators": dict(graph.operators.most_common())} for file, graph in graphs.items()
    }
    return {"name": spec["name"], "networks": networks, "tensorrt": matrix, "notes": notes}, findings


def _tried(spec: Mapping[str, Any]) -> list[str]:
    """Precisions that TensorRT can be asked for: half precision also of a float file, before 11."""
    return ["fp32", "fp16", *(["int8"] if model_file(spec, "int8", "tensorrt") else [])]


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"

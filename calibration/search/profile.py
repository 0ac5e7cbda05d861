"""How long the engine spends where, by its own counters: a proxy that says where int8 cannot pay, and what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from calibration.execution import INTEGER, WEIGHTED

Feed = Mapping[str, npt.NDArray[np.generic]]

_RUNS = 20
_KINDS = {
    "conversions": ("Reorder", "FakeQuantize", "Convert"),
    "sampling": ("GridSample", "GatherND", "GatherElements"),
    "moving": ("Concatenation", "Concat", "Transpose", "Split", "StridedSlice", "Gather", "Tile", "Pad", "Reshape"),
    "selection": ("TopK",),
}
OTHERS = "elementwise, norms, attention, pooling"


def layer_times(model: onnx.ModelProto, feed: Feed, layers: Iterable[str], *, threads: int) -> dict[str, float]:
    """Milliseconds of the kernel that runs each layer in OpenVINO; layers that cannot be told apart are left out.

    Args:
        model: float or Q/DQ model.
        feed: every input of the network, by name, of one image.
        layers: names of ONNX nodes.
        threads: CPU threads, 0 for the backend's choice.
    """
    wanted = set(layers)
    found: dict[str, float] = {}
    for facts, milliseconds in _profile(model, feed, threads):
        names = wanted.intersection(facts["names"])
        if len(names) == 1:
            name = names.pop()
            found[name] = found.get(name, 0.0) + milliseconds
    return found


def time_by_kind(model: onnx.ModelProto, feed: Feed, *, threads: int) -> dict[str, float]:
    """Milliseconds per kind of work in OpenVINO: what bounds the speed.

    "int8 layers" and "float layers" multiply by weights, or one activation by another; "conversions" change type or
    layout; the rest is named after what it does. The counters slow small kernels down: read shares, not times.
    """
    kinds: dict[str, float] = dict.fromkeys(("int8 layers", "float layers", *_KINDS, OTHERS), 0.0)
    for facts, milliseconds in _profile(model, feed, threads):
        kinds[_kind(facts)] += milliseconds
    return kinds


def _kind(facts: Mapping[str, Any]) -> str:
    if facts["type"] in WEIGHTED:
        return "int8 layers" if facts["kernel"].endswith(INTEGER) else "float layers"
    if facts["type"] == "Subgraph" and any(name.endswith(("/Quantize", "/Dequantize")) for name in facts["names"]):
        return "conversions"
    return next((kind for kind, types in _KINDS.items() if facts["type"] in types), OTHERS)


def _profile(model: onnx.ModelProto, feed: Feed, threads: int) -> list[tuple[dict[str, Any], float]]:
    """What the compiled network executes, and the median milliseconds of each step."""
    import openvino

    core = openvino.Core()
    network = core.read_model(model.SerializeToString(), b"")
    network.reshape({name: list(value.shape) for name, value in feed.items()})
    settings: dict[str, Any] = {
        "PERF_COUNT": True,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(network, "CPU", settings)
    facts: dict[str, dict[str, Any]] = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        told = operation.get_rt_info()
        keys = {"type": "layerType", "kernel": "primitiveType", "names": "originalLayersNames"}
        entry = {key: told[name].astype(str) if name in told else "" for key, name in keys.items()}
        facts[operation.get_friendly_name()] = {**entry, "names": entry["names"].split(",")}
    request = compiled.create_infer_request()
    taken: dict[str, list[float]] = {}
    for _ in range(_RUNS):
        request.infer(dict(feed))
        for entry in request.profiling_info:
            if entry.node_name in facts:
                taken.setdefault(entry.node_name, []).append(entry.real_time.total_seconds() * 1e3)
    return [(facts[name], float(np.median(values))) for name, values in taken.items()]

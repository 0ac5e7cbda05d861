"""How long the engine spends in each layer, from its own counters: a proxy that says where int8 cannot pay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx

_RUNS = 20


def layer_times(
    model: onnx.ModelProto, feed: Mapping[str, npt.NDArray[np.generic]], layers: Iterable[str], *, threads: int
) -> dict[str, float]:
    """Milliseconds of the kernel that runs each layer in OpenVINO; layers that cannot be told apart are left out.

    Args:
        model: float or Q/DQ model.
        feed: every input of the network, by name, of one image.
        layers: names of ONNX nodes.
        threads: CPU threads, 0 for the backend's choice.
    """
    import openvino

    core = openvino.Core()
    network = core.read_model(model.SerializeToString(), b"")
    network.reshape({name: list(value.shape) for name, value in feed.items()})
    settings = {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(network, "CPU", settings)
    wanted = set(layers)
    owner: dict[str, str] = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        if "originalLayersNames" in facts:
            names = wanted.intersection(facts["originalLayersNames"].astype(str).split(","))
            if len(names) == 1:
                owner[operation.get_friendly_name()] = names.pop()
    request = compiled.create_infer_request()
    taken: dict[str, list[float]] = {}
    for _ in range(_RUNS):
        request.infer(dict(feed))
        for entry in request.profiling_info:
            if entry.node_name in owner:
                taken.setdefault(owner[entry.node_name], []).append(entry.real_time.total_seconds() * 1e3)
    return {layer: float(np.median(values)) for layer, values in taken.items()}

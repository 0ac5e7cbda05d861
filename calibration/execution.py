"""What the engine really executes: how many of its layers, and how much of its time, are int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

# Layer types that multiply by weights, in OpenVINO's execution graph.
WEIGHTED = ("Convolution", "FullyConnected", "MatMul", "Deconvolution", "GroupConvolution")
INTEGER = ("_I8", "_i8", "_U8", "_u8")
# Layer types whose result is ruined by 256 levels: means, variances and exponentials.
_FLOAT_ONLY = ("MVN", "Softmax", "SoftMax", "LogSoftmax", "NormalizeL2", "RMS", "GroupNormalization")


@dataclass(frozen=True)
class Int8Share:
    """Layers that multiply by weights, and which of them run on int8 kernels.

    Attributes:
        int8: number of them on an int8 kernel.
        weighted: number of them.
        primitives: count of every (type, kernel, precision) in the graph, as "type kernel precision".
    """

    int8: int
    weighted: int
    primitives: dict[str, int]

    @property
    def share(self) -> float:
        """int8 / weighted, 0 for a graph without such layers."""
        return self.int8 / self.weighted if self.weighted else 0.0

    def to_json(self) -> dict[str, object]:
        """Plain values for report.json."""
        return {**asdict(self), "share": round(self.share, 4)}


def int8_share(nodes: Sequence[Mapping[str, str]]) -> Int8Share:
    """Count an execution graph as `edgedet.Detector.execution_graph` returns it.

    The kernel's name decides: OpenVINO appends the type it computes in (`brgconv_avx512_I8`, `jit_avx512_FP32`). The
    precision of the output says nothing, because an int8 convolution often writes float.
    """
    weighted = [node for node in nodes if node["type"] in WEIGHTED]
    primitives: dict[str, int] = {}
    for node in nodes:
        key = f"{node['type']} {node['primitive']} {node['precision']}"
        primitives[key] = primitives.get(key, 0) + 1
    count = sum(node["primitive"].endswith(INTEGER) for node in weighted)
    return Int8Share(count, len(weighted), dict(sorted(primitives.items(), key=lambda item: (-item[1], item[0]))))


def int8_norms(nodes: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of LayerNorm (`MVN`), softmax and other normalisations that the engine runs on an int8 kernel.

    What is fused into one kernel with matrix products (`Subgraph`) cannot be seen; OpenVINO computes those in float.
    """
    return [
        node["original"] or node["name"]
        for node in nodes
        if node["type"] in _FLOAT_ONLY and node["primitive"].endswith(INTEGER)
    ]


def int8_time(model: Path, feed: Mapping[str, npt.NDArray[np.generic]], *, runs: int = 20) -> float:
    """Share of the network's time that OpenVINO spends in int8 kernels, from its own per-layer counters.

    Args:
        model: the ONNX file.
        feed: every input of the network, by name, of one image.
        runs: repetitions that are summed.

    Returns:
        A share in [0, 1]. The counters slow the run down a little, so it is a share and not a time.
    """
    import openvino

    core = openvino.Core()
    network = core.read_model(str(model))
    network.reshape({name: list(value.shape) for name, value in feed.items()})
    compiled = core.compile_model(network, "CPU", {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    int8 = total = 0.0
    for _ in range(runs):
        request.infer(dict(feed))
        for entry in request.profiling_info:
            elapsed = entry.real_time.total_seconds()
            total += elapsed
            int8 += elapsed if entry.exec_type.endswith(INTEGER) else 0.0
    return int8 / total if total else 0.0

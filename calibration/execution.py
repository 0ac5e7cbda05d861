"""What the engine really executes: how many of its layers, and how much of its time, are in a precision."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgedet.verdict import Candidate

# Layer types that multiply by weights, in OpenVINO's execution graph.
WEIGHTED = ("Convolution", "FullyConnected", "MatMul", "Deconvolution", "GroupConvolution")
INTEGER = ("_I8", "_i8", "_U8", "_u8")
# How the names of kernels end, by the precision they compute in.
_KERNELS: Final[Mapping[Candidate, tuple[str, ...]]] = {
    "int8": INTEGER,
    "bf16": ("_BF16", "_bf16"),
    "fp16": ("_FP16", "_f16"),
}
# The type of what is float in the network, as the runtime asks OpenVINO for it.
_FLOAT_TYPE: Final[Mapping[Candidate, str]] = {"int8": "f32", "bf16": "bf16", "fp16": "f16"}
# Layer types whose result is ruined by 256 levels: means, variances and exponentials.
_FLOAT_ONLY = ("MVN", "Softmax", "SoftMax", "LogSoftmax", "NormalizeL2", "RMS", "GroupNormalization")

# TensorRT names types and kernels differently in every version, and has one layer for what it fused. What a layer reads
# is of the type that it computes in, for quantising is fused into the layer before.
_TENSORRT_WEIGHTED = re.compile(r"conv|gemm|matrix_?mul|matmul|fullyconnected|fprop", re.IGNORECASE)
_TENSORRT_FLOAT_ONLY = re.compile(r"softmax|normali[sz]ation|layer_?norm|\bmvn\b", re.IGNORECASE)
_TENSORRT_TYPES: Final[Mapping[Candidate, str]] = {"int8": "s8", "bf16": "bf16", "fp16": "f16"}


@dataclass(frozen=True)
class KernelShare:
    """Layers that multiply by weights, and which of them run on kernels of a precision.

    Attributes:
        precision: of the kernels.
        layers: number of them on such a kernel.
        weighted: number of them.
        primitives: count of every (type, kernel, precision) in the graph, as "type kernel precision".
    """

    precision: Candidate
    layers: int
    weighted: int
    primitives: dict[str, int]

    @property
    def share(self) -> float:
        """The part of `weighted` that `layers` are, 0 for a graph without such layers."""
        return self.layers / self.weighted if self.weighted else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json, the number of layers by the name of their precision."""
        return {
            self.precision: self.layers,
            "weighted": self.weighted,
            "share": round(self.share, 4),
            "primitives": self.primitives,
        }


def kernel_share(nodes: Sequence[Mapping[str, str]], precision: Candidate, *, backend: str = "openvino") -> KernelShare:
    """Count an execution graph as `edgedet.Detector.execution_graph` returns it.

    OpenVINO: the kernel's name decides, for it ends with the type it computes in (`brgconv_avx512_I8`,
    `jit_avx512_FP32`). The precision of the output says nothing, because an int8 convolution often writes float.
    TensorRT: the type of what the layer reads.
    """
    weighted = [node for node in nodes if _is_weighted(node, backend)]
    primitives: dict[str, int] = {}
    for node in nodes:
        key = f"{node['type']} {node['primitive']} {node['precision']}"
        primitives[key] = primitives.get(key, 0) + 1
    count = sum(_computes_in(node, precision, backend) for node in weighted)
    kinds = dict(sorted(primitives.items(), key=lambda item: (-item[1], item[0])))
    return KernelShare(precision, count, len(weighted), kinds)


def int8_norms(nodes: Sequence[Mapping[str, str]], *, backend: str = "openvino") -> list[str]:
    """Names of LayerNorm (`MVN`), softmax and other normalisations that the engine runs on an int8 kernel.

    What is fused into one kernel with matrix products (`Subgraph`) cannot be seen; OpenVINO computes those in float.
    Of TensorRT, layers that fused such a product with a normalisation are not counted: they read int8 for the product.
    """
    return [
        node["original"] or node["name"]
        for node in nodes
        if _is_float_only(node, backend) and _computes_in(node, "int8", backend)
    ]


def _is_weighted(node: Mapping[str, str], backend: str) -> bool:
    if backend == "tensorrt":
        return _TENSORRT_WEIGHTED.search(f"{node['type']} {node['primitive']}") is not None
    return node["type"] in WEIGHTED


def _is_float_only(node: Mapping[str, str], backend: str) -> bool:
    if backend == "tensorrt":
        named = f"{node['type']} {node['original']}"
        return _TENSORRT_FLOAT_ONLY.search(named) is not None and not _is_weighted(node, backend)
    return node["type"] in _FLOAT_ONLY


def _computes_in(node: Mapping[str, str], precision: Candidate, backend: str) -> bool:
    if backend == "tensorrt":
        return node["precision"] == _TENSORRT_TYPES[precision]
    return node["primitive"].endswith(_KERNELS[precision])


def kernel_time(
    model: Path, feed: Mapping[str, npt.NDArray[np.generic]], precision: Candidate, *, runs: int = 20
) -> float:
    """Share of the network's time that OpenVINO spends in kernels of a precision, from its own per-layer counters.

    Args:
        model: the ONNX file.
        feed: every input of the network, by name, of one image.
        precision: that it runs in.
        runs: repetitions that are summed.

    Returns:
        A share in [0, 1]. The counters slow the run down a little, so it is a share and not a time.
    """
    import openvino

    core = openvino.Core()
    network = core.read_model(str(model))
    network.reshape({name: list(value.shape) for name, value in feed.items()})
    settings = {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": _FLOAT_TYPE[precision]}
    compiled = core.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()
    spent = total = 0.0
    for _ in range(runs):
        request.infer(dict(feed))
        for entry in request.profiling_info:
            elapsed = entry.real_time.total_seconds()
            total += elapsed
            spent += elapsed if entry.exec_type.endswith(_KERNELS[precision]) else 0.0
    return spent / total if total else 0.0

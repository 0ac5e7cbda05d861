"""A model in an engine, set up as the runtime sets it up: batch 1, latency, float32 outside the int8 layers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino

from benchmarks.quantisers.contenders import Engine
from calibration.execution import kernel_share
from calibration.inputs import network_feed

Outputs = dict[str, npt.NDArray[Any]]

# Operators of an optimised onnxruntime graph that multiply by weights.
_ORT_FLOAT = {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
_ORT_INT8 = {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm"}


@dataclass(frozen=True)
class Loaded:
    """A network that is ready to run.

    Attributes:
        run: from (3, H, W) float32 to the outputs that model.json names.
        repeat: runs the network on the input of the last `run` and hands nothing out, for timing.
        int8: layers on an int8 kernel.
        weighted: layers that multiply.
    """

    run: Callable[[npt.NDArray[np.float32]], Outputs]
    repeat: Callable[[], object]
    int8: int
    weighted: int


def load(engine: Engine, model: Path, spec: Mapping[str, Any], *, threads: int) -> Loaded:
    """Load a model."""
    return (_load_openvino if engine == "openvino" else _load_onnxruntime)(model, spec, threads)


def _load_openvino(model: Path, spec: Mapping[str, Any], threads: int) -> Loaded:
    names = _outputs(spec)
    shapes = {name: list(values.shape) for name, values in _feed(_blank(spec), spec).items()}
    network = openvino.Core().read_model(str(model))
    network.reshape(shapes)
    # As csrc/backends/openvino compiles.
    compiled = openvino.Core().compile_model(
        network,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "NUM_STREAMS": "1",
        },
    )
    request = compiled.create_infer_request()

    def run(image: npt.NDArray[np.float32]) -> Outputs:
        for name, values in _feed(image, spec).items():
            request.get_tensor(name).data[:] = values
        request.infer()
        return {name: np.array(request.get_tensor(name).data) for name in names}

    nodes = [_facts(operation) for operation in compiled.get_runtime_model().get_ordered_ops()]
    share = kernel_share(nodes, "int8")
    return Loaded(run, request.infer, share.layers, share.weighted)


def _load_onnxruntime(model: Path, spec: Mapping[str, Any], threads: int) -> Loaded:
    names = _outputs(spec)
    with tempfile.TemporaryDirectory() as scratch:
        optimised = Path(scratch) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.optimized_model_filepath = str(optimised)
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(str(optimised)).graph.node]
    int8 = sum(kind in _ORT_INT8 for kind in kinds)
    weighted = int8 + sum(kind in _ORT_FLOAT for kind in kinds)
    held = dict(_feed(_blank(spec), spec))

    def run(image: npt.NDArray[np.float32]) -> Outputs:
        held.update(_feed(image, spec))
        return dict(zip(names, session.run(names, held), strict=True))

    return Loaded(run, lambda: session.run(names, held), int8, weighted)


def _outputs(spec: Mapping[str, Any]) -> list[str]:
    output = spec["output"]
    return [output[key] for key in ("logits", "labels", "boxes", "scores") if output.get(key)]


def _feed(image: npt.NDArray[np.float32], spec: Mapping[str, Any]) -> Mapping[str, npt.NDArray[np.generic]]:
    return network_feed(image[None], spec)


def _blank(spec: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    return np.zeros((3, spec["input"]["height"], spec["input"]["width"]), np.float32)


def _facts(operation: Any) -> dict[str, str]:
    """What `Detector.execution_graph` says of a layer, as far as counting needs it."""
    facts = operation.get_rt_info()
    return {
        name: facts[key].astype(str) if key in facts else ""
        for name, key in (("type", "layerType"), ("primitive", "primitiveType"), ("precision", "runtimePrecision"))
    }

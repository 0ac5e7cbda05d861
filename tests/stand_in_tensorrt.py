"""A TensorRT that is OpenVINO underneath: the files, numbers and faults of the flow are real, the engine is not.

The networks that a bundle has for TensorRT run on OpenVINO in float32, and tell of themselves in TensorRT's words.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import onnx
import pytest

import edgedet
from edgedet.bundle import load_model_json, name_model
from edgedet.verdict import model_file, read_verdict

DEVICE = "TensorRT 10.3.0.30 on a stand-in"
ENTRY = {"name": "tensorrt", "available": True, "detail": DEVICE, "precisions": ["fp32", "fp16", "int8"]}
_TYPES = {onnx.TensorProto.FLOAT: "f32", onnx.TensorProto.FLOAT16: "f16", onnx.TensorProto.INT8: "s8"}


class StandIn(edgedet.Detector):
    """Takes what `edgedet.Detector` takes; only backend="tensorrt" is the stand-in."""

    opened: ClassVar[list[tuple[str, str, str]]] = []  # precision, mode, name of the engine cache's folder

    def __init__(self, bundle: Any, *, backend: str = "auto", precision: str = "auto", **options: Any) -> None:
        if backend != "tensorrt":
            super().__init__(bundle, backend=backend, precision=precision, **options)
            self._told, self._nodes = super().info, super().execution_graph()
            return
        spec = load_model_json(bundle)
        file = model_file(spec, precision, "tensorrt")
        assert file is not None
        cache = options.pop("cache_dir", None)
        StandIn.opened.append((precision, options.get("mode", "latency"), "" if cache is None else Path(cache).name))
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(shutil.copytree(bundle, Path(scratch) / "copy"))
            name_model(copy, "fp32", "openvino", file)
            super().__init__(copy, backend="openvino", precision="fp32", **options)
        verified = read_verdict(bundle, spec, "tensorrt", device=DEVICE, precision=precision)
        told = super().info
        self._told = replace(
            told, backend="tensorrt", precision=precision, device=DEVICE, threads=1, spec=spec, verified=verified
        )
        self._nodes = engine_layers(Path(bundle) / file)

    @property
    def info(self) -> edgedet.DetectorInfo:
        return self._told

    def execution_graph(self) -> list[dict[str, str]]:
        return self._nodes


def engine_layers(file: Path) -> list[dict[str, str]]:
    """Layer information as TensorRT words it: what feeds a convolution through DequantizeLinear it reads as int8."""
    model = onnx.load(str(file))
    known = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*known.value_info, *known.input]}
    producers = {name: node for node in model.graph.node for name in node.output}
    nodes = []
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant"):
            continue
        source = producers.get(node.input[0])
        integers = source is not None and source.op_type == "DequantizeLinear"
        kind = onnx.TensorProto.INT8 if integers else types.get(node.input[0], onnx.TensorProto.FLOAT)
        nodes.append(
            {
                "name": f"{node.name} + fused",
                "type": {"Conv": "CaskConvolution", "MatMul": "gemm"}.get(node.op_type, node.op_type),
                "primitive": "sm80_xmma_fprop_implicit_gemm_i8i8" if node.op_type == "Conv" else "",
                "precision": _TYPES.get(kind, "i64"),
                "original": node.name,
            }
        )
    return nodes


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts it where calibration looks for detectors and backends."""
    real = edgedet.backends()
    entries = [ENTRY, *(entry for entry in real if entry["name"] != "tensorrt")]
    StandIn.opened = []
    for module in ("calibration.gate.evidence", "calibration.gate.batches", "calibration.search.bench"):
        monkeypatch.setattr(f"{module}.Detector", StandIn)
    for module in ("calibration.gate.evidence", "calibration.search.bench"):
        monkeypatch.setattr(f"{module}.backends", lambda: entries)

"""Networks of random weights without the weights: a number generator has them wherever they are needed.

Random weights are carried to a device for nothing. `thin` notes mean and standard deviation of each and leaves the
numbers out; `restore` draws others of the same distribution. A tensor of the same name gets the same numbers in every
file, up to rounding. Such a network is good for its speed and for nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgedet.bundle import load_model_json, sha256_of
from edgedet.files import beside, write_atomically

FILLINGS = "fillings.json"
_SMALLEST = 16384  # elements: smaller tensors stay
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
# What multiplies by weights, and what stands between them and it. Tables of positions and anchors are added, not
# multiplied, and stay.
_READERS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "DequantizeLinear"})


def weights(model: onnx.ModelProto) -> list[TensorProto]:
    """The tensors that are left out."""
    read = {name for node in model.graph.node if node.op_type in _READERS for name in node.input}
    kinds = (*_FLOATS, TensorProto.INT8)
    return [
        tensor
        for tensor in model.graph.initializer
        if tensor.name in read and tensor.data_type in kinds and np.prod(tensor.dims) >= _SMALLEST
    ]


def strip(model: onnx.ModelProto) -> dict[str, dict[str, float]]:
    """Takes the numbers out of a model, and returns what they were like."""
    fillings = {}
    for tensor in weights(model):
        values = numpy_helper.to_array(tensor).astype(np.float64)
        fillings[tensor.name] = {"mean": float(values.mean()), "std": float(values.std())}
        for field in ("raw_data", "float_data", "int32_data"):
            tensor.ClearField(field)
    return fillings


def fill(model: onnx.ModelProto, fillings: dict[str, dict[str, float]]) -> None:
    """Puts numbers of the same distribution where `strip` took them out."""
    for tensor in model.graph.initializer:
        if tensor.name in fillings:
            like = fillings[tensor.name]
            random = np.random.default_rng(zlib.crc32(tensor.name.encode()))
            drawn = random.normal(like["mean"], like["std"], tuple(tensor.dims))
            if tensor.data_type == TensorProto.INT8:
                drawn = np.clip(np.rint(drawn), -127, 127)
            tensor.raw_data = drawn.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).tobytes()


def thin(bundle: Path, target: Path) -> None:
    """Copies a bundle without its weights."""
    shutil.copytree(bundle, target)
    fillings = {}
    for file in sorted(target.glob("*.onnx")):
        model = onnx.load(str(file))
        fillings[file.name] = strip(model)
        file.write_bytes(model.SerializeToString())
    write_atomically(target / FILLINGS, json.dumps(fillings).encode())


def restore(thinned: Path, target: Path) -> Path:
    """The bundle with weights at `target`, made unless it is there already."""
    if not target.exists():
        staging = beside(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(thinned, staging)
        try:
            _refill(staging)
            os.replace(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _refill(folder: Path) -> None:
    fillings: dict[str, Any] = json.loads((folder / FILLINGS).read_text(encoding="utf-8"))
    (folder / FILLINGS).unlink()
    document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    for name, like in fillings.items():
        model = onnx.load(str(folder / name))
        fill(model, like)
        (folder / name).write_bytes(model.SerializeToString())
        document["files"][name] = {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
    write_atomically(folder / "model.json", json.dumps(document, indent=2).encode())
    load_model_json(folder)  # checks it

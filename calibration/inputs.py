"""What the network is fed: the runtime's own preprocessing of a bundle's recorded images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.collect import Batch, batched
from calibration.graph import Graph
from calibration.sampling import Sample, read_checked
from edgedet import ModelError
from edgedet.calibration_set import network_input

__all__ = ["batch_size", "float_model", "network_feed", "network_input", "sample_batches"]

_FUSED = ".fused.onnx"


def float_model(spec: Mapping[str, Any], backend: str) -> str:
    """File name of the float model that `backend` runs, in standard operators."""
    files: Mapping[str, str] = spec["models"]["fp32"]
    return unfused_name(files[backend] if backend in files else files["*"])


def fused_name(name: str) -> str:
    """Name of the file with fused attention (`calibration.fusion`) that is made of the file `name`."""
    return f"{name.removesuffix('.onnx')}{_FUSED}"


def unfused_name(name: str) -> str:
    """Name of the file that one with fused attention was made of; of others their own."""
    return f"{name.removesuffix(_FUSED)}.onnx" if name.endswith(_FUSED) else name


def network_feed(tensors: npt.NDArray[np.float32], spec: Mapping[str, Any]) -> Batch:
    """What the network is fed for (N, 3, height, width) inputs: them, and the size where it asks for one."""
    how = spec["input"]
    feed: dict[str, npt.NDArray[np.generic]] = {how["name"]: tensors}
    if size_input := spec["output"].get("size_input"):
        feed[size_input] = np.tile(np.array([how["width"], how["height"]], np.int64), (len(tensors), 1))
    return feed


def sample_batches(folder: Path, sample: Sample, spec: Mapping[str, Any], *, batch: int) -> Iterator[Batch]:
    """Feeds of the recorded images in their order, `batch` at a time, every file checked against its digest."""
    tensors = (network_input(read_checked(folder, image), spec) for image in sample.images)
    for stacked in batched(tensors, batch):
        yield network_feed(stacked, spec)


def batch_size(graph: Graph, spec: Mapping[str, Any], wanted: int) -> int:
    """`wanted`, or the batch size that a model is fixed to.

    Raises:
        ModelError: the graph has no input of the name in model.json.
    """
    name = spec["input"]["name"]
    image = next((value for value in graph.model.graph.input if value.name == name), None)
    if image is None:
        raise ModelError(f"expected an input '{name}' as model.json says, got none in the graph")
    fixed = image.type.tensor_type.shape.dim[0].dim_value
    return int(fixed) if fixed else wanted

"""A bundle as a model repository of NVIDIA Triton: the whole detector, and the bare network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

from edgedet import _core
from edgedet._core import InvalidInputError, ModelError
from edgedet.bundle import copy_bundle, load_model_json
from edgedet.exporting.folders import labels_text, make_folder, safe_name
from edgedet.exporting.pbtxt import TYPES, Tensor, config_text
from edgedet.verdict import model_file

Network = Literal["onnxruntime", "openvino", "tensorrt"]

_MODEL: Final = Path(__file__).with_name("triton_model.py")
_CONFIG: Final = "config.pbtxt"
_MOST: Final = 4096


@dataclass(frozen=True)
class TritonOptions:
    """How Triton runs a bundle.

    Attributes:
        network: Backend of the bare network.
        plan: The engine, for "tensorrt"; built where it will run, by the TensorRT that is in the server.
        gpu: Instances on the GPUs instead of the CPU. The detector runs on edgedet's TensorRT backend then.
        max_batch: Images in a batch, at the most.
        score_threshold: Of the detector, in [0, 1].

    Raises:
        InvalidInputError: They contradict each other.
    """

    network: Network = "onnxruntime"
    plan: Path | None = None
    gpu: bool = False
    max_batch: int = 8
    score_threshold: float = 0.0

    def __post_init__(self) -> None:
        """Checks ranges and combinations."""
        if self.network not in get_args(Network):
            raise InvalidInputError(f"network: expected one of {', '.join(get_args(Network))}, got {self.network!r}")
        if (self.plan is not None) != (self.network == "tensorrt"):
            raise InvalidInputError("expected an engine with the network on tensorrt, and only there (--plan)")
        if self.network == "tensorrt" and not self.gpu:
            raise InvalidInputError("expected GPU instances for a network on tensorrt (--gpu)")
        if self.network == "openvino" and self.gpu:
            raise InvalidInputError("expected CPU instances for a network on openvino, which Triton runs on CPUs")
        if not 1 <= self.max_batch <= _MOST:
            raise InvalidInputError(f"max_batch: expected 1 to {_MOST}, got {self.max_batch}")
        if not 0 <= self.score_threshold <= 1:
            raise InvalidInputError(f"score_threshold: expected 0 to 1, got {self.score_threshold}")


def export_triton(
    bundle: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    options: TritonOptions | None = None,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Writes two models into a repository, which may hold others.

    Returns:
        The folder of the detector, named after the bundle's model: image files in, detections out, by Triton's Python
        backend. And the folder of the network alone, with ``_network`` behind the name: the float model, or the engine.

    Raises:
        BundleError: The bundle is damaged.
        ModelError: Its network has inputs or outputs that Triton has no type for.
        InvalidInputError: The engine is missing, or a folder is there already.
    """
    chosen = options or TritonOptions()
    spec = load_model_json(bundle)
    name = safe_name(spec["name"])
    if chosen.plan is not None and not chosen.plan.is_file():
        raise InvalidInputError(f"{chosen.plan}: expected an engine of TensorRT, got nothing there; build it first")
    root = Path(repository)
    made = [
        make_folder(
            root / folder,
            partial(fill, bundle=Path(bundle), spec=spec, options=chosen),
            mark=_CONFIG,
            overwrite=overwrite,
        )
        for folder, fill in ((name, _detector), (f"{name}_network", _network))
    ]
    return made[0], made[1]


def _detector(folder: Path, bundle: Path, spec: Mapping[str, Any], options: TritonOptions) -> None:
    rows = spec["output"]["top_k"]
    parameters = {
        "backend": "tensorrt" if options.gpu else "openvino",
        "score_threshold": repr(options.score_threshold),
        "classes": json.dumps(spec["classes"]),
    }
    text = config_text(
        safe_name(spec["name"]),
        backend="python",
        inputs=[Tensor("image", "bytes", [1])],
        outputs=[
            Tensor("num_detections", "int32", [1]),
            Tensor("boxes", "float32", [rows, 4]),
            Tensor("scores", "float32", [rows]),
            Tensor("labels", "int32", [rows]),
        ],
        max_batch=options.max_batch,
        gpu=options.gpu,
        parameters=parameters,
    )
    _write(folder, text, spec)
    copy_bundle(bundle, folder / "1" / "bundle")
    shutil.copyfile(_MODEL, folder / "1" / "model.py")


def _network(folder: Path, bundle: Path, spec: Mapping[str, Any], options: TritonOptions) -> None:
    source = str(model_file(spec, "fp32", options.network) or model_file(spec, "fp32", "*"))
    ports = _core.inspect_onnx(str(bundle / source))
    every = [*ports["inputs"], *ports["outputs"]]
    strange = [f"{port['name']} {port['dtype']}" for port in every if port["dtype"] not in TYPES or not port["shape"]]
    if strange:
        raise ModelError(f"{bundle}: expected tensors that Triton has types for, got {', '.join(strange)}")
    batched = all(port["shape"][0] is None for port in every)
    image = spec["input"]
    sizes = {image["name"]: [None, 3, image["height"], image["width"]]}
    file = "model.plan" if options.plan is not None else "model.onnx"
    text = config_text(
        f"{safe_name(spec['name'])}_network",
        backend=options.network,
        inputs=[_tensor(port, batched, sizes.get(port["name"])) for port in ports["inputs"]],
        outputs=[_tensor(port, batched, None) for port in ports["outputs"]],
        max_batch=options.max_batch if batched else 0,
        gpu=options.gpu,
        file=file,
        parameters={key: json.dumps(spec[key], sort_keys=True) for key in ("input", "output", "classes")},
    )
    _write(folder, text, spec)
    (folder / "1").mkdir()
    shutil.copyfile(options.plan or bundle / source, folder / "1" / file)


def _tensor(port: Mapping[str, Any], batched: bool, known: Sequence[int | None] | None) -> Tensor:
    """known: sizes that the bundle gives where the graph leaves them open."""
    shape = list(port["shape"])
    if known is not None:
        shape = [size if size is not None else other for size, other in zip(shape, known)]
    dims = [-1 if size is None else size for size in (shape[1:] if batched else shape)]
    return Tensor(port["name"], port["dtype"], dims)


def _write(folder: Path, config: str, spec: Mapping[str, Any]) -> None:
    (folder / _CONFIG).write_text(config, encoding="utf-8")
    (folder / "labels.txt").write_text(labels_text(spec["classes"]), encoding="utf-8")

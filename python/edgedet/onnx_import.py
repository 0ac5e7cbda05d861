"""Wrapping an ONNX detector into a bundle: what its graph and its metadata say, checked by running it once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Literal

import numpy as np

from edgedet import _core
from edgedet._core import InvalidInputError, ModelError
from edgedet.bundle import InputSpec, LabelsBoxesScores, LogitsBoxes, write_bundle
from edgedet.labels import Labels
from edgedet.onnx_origin import read_origin

Port = Dict[str, Any]

EXPECTED = """expected one of
  logits (N, Q, classes) float, boxes (N, Q, 4) float cxcywh in [0, 1]
  labels (N, R) integer, boxes (N, R, 4) float xyxy pixels, scores (N, R) float
with one image input (N, 3, H, W) float32, and for the second form an optional size input (N, 2) integer"""


def import_model(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    labels: Labels | None = None,
    name: str | None = None,
    size: tuple[int, int] | None = None,
    resize: Literal["stretch", "letterbox"] | None = None,
    filter: Literal["bilinear", "antialias"] | None = None,
    channels: Literal["rgb", "bgr"] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    pad_value: int | None = None,
    licence: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Makes a bundle of any DETR-style ONNX model.

    Input size and output form are read from the graph. What is not given is taken from the metadata of a file that came
    out of a bundle, which becomes that bundle again. Before the bundle appears it is loaded and run on a grey image,
    where a backend is available, so that wrong shapes and NaN weights show now and not in production.

    Args:
        model: The ONNX file, weights inside.
        out: The bundle folder to make.
        labels: The classes, by label.
        name: Of the model; without metadata, the file's name without its ending.
        size: (width, height) for a graph whose input size is dynamic; must agree with a fixed one.
        resize: How images were prepared in training; this and the next five as in :class:`edgedet.bundle.InputSpec`,
            whose defaults hold without metadata.
        filter: Of the resize.
        channels: Colour order of the network.
        mean: Per channel.
        std: Per channel.
        pad_value: Grey of letterbox borders.
        licence: Licences of "weights" and "data".
        overwrite: Replace a bundle that exists.

    Returns:
        ``out``.

    Raises:
        ModelError: Not an ONNX model, of another form (the message lists what was found), it does not run, its metadata
            is damaged, or it is a quantised model.
        InvalidInputError: ``size`` or ``labels`` contradict the graph, or there are no labels.
        BundleError: The bundle cannot be written.
    """
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"{path}: expected an ONNX file, got nothing there; check the path")
    said = read_origin(path)
    ports = _core.inspect_onnx(str(path))
    image, output = read_form(ports, path.name)
    output = said.output(output)
    told = said.input
    width, height = _input_size(image, size or ((told.width, told.height) if told else None), path.name)
    labels = labels or said.labels
    if labels is None:
        raise InvalidInputError(f"{path.name}: does not name its classes; give them, --labels coco80 or a file")
    given: dict[str, Any] = {
        "resize": resize,
        "filter": filter,
        "channels": channels,
        "mean": mean,
        "std": std,
        "pad_value": pad_value,
    }
    spec = replace(
        told or InputSpec(width, height),
        name=image["name"],
        width=width,
        height=height,
        **{key: value for key, value in given.items() if value is not None},
    )
    if isinstance(output, LogitsBoxes):
        _check_classes(_port(ports["outputs"], output.logits), labels, path.name)

    def check(folder: Path) -> None:
        try:
            _core.inspect_onnx(str(folder / "model.onnx"))
        except ModelError as error:
            raise ModelError(
                f"{path}: the file needs other files beside it ({error}); save it with its weights inside, "
                f"onnx.save(onnx.load({path.name!r}), 'single.onnx')",
            ) from None
        here = [backend["name"] for backend in _core.backends() if backend["available"]]
        if here:
            # The last one: those before it may build an engine for minutes, which one frame is not worth.
            detector = _core.Detector(str(folder), backend=here[-1], precision="fp32", threads=1)
            detector.detect([np.full((height, width, 3), spec.pad_value, np.uint8)], "rgb")

    return write_bundle(
        out,
        path,
        name=name or said.name or path.stem,
        input=spec,
        output=output,
        classes=labels.names,
        category_ids=labels.category_ids,
        licence={**said.licence, **(licence or {})},
        overwrite=overwrite,
        check=check,
    )


def read_form(ports: Mapping[str, Sequence[Port]], model: str) -> tuple[Port, LogitsBoxes | LabelsBoxesScores]:
    """Finds the image input and the form of the head in what ``_core.inspect_onnx`` gives.

    Raises:
        ModelError: The graph has another form; the message lists its inputs and outputs.
    """
    inputs, outputs = ports["inputs"], ports["outputs"]
    images = [port for port in inputs if _rank(port) == 4 and port["dtype"] == "float32"]
    sizes = [port for port in inputs if _rank(port) == 2 and port["dtype"] in ("int64", "int32")]
    boxes = [port for port in outputs if _rank(port) == 3 and _last(port) == 4 and _is_float(port)]
    if len(boxes) > 1:
        boxes = [port for port in boxes if "box" in port["name"].lower()]
    if len(images) != 1 or len(boxes) != 1 or len(images) + len(sizes) != len(inputs):
        raise _unknown_form(ports, model)
    image, box = images[0], boxes[0]
    shape = image["shape"]
    if shape[1] not in (3, None):
        remedy = "; the image must come as (N, 3, H, W), so transpose it outside the graph" if shape[3] == 3 else ""
        raise ModelError(f"{model}: expected an image input with 3 channels, got {_describe(image)}{remedy}")

    rest = [port for port in outputs if port is not box]
    logits = [port for port in rest if _rank(port) == 3 and _is_float(port)]
    if len(rest) == 1 and len(logits) == 1 and not sizes:
        queries = box["shape"][1] or logits[0]["shape"][1]
        classes = _last(logits[0])
        rows = {"top_k": min(300, queries * classes)} if queries and classes else {}
        return image, LogitsBoxes(logits=logits[0]["name"], boxes=box["name"], **rows)

    labels = [port for port in rest if _rank(port) == 2 and port["dtype"] in ("int64", "int32")]
    scores = [port for port in rest if _rank(port) == 2 and _is_float(port)]
    if len(rest) == 2 and len(labels) == 1 and len(scores) == 1 and len(sizes) <= 1:
        count = box["shape"][1] or labels[0]["shape"][1] or scores[0]["shape"][1]
        return image, LabelsBoxesScores(
            labels=labels[0]["name"],
            boxes=box["name"],
            scores=scores[0]["name"],
            size_input=sizes[0]["name"] if sizes else None,
            **({"top_k": count} if count else {}),
        )
    raise _unknown_form(ports, model)


def _input_size(image: Port, size: tuple[int, int] | None, model: str) -> tuple[int, int]:
    height, width = image["shape"][2:]
    if size is None:
        if width is None or height is None:
            raise InvalidInputError(
                f"{model}: the input size is dynamic, {_describe(image)}; give the one to run at, --size 640x640",
            )
        return width, height
    if size[0] != (width or size[0]) or size[1] != (height or size[1]):
        raise InvalidInputError(
            f"{model}: expected the size of the graph, {width}x{height}, got {size[0]}x{size[1]}; leave --size out",
        )
    return size


def _check_classes(logits: Port, labels: Labels, model: str) -> None:
    classes = _last(logits)
    if classes not in (None, len(labels.names)):
        raise InvalidInputError(
            f"{model}: the head has {classes} classes ({_describe(logits)}), but {len(labels.names)} labels were "
            "given; give one name per class, in the order of the head",
        )


def _unknown_form(ports: Mapping[str, Sequence[Port]], model: str) -> ModelError:
    found = "\n".join(
        f"  {kind[:-1]} {_describe(port)} {port['dtype']}" for kind in ("inputs", "outputs") for port in ports[kind]
    )
    return ModelError(f"{model}: the form of this model is not supported; {EXPECTED}\ngot\n{found}")


def _describe(port: Port) -> str:
    shape = port["shape"]
    axes = "of any rank" if shape is None else f"({', '.join('?' if axis is None else str(axis) for axis in shape)})"
    return f"{port['name']} {axes}"


def _port(ports: Sequence[Port], name: str) -> Port:
    return next(port for port in ports if port["name"] == name)


def _rank(port: Port) -> int | None:
    return None if port["shape"] is None else len(port["shape"])


def _last(port: Port) -> int | None:
    axis: int | None = port["shape"][-1]
    return axis


def _is_float(port: Port) -> bool:
    return bool(port["dtype"] in ("float32", "float16"))

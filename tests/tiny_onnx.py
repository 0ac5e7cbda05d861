"""Detectors of a few nodes whose answers can be worked out by hand, for tests of everything around a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle

SIZE = 32
CLASSES = ("red", "green", "blue")
# cxcywh in [0, 1], one row per query.
BOXES = np.array([[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.25]], np.float32)
GAIN, STEP = np.float32(8.0), np.float32(2.0)


def logits_model(
    path: Path,
    *,
    side: int | str = SIZE,
    channels: int = 3,
    classes: int = 3,
    poison: float | None = None,
    boxes: NDArray[np.float32] = BOXES,
    names: Sequence[str] = ("images", "logits", "boxes"),
) -> Path:
    """Raw head: the logit of class c in query q is GAIN * (mean of channel c - 0.5) - STEP * q.

    poison: a weight with this value is added to all logits (NaN, for one).
    """
    image, logits, box = names
    queries = len(boxes)
    offset = np.zeros((1, queries, classes), np.float32)
    offset -= STEP * np.arange(queries, dtype=np.float32)[None, :, None] + GAIN * np.float32(0.5)
    if poison is not None:
        offset += np.float32(poison)
    nodes = [
        helper.make_node("ReduceMean", [image], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["mean_1"]),
        helper.make_node("Mul", ["mean_1", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], [logits]),
        helper.make_node("ReduceSum", ["scaled", "two"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "zero"], ["nought"]),
        helper.make_node("Add", ["nought", "box"], [box]),
    ]
    weights = {
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "gain": GAIN,
        "zero": np.float32(0),
        "offset": offset,
        "box": boxes[None],
    }
    inputs = [helper.make_tensor_value_info(image, TensorProto.FLOAT, ["N", channels, side, side])]
    outputs = [
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["N", queries, classes]),
        helper.make_tensor_value_info(box, TensorProto.FLOAT, ["N", queries, boxes.shape[-1]]),
    ]
    return _save(path, nodes, inputs, outputs, weights)


def scored_model(path: Path, *, sizes: bool = True) -> Path:
    """Post-processed head: query q has label q, score 0.9 - 0.3 q, and box BOXES[q] in pixels of the given sizes."""
    half = BOXES[:, 2:] / 2
    corners = np.concatenate((BOXES[:, :2] - half, BOXES[:, :2] + half), axis=1)[None]
    rows = len(BOXES)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["mean_1"]),
        helper.make_node("Mul", ["mean_1", "zero"], ["nought"]),
        helper.make_node("Add", ["nought", "score"], ["scores"]),
        helper.make_node("Cast", ["nought"], ["nought_i"], to=TensorProto.INT64),
        helper.make_node("Add", ["nought_i", "label"], ["labels"]),
        helper.make_node("Unsqueeze", ["nought", "one"], ["nought_3"]),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])]
    if sizes:
        inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["N", 2]))
        nodes += [
            helper.make_node("Cast", ["orig_target_sizes"], ["size"], to=TensorProto.FLOAT),
            helper.make_node("Concat", ["size", "size"], ["size_4"], axis=1),
            helper.make_node("Unsqueeze", ["size_4", "one"], ["size_3"]),
            helper.make_node("Mul", ["size_3", "corner"], ["placed"]),
        ]
    else:
        corners = corners * np.float32(SIZE)
        nodes.append(helper.make_node("Identity", ["corner"], ["placed"]))
    nodes.append(helper.make_node("Add", ["placed", "nought_3"], ["boxes"]))
    weights = {
        "one": np.array([1], np.int64),
        "zero": np.float32(0),
        "score": (0.9 - 0.3 * np.arange(rows, dtype=np.float32))[None].astype(np.float32),
        "label": np.arange(rows, dtype=np.int64)[None],
        "corner": corners.astype(np.float32),
    }
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.INT64, ["N", rows]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", rows, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", rows]),
    ]
    return _save(path, nodes, inputs, outputs, weights)


def free_model(
    path: Path,
    inputs: dict[str, tuple[int, Sequence[int | str]]],
    outputs: dict[str, tuple[int, Sequence[int]]],
) -> Path:
    """A model of any ports (type, shape): outputs are constants, inputs are tied in so that they are not dropped."""
    nodes, weights = [], {"axis": np.array([0], np.int64)}
    sums = []
    for name, (kind, shape) in inputs.items():
        cast = name
        if kind != TensorProto.FLOAT:
            cast = f"{name}_f"
            nodes.append(helper.make_node("Cast", [name], [cast], to=TensorProto.FLOAT))
        axes = list(range(len(shape)))
        nodes.append(helper.make_node("ReduceMean", [cast], [f"{name}_m"], axes=axes, keepdims=0))
        sums.append(f"{name}_m")
    nodes.append(helper.make_node("Sum", sums, ["sum"]))
    for name, (kind, shape) in outputs.items():
        weights[f"{name}_c"] = np.full(shape, 0.5, np.float32)
        nodes.append(helper.make_node("Add", ["sum", f"{name}_c"], [f"{name}_s"]))
        nodes.append(helper.make_node("Cast", [f"{name}_s"], [name], to=kind))
    return _save(
        path,
        nodes,
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        weights,
    )


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, NDArray[np.generic]],
) -> Path:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def logits_bundle(
    folder: Path,
    *,
    name: str = "tiny",
    category_ids: Sequence[int] = (1, 2, 3),
    boxes: NDArray[np.float32] = BOXES,
) -> Path:
    """`logits_model` as the bundle `name` in a folder; all nine pairs of query and class are kept."""
    return write_bundle(
        folder / name,
        logits_model(folder / f"{name}.onnx", boxes=boxes),
        name=name,
        input=InputSpec(width=SIZE, height=SIZE),
        output=LogitsBoxes(top_k=9),
        classes=CLASSES,
        category_ids=category_ids,
    )

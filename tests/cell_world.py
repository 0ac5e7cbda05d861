"""A detector made by hand, and pictures it is good at: for the tests of calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle

SIDE, CELL = 64, 16
GRID = SIDE // CELL
COLOURS = {"red": (200, 40, 40), "blue": (40, 40, 200)}


Middle = Literal["plain", "sampled", "pooled", "normed"]


def make_model(path: Path, middle: Middle = "plain") -> Path:
    """Says for each of 16 cells whether it is red, blue or neither; the last layer is fitted by least squares.

    All four have the same features of a cell. `sampled` takes them from between finer cells, of which one counts, by
    GridSample; `pooled` by an average pool that counts its padding; `normed` sends them through a LayerNorm.
    """
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(16, 3))
    shift = rng.normal(size=16) * 0.2
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    colours, targets = [], []
    for target, colour in (((4, -4), COLOURS["red"]), ((-4, 4), COLOURS["blue"]), ((-6, -6), (110, 110, 110))):
        colours += [np.array(colour) / 255 + rng.normal(size=3) * 0.05 for _ in range(200)]
        targets += [target] * 200
    features = np.maximum(np.array(colours) @ mix.T + shift, 0) @ turn.T
    if middle == "normed":
        centred = features - features.mean(axis=1, keepdims=True)
        features = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + 1e-5)
    else:
        features = np.maximum(features, 0)
    fitted = np.linalg.lstsq(np.hstack([features, np.ones((600, 1))]), np.array(targets, float), rcond=None)[0]

    cells = (np.arange(GRID) + 0.5) / GRID
    side = CELL // 2 if middle in ("sampled", "pooled") else CELL
    weights = {
        "w0": np.broadcast_to(mix[:, :, None, None] / side**2, (16, 3, side, side)),
        "b0": shift,
        "w1": turn.T if middle == "normed" else turn[:, :, None, None],
        "w2": fitted[:-1] if middle == "normed" else fitted[:-1].T[:, :, None, None],
        "b2": fitted[-1],
        "boxes0": np.array([[x, y, 1 / GRID, 1 / GRID] for y in cells for x in cells])[None],
        "zero": np.zeros(1),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w0", "b0"], ["c0"], strides=[side, side]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        *_middle(middle, weights),
        helper.make_node("ReduceMean", ["logits"], ["mean"], axes=[1, 2], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nought"]),
        helper.make_node("Add", ["nought", "boxes0"], ["boxes"]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([0, 2, GRID**2], np.int64), "shape"))
    tensors.append(numpy_helper.from_array(np.array([0, 16, GRID**2], np.int64), "token_shape"))
    graph = helper.make_graph(
        nodes,
        "cells",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", GRID**2, 2]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", GRID**2, 4]),
        ],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def _middle(middle: Middle, weights: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """From the first features to the logits; adds the constants that it needs."""
    if middle == "normed":
        weights["gain"], weights["offset"] = np.ones(16), np.zeros(16)
        return [
            helper.make_node("Reshape", ["r0", "token_shape"], ["flat"]),
            helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["tokens", "w1"], ["m1"]),
            helper.make_node("LayerNormalization", ["m1", "gain", "offset"], ["n1"], axis=-1),
            helper.make_node("MatMul", ["n1", "w2"], ["m2"]),
            helper.make_node("Add", ["m2", "b2"], ["logits"]),
        ]
    nodes = [helper.make_node("Conv", ["r0", "w1"], ["c1"])]
    last = "c1"
    if middle != "plain":
        # Of the four half-cells of a cell one counts, for all four: the odd ones are what `nearest` never takes.
        weights["mask"] = np.zeros((1, 1, 2 * GRID, 2 * GRID))
        if middle == "sampled":
            weights["mask"][:, :, 1::2, 1::2] = 4
            steps = (np.arange(GRID) + 0.5) / GRID * 2 - 1
            weights["grid0"] = np.array([[[x, y] for x in steps] for y in steps])[None]
            nodes += [
                helper.make_node("Relu", ["c1"], ["r1"]),
                helper.make_node("Mul", ["r1", "mask"], ["masked"]),
                helper.make_node("ReduceMean", ["images"], ["level"], axes=[1, 2, 3], keepdims=1),
                helper.make_node("Mul", ["level", "zero"], ["still"]),
                helper.make_node("Add", ["still", "grid0"], ["grid"]),
                helper.make_node("GridSample", ["masked", "grid"], ["taken"], mode="bilinear", align_corners=0),
            ]
            last = "taken"
        else:
            weights["mask"][:, :, ::2, ::2] = 9
            pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 0], "count_include_pad": 1}
            nodes += [
                helper.make_node("Mul", ["c1", "mask"], ["masked"]),
                helper.make_node("AveragePool", ["masked"], ["pooled"], **pool),
                helper.make_node("Relu", ["pooled"], ["taken"]),
            ]
            last = "taken"
    else:
        nodes.append(helper.make_node("Relu", ["c1"], ["r1"]))
        last = "r1"
    return [
        *nodes,
        helper.make_node("Conv", [last, "w2", "b2"], ["c2"]),
        helper.make_node("Reshape", ["c2", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["logits"], perm=[0, 2, 1]),
    ]


def make_bundle(path: Path, model: Path, *, name: str = "cells") -> Path:
    """A float bundle around what `make_model` wrote."""
    return write_bundle(
        path,
        model,
        name=name,
        input=InputSpec(width=SIDE, height=SIDE),
        output=LogitsBoxes(top_k=GRID**2),
        classes=list(COLOURS),
    )


def make_images(folder: Path, count: int, seed: int) -> Path:
    """Grey pictures with one to four coloured cells, and their COCO annotations in instances.json beside them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        pixels = rng.normal(110, 6, size=(SIDE, SIDE, 3))
        for cell in rng.choice(GRID**2, size=rng.integers(1, 5), replace=False):
            row, column = divmod(int(cell), GRID)
            label = int(rng.integers(2))
            colour = np.array(list(COLOURS.values())[label]) + rng.normal(0, 8, size=3)
            x, y = column * CELL, row * CELL
            pixels[y : y + CELL, x : x + CELL] = colour + rng.normal(0, 6, size=(CELL, CELL, 3))
            box = [x, y, CELL, CELL]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": box}
            annotations.append({**entry, "area": CELL**2, "iscrowd": 0})
        name = f"{number:03d}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(COLOURS)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(document))
    return folder

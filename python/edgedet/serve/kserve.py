"""The Open Inference Protocol (KServe v2) over JSON: tensors in, tensors out.

One input, ``image``: UINT8 of shape (H, W, 3) or (N, H, W, 3), RGB; or BYTES of shape (N), image files in base64. Four
outputs, padded to the image with most detections: ``num_detections`` INT32 (N), ``boxes`` FP32 (N, M, 4), ``scores``
FP32 (N, M) and ``labels`` INT32 (N, M); rows behind an image's number are 0, labels -1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedet import Detections
from edgedet.detections import padded
from edgedet.serve.options import WorkerOptions
from edgedet.serve.payload import Work, decode_files, parse_json, settings, unbase64
from edgedet.serve.refusal import RefusedError

OUTPUTS = {"num_detections": "INT32", "boxes": "FP32", "scores": "FP32", "labels": "INT32"}


def metadata(name: str) -> dict[str, Any]:
    """What ``GET /v2/models/{name}`` answers."""
    shapes = {"num_detections": [-1], "boxes": [-1, -1, 4], "scores": [-1, -1], "labels": [-1, -1]}
    return {
        "name": name,
        "versions": ["1"],
        "platform": "edgedet",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [{"name": key, "datatype": kind, "shape": shapes[key]} for key, kind in OUTPUTS.items()],
    }


def read_infer(body: memoryview, options: WorkerOptions) -> Work:
    """The body of ``POST /v2/models/{name}/infer``.

    Raises:
        RefusedError: It does not follow the protocol, or is too much.
    """
    document = parse_json(body, options)
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RefusedError(400, "malformed", '"inputs": expected a list with one tensor, "image"')
    tensor = inputs[0]
    if tensor.get("name") != "image":
        raise RefusedError(400, "malformed", f'expected the input "image", got {str(tensor.get("name"))[:40]!r}')
    asked = _asked(document)
    for wanted in asked:
        if wanted not in OUTPUTS:
            raise RefusedError(400, "malformed", f"expected outputs out of {', '.join(OUTPUTS)}, got {wanted[:40]!r}")
    shape, data = tensor.get("shape"), tensor.get("data")
    if not isinstance(shape, list) or not all(type(side) is int and 0 < side < 1 << 31 for side in shape):
        raise RefusedError(400, "malformed", '"shape": expected a list of sizes')
    if not isinstance(data, list):
        raise RefusedError(400, "malformed", '"data": expected a list')
    if tensor.get("datatype") == "BYTES" and len(shape) == 1 and shape[0] == len(data):
        if len(data) > options.max_images:
            raise RefusedError(413, "images", f"expected at most {options.max_images} images, got {len(data)}")
        images = decode_files([unbase64(text, index) for index, text in enumerate(data)], options)
    elif tensor.get("datatype") == "UINT8":
        images = _frames(shape, data, options)
    else:
        raise RefusedError(400, "malformed", '"datatype": expected UINT8 of shape (N, H, W, 3), or BYTES of shape (N)')
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RefusedError(400, "malformed", '"parameters": expected an object')
    identity = document.get("id")
    if identity is not None and not isinstance(identity, str):
        raise RefusedError(400, "malformed", '"id": expected a text')
    return Work(images=images, format="rgb", id=identity, outputs=asked, **settings(parameters, options))


def answer(name: str, work: Work, found: Sequence[Detections]) -> bytes:
    """The answer of one request: its images' detections as padded tensors."""
    tensors = padded(found, max(map(len, found), default=0))
    document: dict[str, Any] = {
        "model_name": name,
        "model_version": "1",
        "outputs": [
            {"name": key, "datatype": OUTPUTS[key], "shape": list(tensor.shape), "data": tensor.ravel().tolist()}
            for key, tensor in tensors.items()
            if not work.outputs or key in work.outputs
        ],
    }
    if work.id is not None:
        document["id"] = work.id
    return json.dumps(document, separators=(",", ":")).encode()


def _asked(document: dict[str, Any]) -> list[str]:
    outputs = document.get("outputs") or []
    if not isinstance(outputs, list) or not all(isinstance(one, dict) for one in outputs):
        raise RefusedError(400, "malformed", '"outputs": expected a list of tensors')
    return [str(one.get("name")) for one in outputs]


def _frames(shape: list[int], data: list[Any], options: WorkerOptions) -> list[NDArray[np.uint8]]:
    if len(shape) == 3:
        shape = [1, *shape]
    if len(shape) != 4 or shape[3] != 3:
        raise RefusedError(400, "malformed", f'"shape": expected (H, W, 3) or (N, H, W, 3), got {shape[:8]}')
    count, height, width, _ = shape
    if count > options.max_images:
        raise RefusedError(413, "images", f"expected at most {options.max_images} images, got {count}")
    if count * height * width > options.max_pixels:
        raise RefusedError(413, "pixels", f"expected at most {options.max_pixels} pixels, got {count}x{height}x{width}")
    try:
        values = np.array(data)
    except ValueError:
        values = np.array([])
    if values.dtype.kind not in "iu" or values.size != count * height * width * 3:
        raise RefusedError(
            400, "malformed", f'"data": expected {count * height * width * 3} whole numbers, as "shape" says'
        )
    if values.min() < 0 or values.max() > 255:
        raise RefusedError(400, "malformed", '"data": expected values from 0 to 255, got others')
    return list(values.astype(np.uint8).reshape(count, height, width, 3))

"""What clients send, made into images: in the worker, because none of it can be trusted."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedet import ImageError, read_image
from edgedet.serve.depth import nested_deeper
from edgedet.serve.multipart import boundary_of, read_form
from edgedet.serve.options import WorkerOptions
from edgedet.serve.refusal import RefusedError

_CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
_FORM_FIELDS = 8
# The last one is what curl says of --data-binary unless it is told otherwise.
_FILE = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})


@dataclass
class Work:
    """A request's images and wishes.

    Attributes:
        images: As `edgedet.Detector` takes them.
        format: Of all of them.
        score: Detections below it are left out.
        model: Its name; None: the first one.
        timeout: Seconds; None: the server's.
        id: The client's own name of the request, for the answer (KServe).
        outputs: The tensors it asks for; empty: all of them (KServe).
    """

    images: list[NDArray[np.uint8]]
    format: str
    score: float
    model: str | None
    timeout: float | None
    id: str | None = None
    outputs: Sequence[str] = ()


def read_detect(body: memoryview, content_type: str, query: Mapping[str, str], options: WorkerOptions) -> Work:
    """The body of ``POST /v1/detect``: an image file, raw pixels, a form, or JSON with base64.

    Args:
        body: Raw pixels are used where they lie; it has to stay as it is until the answer is there.
        content_type: The header.
        query: Of the URL.
        options: The limits.

    Raises:
        RefusedError: What is there is malformed, too much, or no image.
    """
    kind, boundary = boundary_of(content_type)
    fields: dict[str, Any] = dict(query)
    if "width" in query or "height" in query:
        format = query.get("format", "rgb")
        return _work([_pixels(body, query, format, options)], format, fields, options)
    if kind == "application/json":
        document = parse_json(body, options)
        encoded = document.pop("images", None)
        one = document.pop("image", None)
        if (encoded is None) == (one is None):
            raise RefusedError(
                400, "malformed", 'expected "image" (base64) or "images" (a list of them) in the JSON object'
            )
        fields.update(document)
        encoded = [one] if encoded is None else encoded
        if not isinstance(encoded, list):
            raise RefusedError(
                400, "malformed", f'"images": expected a list, got {type(encoded).__name__}; "image" is for one'
            )
        _count(len(encoded), options)
        files = [unbase64(text, index) for index, text in enumerate(encoded)]
    elif kind == "multipart/form-data":
        form = read_form(bytes(body), boundary, options.max_images + _FORM_FIELDS)
        fields.update(form.fields)
        files = form.files
    elif kind.startswith("image/") or kind in _FILE:
        files = [bytes(body)]
    else:
        raise RefusedError(
            415,
            "type",
            f"expected an image, multipart/form-data or application/json, got Content-Type {kind!r}; "
            "say what the body is",
        )
    return _work(decode_files(files, options), "rgb", fields, options)


def decode_files(files: list[bytes], options: WorkerOptions) -> list[NDArray[np.uint8]]:
    """Image files to RGB. Each header is read before its pixels, against what is left of the limit of the request."""
    _count(len(files), options)
    images, left = [], options.max_pixels
    for index, file in enumerate(files):
        try:
            image = read_image(file, max_pixels=left)
        except ImageError as error:
            raise RefusedError(422, "image", f"image {index}: {error}") from None
        left -= image.shape[0] * image.shape[1]
        images.append(image)
    return images


def parse_json(body: memoryview, options: WorkerOptions) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        RefusedError: It is none, or nested deeper than allowed.
    """
    text = bytes(body)
    if nested_deeper(text, options.max_depth):
        raise RefusedError(
            400,
            "malformed",
            f"expected JSON that is closed and nested in at most {options.max_depth} levels, got other",
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "malformed", f"expected JSON, got something else: {error}") from None
    if not isinstance(document, dict):
        raise RefusedError(400, "malformed", f"expected a JSON object, got {type(document).__name__}")
    return document


def settings(fields: Mapping[str, Any], options: WorkerOptions) -> dict[str, Any]:
    """The wishes among a request's fields, as the keyword arguments of `Work`."""
    model = fields.get("model")
    if model is not None and not isinstance(model, str):
        raise RefusedError(400, "malformed", f"model: expected a name, got {model!r}")
    score = _number(fields.get("score"), "score", 0.0, 1.0)
    timeout = _number(fields.get("timeout_ms"), "timeout_ms", 0.0, 1e9)
    return {
        "model": model,
        "score": options.score if score is None else score,
        "timeout": None if timeout is None else timeout / 1e3,
    }


def _work(images: list[NDArray[np.uint8]], format: str, fields: Mapping[str, Any], options: WorkerOptions) -> Work:
    return Work(images=images, format=format, **settings(fields, options))


def _number(value: object, name: str, low: float, high: float) -> float | None:
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise RefusedError(
            400, "malformed", f"{name}: expected a number from {low:g} to {high:g}, got {str(value)[:40]!r}"
        )
    return number


def _count(images: int, options: WorkerOptions) -> None:
    if images == 0:
        raise RefusedError(
            400, "malformed", "expected at least one image, got none; send files as parts with a file name"
        )
    if images > options.max_images:
        raise RefusedError(
            413,
            "images",
            f"expected at most {options.max_images} images in a request, got {images}; send several requests",
        )


def unbase64(text: object, index: int) -> bytes:
    """An image file out of a JSON text, which may be a data URL.

    Raises:
        RefusedError: It is not base64. `index` names the image.
    """
    if not isinstance(text, str):
        raise RefusedError(400, "malformed", f"image {index}: expected a base64 text, got {type(text).__name__}")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(400, "malformed", f"image {index}: expected base64 ({error})") from None


def _pixels(body: memoryview, query: Mapping[str, str], format: str, options: WorkerOptions) -> NDArray[np.uint8]:
    """Raw pixels as an array over the body, without a copy."""
    width, height = (
        int(query[name]) if query.get(name, "").isdecimal() and len(query[name]) < 9 else 0
        for name in ("width", "height")
    )
    if width < 1 or height < 1:
        raise RefusedError(
            400, "malformed", "expected width and height of raw pixels in the URL, such as ?width=640&height=480"
        )
    if width * height > options.max_pixels:
        raise RefusedError(
            413, "pixels", f"expected at most {options.max_pixels} pixels, got {width}x{height}; shrink the image"
        )
    if format == "nv12" and width % 2 == 0 and height % 2 == 0:
        shape: tuple[int, ...] = (height * 3 // 2, width)
    elif format in _CHANNELS:
        shape = (height, width, 3) if _CHANNELS[format] == 3 else (height, width)
    else:
        raise RefusedError(
            400,
            "malformed",
            f"format: expected rgb, bgr, gray, or nv12 with even sides, got {format[:20]!r} {width}x{height}",
        )
    if math.prod(shape) != len(body):
        raise RefusedError(
            400, "malformed", f"expected {math.prod(shape)} bytes for {width}x{height} {format}, got {len(body)}"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)

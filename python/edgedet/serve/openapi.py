"""What OpenAPI says of bodies that are not parsed by FastAPI, but in the worker."""

from __future__ import annotations

from typing import Any

_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}


def _errors(*statuses: str) -> dict[str, Any]:
    texts = {
        "400": "malformed",
        "404": "no such model",
        "408": "the body came too slowly",
        "413": "too many bytes, pixels or images",
        "415": "a Content-Type that is not known",
        "422": "not an image that can be read",
        "429": "too much is waiting; ask again after Retry-After seconds",
        "503": "loading, or the worker was lost; ask again after Retry-After seconds",
        "504": "the deadline passed",
    }
    return {
        status: {"description": texts[status], "content": {"application/json": {"schema": _ERROR}}}
        for status in statuses
    }


def _query(name: str, kind: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": {"type": kind}}


_TIMEOUT = {
    "name": "X-Timeout-Ms",
    "in": "header",
    "description": "milliseconds; expired requests are answered 504 and not run",
    "schema": {"type": "number"},
}
_STATUSES = ("400", "404", "408", "413", "415", "422", "429", "503", "504")
_IMAGE = {"type": "string", "format": "binary"}
_DETECTIONS = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "width": {"type": "integer"},
                    "height": {"type": "integer"},
                    "detections": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "box": {
                                    "type": "array",
                                    "items": {"type": "number"},
                                    "description": "x0, y0, x1, y1 in pixels of the image",
                                },
                                "score": {"type": "number"},
                                "label": {"type": "integer"},
                                "name": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
        "milliseconds": {"type": "object", "additionalProperties": {"type": "number"}},
    },
}
_OPTIONS = {
    "model": {"type": "string"},
    "score": {"type": "number", "minimum": 0, "maximum": 1},
    "timeout_ms": {"type": "number"},
}

DETECT: dict[str, Any] = {
    "summary": "Objects in one image or several",
    "parameters": [
        _query("model", "string", "its name; the first one if left out"),
        _query("score", "number", "detections below it are left out"),
        _query("timeout_ms", "number", "as X-Timeout-Ms"),
        _query("width", "integer", "of raw pixels"),
        _query("height", "integer", "of raw pixels"),
        _query("format", "string", "of raw pixels: rgb, bgr, gray or nv12"),
        _TIMEOUT,
    ],
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": _IMAGE},
            "application/octet-stream": {"schema": _IMAGE},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": {"type": "array", "items": _IMAGE}, **_OPTIONS}}
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "string", "format": "byte"},
                        "images": {"type": "array", "items": {"type": "string", "format": "byte"}},
                        **_OPTIONS,
                    },
                }
            },
        },
    },
    "responses": {
        "200": {"description": "detections, best first", "content": {"application/json": {"schema": _DETECTIONS}}},
        **_errors(*_STATUSES),
    },
}

INFER: dict[str, Any] = {
    "summary": "Objects, by the Open Inference Protocol (KServe v2)",
    "parameters": [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}},
        _TIMEOUT,
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"id": {"type": "string"}, "inputs": {"type": "array"}, "outputs": {"type": "array"}},
                    "required": ["inputs"],
                }
            }
        },
    },
    "responses": _errors(*_STATUSES),
}

SWAP: dict[str, Any] = {
    "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "properties": {"bundle": {"type": "string"}}}},
        },
    },
    "responses": _errors("400", "404", "422", "503"),
}

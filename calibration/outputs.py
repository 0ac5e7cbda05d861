"""What comes out of the network: the raw outputs of one image to detections, by the runtime's own decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet import Detections, decode_logits, decode_scored


def output_names(spec: Mapping[str, Any]) -> list[str]:
    """The outputs that `decode_outputs` takes, in its order."""
    parts = ("logits", "boxes") if spec["output"]["form"] == "logits_boxes" else ("labels", "boxes", "scores")
    return [spec["output"][part] for part in parts]


def decode_outputs(*values: npt.NDArray[Any], spec: Mapping[str, Any]) -> Detections:
    """One image's outputs to detections in pixels of the network input.

    Raises:
        ModelError: an output holds NaN.
    """
    width, height, classes = spec["input"]["width"], spec["input"]["height"], spec["classes"]
    size = {"width": width, "height": height, "image_width": width, "image_height": height}
    top_k = spec["output"]["top_k"]
    if spec["output"]["form"] == "logits_boxes":
        boxes, scores, labels = decode_logits(*(np.ascontiguousarray(value) for value in values), top_k=top_k, **size)
    else:
        kinds = (np.int64, np.float32, np.float32)
        arrays = (np.ascontiguousarray(value, kind) for value, kind in zip(values, kinds, strict=True))
        boxes, scores, labels = decode_scored(*arrays, classes=len(classes), top_k=top_k, **size)
    return Detections(boxes, scores, labels, [classes[label] for label in labels.tolist()])

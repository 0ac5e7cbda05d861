"""What clients get, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgedet import Detections, Detector
from edgedet.serve.lane import Ready


def model_card(name: str, detector: Detector) -> dict[str, Any]:
    """What is to be known of a model that runs: for ``GET /v1/models``."""
    info = detector.info
    return {
        "name": name,
        "model": info.name,
        "classes": list(info.classes),
        "input": {"width": info.width, "height": info.height},
        "backend": info.backend,
        "precision": info.precision,
        "device": info.device,
        "threads": info.threads,
        "requests": info.requests,
        "verdict": {"state": info.verified.state, "text": info.verified.text},
        "licence": info.spec["licence"],
    }


def detect_answer(name: str, ready: Ready, found: Sequence[Detections]) -> bytes:
    """The JSON of ``POST /v1/detect``: the objects of each image of a request, and where its time went."""
    results = []
    for image, detections in zip(ready.work.images, found):
        height = image.shape[0] * 2 // 3 if ready.work.format == "nv12" else image.shape[0]
        results.append(
            {
                "width": image.shape[1],
                "height": height,
                "detections": [
                    {"box": one.box, "score": one.score, "label": one.label, "name": one.name} for one in detections
                ],
            }
        )
    times = {stage: round(milliseconds, 3) for stage, milliseconds in ready.times.items()}
    return json.dumps({"model": name, "results": results, "milliseconds": times}, separators=(",", ":")).encode()

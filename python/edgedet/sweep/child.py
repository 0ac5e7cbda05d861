"""Measures one engine in a process of its own, so that the memory is its own and a crash costs one row.

Reads a request from stdin and writes lines of JSON to stdout: ``{"done": n}`` after each image, then ``{"facts": ...}``
or ``{"error": text}``. The detections go to the file that the request names.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgedet import Error, _core, read_image
from edgedet._core import peak_memory_mb as peak_memory
from edgedet.detections import Detections
from edgedet.files import write_atomically
from edgedet.sweep.prepare import prepare

_WARM_UP = 8


def main() -> int:
    """Measures what the request says."""
    request = json.load(sys.stdin)
    try:
        facts = _measure(request)
    except Error as error:
        _say({"error": str(error)})
        return 0
    _say({"facts": facts})
    return 0


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    before = _device_memory()
    made = prepare(
        Path(request["bundle"]),
        backend=request["backend"],
        precision=request["precision"],
        threads=request["threads"],
        calibrator=request["calibrator"],
    )
    detector, paths = made.detector, request["images"]
    for path in paths[:_WARM_UP]:
        detector(read_image(path))
    facts = {
        "build_s": made.seconds,
        "model_mb": made.bytes / 1e6,
        "rss_mb": peak_memory(),
        "vram_mb": None if before is None else (before - (_device_memory() or 0)) / 1e6,
        "device": detector.info.device,
        "threads": detector.info.threads,
        "verified": "" if detector.info.precision == "fp32" else detector.info.verified.state,
    }
    found = []
    for done, path in enumerate(paths, start=1):
        found.append(detector(read_image(path)))
        _say({"done": done})
    write_atomically(Path(request["out"]), pack(found))
    return facts


def pack(found: list[Detections]) -> bytes:
    """Detections of several images as an .npz file."""
    target = io.BytesIO()
    np.savez_compressed(
        target,
        counts=np.array([len(one) for one in found], np.int64),
        boxes=np.concatenate([one.boxes for one in found]),
        scores=np.concatenate([one.scores for one in found]),
        labels=np.concatenate([one.labels for one in found]),
    )
    return target.getvalue()


def unpack(path: Path, classes: list[str]) -> list[Detections]:
    """What `pack` wrote, one per image. Raises OSError or ValueError if the file is damaged."""
    with np.load(path, allow_pickle=False) as arrays:
        ends = np.cumsum(arrays["counts"])[:-1]
        parts = [np.split(arrays[key], ends) for key in ("boxes", "scores", "labels")]
    return [
        Detections(boxes, scores, labels, [classes[label] for label in labels.tolist()])
        for boxes, scores, labels in zip(*parts)
    ]


def _device_memory() -> int | None:
    """Free bytes of the first GPU, None where there is none. Others that use it at the same time are counted in."""
    devices, _ = _core.cuda_devices()
    return devices[0]["free_bytes"] if devices else None


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main())

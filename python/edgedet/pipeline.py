"""A bundle on a backend, as a detector runs it until another one is swapped in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedet import _core
from edgedet._core import InvalidInputError
from edgedet.detections import Detections, StageTimes
from edgedet.engine_options import EngineInfo, engine_info
from edgedet.image_input import ImageInput, PixelFormat, Pixels, as_pixels, check_format
from edgedet.verdict import Verdict, read_verdict


@dataclass(frozen=True)
class DetectorInfo:
    """What a detector runs and how.

    Attributes:
        name: Name of the model.
        classes: Name of each class, by label.
        category_ids: The dataset's id of each class, for COCO results.
        width: Of the network input, pixels.
        height: Of the network input, pixels.
        backend: Name of the backend that runs.
        precision: "fp32", "bf16", "fp16" or "int8": the one that runs.
        device: Device and library version.
        threads: CPU threads in use.
        requests: Parallel inference requests in use.
        engine: The engine that was built for this device; None where the backend builds none.
        verified: What verification found on this backend, and whether that still holds; ``str()`` of it is a line.
        spec: The whole model.json, checked and with defaults filled in.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    width: int
    height: int
    backend: str
    precision: str
    device: str
    threads: int
    requests: int
    engine: EngineInfo | None
    verified: Verdict
    spec: dict[str, Any]


@dataclass(frozen=True)
class Pipeline:
    """A bundle that runs, and what is said of it: replaced as a whole."""

    core: _core.Detector
    info: DetectorInfo

    @classmethod
    def of(cls, bundle: str | os.PathLike[str], core: _core.Detector, built: EngineInfo | None) -> Pipeline:
        """built: the engine, where it was built for this detector."""
        spec = core.spec
        info = DetectorInfo(
            name=spec["name"],
            classes=tuple(spec["classes"]),
            category_ids=tuple(spec["category_ids"]),
            width=spec["input"]["width"],
            height=spec["input"]["height"],
            backend=core.backend,
            precision=core.precision,
            device=core.device,
            threads=core.threads,
            requests=core.requests,
            engine=built or engine_info(core.engine),
            verified=read_verdict(bundle, spec, core.backend, device=core.device, precision=core.precision),
            spec=spec,
        )
        return cls(core, info)

    def detect(self, images: Sequence[ImageInput], format: PixelFormat) -> tuple[list[Detections], StageTimes]:
        """As ``Detector.detect_timed``."""
        if not isinstance(images, (list, tuple)):
            raise InvalidInputError(
                f"expected a list of images, got {type(images).__name__}; put one image into a list"
            )
        check_format(format)
        if not images:
            return [], StageTimes(0.0, 0.0, 0.0)
        arrays: list[Pixels] = []
        are_rgb: list[bool] = []
        for index, image in enumerate(images):
            pixels, is_rgb = as_pixels(image, format, index)
            arrays.append(pixels)
            are_rgb.append(is_rgb)
        if format == "rgb" or not any(are_rgb):
            return self._run(arrays, format)

        # Files are RGB whatever the arrays are: each kind in a call of its own, then back into the caller's order.
        results: list[Detections | None] = [None] * len(arrays)
        total = np.zeros(3)
        kinds: tuple[tuple[bool, PixelFormat], ...] = ((True, "rgb"), (False, format))
        for kind, kind_format in kinds:
            places = [place for place, is_rgb in enumerate(are_rgb) if is_rgb is kind]
            if places:
                found, times = self._run([arrays[place] for place in places], kind_format)
                total += times
                for place, detections in zip(places, found):
                    results[place] = detections
        return [result for result in results if result is not None], StageTimes(*total.tolist())

    def _run(self, arrays: list[Pixels], format: PixelFormat) -> tuple[list[Detections], StageTimes]:
        raw, times = self.core.detect(arrays, format)
        return [self.detections(one) for one in raw], StageTimes(*times)

    def detections(self, raw: _core._RawDetections) -> Detections:
        """With the names of this bundle's classes."""
        boxes, scores, labels = raw
        return Detections(boxes, scores, labels, [self.info.classes[label] for label in labels.tolist()])

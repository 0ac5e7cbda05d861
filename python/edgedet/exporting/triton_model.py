"""Triton's Python backend around a whole edgedet detector: image files in, boxes, scores and labels out.

`edgedet export triton` puts this file beside the bundle that it runs. The environment of the backend needs edgedet.

image: BYTES (N, 1), the contents of image files. num_detections: INT32 (N, 1). boxes: FP32 (N, M, 4), corners in pixels
of the image. scores: FP32 (N, M), descending. labels: INT32 (N, M). M is the bundle's top_k; rows behind an image's
number are 0, labels -1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

import edgedet
from edgedet.detections import padded


class TritonPythonModel:
    """One instance of the detector."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle; an engine that is not there yet is built first."""
        parameters = json.loads(args["model_config"])["parameters"]
        device = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0
        self.detector = edgedet.Detector(
            Path(__file__).with_name("bundle"),
            backend=parameters["backend"]["string_value"],
            score_threshold=float(parameters["score_threshold"]["string_value"]),
            engine=edgedet.EngineOptions(device=device),
        )
        self.rows = int(self.detector.info.spec["output"]["top_k"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """All images of all requests in one call. A request with an image that cannot be read gets an error."""
        read = [_read(request) for request in requests]
        images = [images for images, _ in read]
        answers = [refusal for _, refusal in read]
        try:
            found = self.detector([image for group in images for image in group])
        except edgedet.Error as error:
            return [answer or _refusal(error) for answer in answers]
        for place, group in enumerate(images):
            answers[place] = answers[place] or self._answer(found[: len(group)])
            found = found[len(group) :]
        return answers

    def finalize(self) -> None:
        """Ends the detector."""
        self.detector.close()

    def _answer(self, found: list[edgedet.Detections]) -> Any:
        tensors = padded(found, self.rows)
        tensors["num_detections"] = tensors["num_detections"].reshape(-1, 1)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])


def _read(request: Any) -> tuple[list[Any], Any]:
    """The images of a request and None, or no images and the answer that says why."""
    files = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
    try:
        return [edgedet.read_image(bytes(file)) for file in files], None
    except edgedet.Error as error:
        return [], _refusal(error)


def _refusal(error: Exception) -> Any:
    return pb_utils.InferenceResponse([], error=pb_utils.TritonError(str(error)))

"""What onnxruntime detects in float32: what engines are compared with, made where there is time for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from calibration.inputs import float_model, network_feed, network_input
from calibration.outputs import output_names
from edgedet import Detections, decode_logits, decode_scored
from edgedet.bundle import load_model_json
from edgedet.coco_eval import CocoDataset, collect_results, evaluate, match_categories


def cpu_session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def onnxruntime_detector(bundle: Path, *, threads: int = 2) -> Callable[[NDArray[np.uint8]], Detections]:
    """From an (H, W, 3) RGB image to detections: edgedet's preprocessing and decoding around onnxruntime."""
    spec = load_model_json(bundle)
    session = cpu_session(bundle / float_model(spec, "tensorrt"), threads)
    names = output_names(spec)

    def detect(image: NDArray[np.uint8]) -> Detections:
        outputs = session.run(names, network_feed(network_input(image, spec)[None], spec))
        return decoded([np.asarray(output)[0] for output in outputs], spec, image.shape[1], image.shape[0])

    return detect


def decoded(outputs: Sequence[NDArray[Any]], spec: dict[str, Any], width: int, height: int) -> Detections:
    """One image's raw outputs to detections in pixels of an image of that size."""
    how, rows = spec["input"], spec["output"]["top_k"]
    size: dict[str, Any] = {
        "width": how["width"],
        "height": how["height"],
        "image_width": width,
        "image_height": height,
        "resize": how["resize"],
        "top_k": rows,
    }
    if spec["output"]["form"] == "logits_boxes":
        logits, boxes = (np.ascontiguousarray(value, np.float32) for value in outputs)
        found = decode_logits(logits, boxes, **size)
    else:
        kinds = (np.int64, np.float32, np.float32)
        arrays = (np.ascontiguousarray(value, kind) for value, kind in zip(outputs, kinds, strict=True))
        found = decode_scored(*arrays, classes=len(spec["classes"]), **size)
    boxes, scores, labels = found
    return Detections(boxes, scores, labels, [spec["classes"][label] for label in labels.tolist()])


def run_dataset(
    detect: Callable[[NDArray[np.uint8]], Detections], spec: dict[str, Any], dataset: CocoDataset, images: Path
) -> tuple[list[Detections], dict[str, float]]:
    """Detections of every image, and AP."""
    kept: list[Detections] = []

    def keep(image: NDArray[np.uint8]) -> Detections:
        kept.append(detect(image))
        return kept[-1]

    categories = match_categories(dataset, spec["classes"], spec["category_ids"])
    return kept, evaluate(collect_results(keep, dataset, images, categories), dataset)


def save_reference(file: Path, found: Sequence[Detections], figures: dict[str, float]) -> None:
    np.savez_compressed(
        file,
        counts=np.array([len(one) for one in found], np.int32),
        boxes=np.concatenate([one.boxes for one in found]).astype(np.float32),
        scores=np.concatenate([one.scores for one in found]).astype(np.float32),
        labels=np.concatenate([one.labels for one in found]).astype(np.int32),
        ap=np.float64(figures["AP"]),
    )


def load_reference(file: Path, classes: Sequence[str]) -> tuple[list[Detections], float]:
    """What `save_reference` wrote."""
    with np.load(file, allow_pickle=False) as held:
        ends = np.cumsum(held["counts"])[:-1]
        parts = [np.split(held[name], ends) for name in ("boxes", "scores", "labels")]
        ap = float(held["ap"])
    return [
        Detections(boxes, scores, labels, [classes[label] for label in labels.tolist()])
        for boxes, scores, labels in zip(*parts, strict=True)
    ], ap

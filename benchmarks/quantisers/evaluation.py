"""`evaluate`: AP of every model in every engine that runs it, each measured once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import openvino

from benchmarks.quantisers.contenders import Contender, Engine
from benchmarks.quantisers.engines import Outputs, load
from benchmarks.quantisers.workspace import Subject, file_digest, read_json, write_json
from calibration.inputs import network_input
from calibration.sampling import sha256
from edgedet import decode_logits, decode_scored, read_image
from edgedet.coco_eval import CocoDataset, evaluate, load_annotations, match_categories
from edgedet.detections import Detections


def decode(outputs: Outputs, spec: Mapping[str, Any], size: tuple[int, int]) -> Detections:
    """The runtime's own decoding of one image's outputs; size: of the source image, (height, width)."""
    network, output, classes = spec["input"], spec["output"], spec["classes"]
    how = {
        "width": network["width"],
        "height": network["height"],
        "image_width": size[1],
        "image_height": size[0],
        "resize": network["resize"],
        "top_k": output["top_k"],
    }
    boxes = np.ascontiguousarray(outputs[output["boxes"]][0])
    if output.get("logits"):
        found = decode_logits(np.ascontiguousarray(outputs[output["logits"]][0]), boxes, **how)
    else:
        labels = np.ascontiguousarray(outputs[output["labels"]][0], dtype=np.int64)
        scores = np.ascontiguousarray(outputs[output["scores"]][0])
        found = decode_scored(labels, boxes, scores, classes=len(classes), **how)
    return Detections(*found, [classes[label] for label in found[2].tolist()])


def evaluate_all(
    subject: Subject,
    contenders: Sequence[Contender],
    *,
    images: Path,
    annotations: Path,
    threads: int,
    say: Callable[[str], None],
) -> None:
    """Evaluate every model of a subject that is there. Figures of a file that has not changed are kept."""
    dataset = load_annotations(annotations)
    versions = {"onnxruntime": onnxruntime.__version__, "openvino": openvino.get_version()}
    inputs: list[npt.NDArray[np.float32]] = []
    sizes: list[tuple[int, int]] = []
    for contender in contenders:
        model = subject.model(contender)
        if model is None:
            continue
        for engine in contender.engines:
            target = subject.of(contender) / f"ap.{engine}.json"
            wanted = {
                "sha256": file_digest(model),
                "annotations_sha256": sha256(annotations),
                "engine": versions[engine],
                "threads": threads,
            }
            if read_json(target).get("request") == wanted:
                continue
            if not inputs:
                for image in dataset.images:
                    pixels = read_image(images / image.file_name)
                    inputs.append(network_input(pixels, subject.spec))
                    sizes.append((pixels.shape[0], pixels.shape[1]))
            figures = _measure(subject, model, engine, dataset, inputs, sizes, threads=threads)
            write_json(target, {"request": wanted, **figures})
            result = f"AP {figures['AP']:.4f}" if "AP" in figures else f"failed: {figures['error']}"
            say(f"{subject.name} {contender.key} {engine}: {result}")


def _measure(
    subject: Subject,
    model: Path,
    engine: Engine,
    dataset: CocoDataset,
    inputs: Sequence[npt.NDArray[np.float32]],
    sizes: Sequence[tuple[int, int]],
    *,
    threads: int,
) -> dict[str, Any]:
    spec = subject.spec
    categories = match_categories(dataset, spec["classes"], spec["category_ids"])
    try:
        loaded = load(engine, model, spec, threads=threads)
    except Exception as cause:  # each engine has its own; a model it cannot load is a result
        return {"error": str(cause).strip().splitlines()[-1]}
    results = []
    for image, tensor, size in zip(dataset.images, inputs, sizes, strict=True):
        found = decode(loaded.run(tensor), spec, size).to_coco(image.id, categories)
        results += [entry for entry in found if entry["category_id"] >= 0]
    figures = {name: round(value, 5) for name, value in evaluate(results, dataset).items()}
    return {**figures, "images": len(inputs), "int8": loaded.int8, "weighted": loaded.weighted}

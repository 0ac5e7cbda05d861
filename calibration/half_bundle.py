"""Make the half precision model of a bundle for TensorRT, and keep it there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import onnx

from calibration.calibrate import counter
from calibration.graph import load, prepare
from calibration.half import Half, HalfOptions, half
from calibration.inputs import batch_size, float_model, sample_batches
from calibration.sampling import read_record, read_sample
from edgedet.bundle import add_json, add_model, load_model_json


def add_half(
    bundle: Path,
    *,
    options: HalfOptions,
    count: int = 16,
    images: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> tuple[Half, str, int]:
    """Write `model.tensorrt.fp16.onnx` and what was found into a bundle.

    Args:
        bundle: bundle with a float model and a recorded sample.
        options: limits of what half precision may change.
        count: calibration images to measure on.
        images: their folder, where it is not the recorded one.
        progress: told (stage, images done, images in all).

    Returns:
        The model, its file name, and the number of images.

    Raises:
        InvalidInputError: no sample, or its images changed.
        ModelError: the float model is broken.
        BundleError: the bundle is damaged.
    """
    spec, sample = load_model_json(bundle), read_sample(bundle)
    folder = images or Path(sample.directory)
    source = float_model(spec, "tensorrt")
    graph = prepare(load(bundle / source))
    batch = batch_size(graph, spec, options.collect.batch)
    count = max(min(count, len(sample.images)), 1)
    made = half(
        graph,
        lambda: islice(sample_batches(folder, sample, spec, batch=batch), -(-count // batch)),
        spec,
        options=options,
        advance=counter(progress, "largest values", count),
    )
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model.onnx"
        onnx.save(made.model, str(target))
        file = add_model(bundle, "fp16", "tensorrt", target)
    entry = {"float_sha256": spec["files"][source]["sha256"], "images": count, **made.to_json()}
    add_json(bundle, "calibration.json", {**read_record(bundle), "half": {"tensorrt": entry}})
    return made, file, count

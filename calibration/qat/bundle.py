"""From a float bundle and its calibration set to a fine-tuned INT8 model of one backend."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from calibration.calibrate import Calibrated, Progress, work_folder
from calibration.inputs import network_input
from calibration.qat.finetune import Finetuned, FinetuneOptions, Image, finetune
from calibration.quantize import Quantized, QuantizeOptions, build, calibrate_for, store
from calibration.render import BackendName, render
from calibration.sampling import SampledImage, read_checked

# Part of the name of the file that a run goes on from: another layout or loss never reads it.
_LAYOUT = 1


def finetune_bundle(
    bundle: Path,
    *,
    backend: BackendName,
    quantize_options: QuantizeOptions,
    options: FinetuneOptions,
    images: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[Quantized, Finetuned]:
    """Quantise as `calibration.quantize.quantize` does, then fine-tune on the recorded set, and write that model.

    The set is the only source of images, so that the record names everything the weights have seen and `verify`
    refuses evaluation images among them. The float model of the bundle stays as it is.

    Args:
        bundle: bundle with a float model and a recorded sample.
        backend: one of `calibration.quantize.BACKENDS`.
        quantize_options: layers, ranges and where to start from.
        options: see `FinetuneOptions`.
        images: folder of the calibration images, where it is not the recorded one.
        progress: told (stage, images done, images in all).

    Raises:
        InvalidInputError: no sample, its images changed, or too few of them.
        ModelError: the float model is broken, or has nothing to quantise or an operator that is not covered.
        BundleError: the bundle is damaged.
    """
    calibrated = calibrate_for(bundle, backend, quantize_options, images=images, progress=progress)
    made = build(calibrated, backend, quantize_options)
    tuned = finetune(
        calibrated.graph,
        made.placement,
        made.ranges,
        made.model,
        backend,
        [_loader(calibrated, image) for image in calibrated.sample.images],
        spec=calibrated.spec,
        options=options,
        state=work_folder(bundle) / f"finetune-{_key(calibrated, made, backend, options)}.safetensors",
        progress=progress,
    )
    model = render(tuned.graph, made.placement, tuned.ranges, backend)
    record = {
        "float_sha256": calibrated.spec["files"][calibrated.float_file]["sha256"],
        "options": asdict(options),
        "images": {"trained": tuned.images[0], "held_out": tuned.images[1]},
        "losses": [{name: round(value, 6) for name, value in terms.items()} for terms in tuned.losses],
        "best_epoch": tuned.best,
        "versions": {"torch": str(torch.__version__)},
    }
    result = replace(made, model=model, ranges=tuned.ranges)
    return store(bundle, calibrated, result, backend, quantize_options, finetuned=record), tuned


def _loader(calibrated: Calibrated, image: SampledImage) -> Image:
    def load() -> npt.NDArray[np.float32]:
        return network_input(read_checked(calibrated.folder, image), calibrated.spec)

    return load


def _key(calibrated: Calibrated, made: Quantized, backend: BackendName, options: FinetuneOptions) -> str:
    """Everything that fine-tuning depends on, threads aside."""
    parts: list[Any] = [
        _LAYOUT,
        backend,
        hashlib.sha256(made.model.SerializeToString(deterministic=True)).hexdigest(),
        calibrated.spec["input"],
        [image.sha256 for image in calibrated.sample.images],
        {name: value for name, value in asdict(options).items() if name != "threads"},
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

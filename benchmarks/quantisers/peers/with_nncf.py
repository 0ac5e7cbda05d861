"""NNCF on the OpenVINO model, for an environment with nncf and openvino.

Settings:
    preset: performance (symmetric activations) or mixed (asymmetric ones).
    model_type: transformer, or None.
    fast_bias_correction: False for the slower and more exact method.
    ignored_types: operator types that stay float.
"""

from __future__ import annotations

import nncf
import openvino
from job import Job, run_job


def quantise(job: Job) -> None:
    settings = job.settings
    model = openvino.Core().read_model(str(job.model))
    model.reshape(job.shapes)
    quantised = nncf.quantize(
        model,
        nncf.Dataset(range(len(job.inputs)), lambda index: job.feed(job.inputs[index : index + 1])),
        preset=nncf.QuantizationPreset(settings["preset"]),
        model_type=nncf.ModelType(settings["model_type"]) if settings["model_type"] else None,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(job.inputs),
        fast_bias_correction=settings["fast_bias_correction"],
        ignored_scope=nncf.IgnoredScope(types=settings["ignored_types"]),
    )
    openvino.save_model(quantised, str(job.folder / "model.xml"), compress_to_fp16=False)


if __name__ == "__main__":
    run_job(quantise, ("nncf", "openvino", "numpy"))

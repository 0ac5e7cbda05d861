"""NVIDIA ModelOpt's ONNX quantisation on a CPU, for an environment with nvidia-modelopt[onnx].

Settings:
    method: max or entropy.
    options: further arguments of `modelopt.onnx.quantization.quantize`.
"""

from __future__ import annotations

from job import Job, run_job
from modelopt.onnx.quantization import quantize


def quantise(job: Job) -> None:
    quantize(
        str(job.model),
        quantize_mode="int8",
        calibration_method=job.settings["method"],
        calibration_data=job.feed(job.inputs[:]),
        calibration_eps=["cpu"],
        override_shapes=",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in job.shapes.items()),
        high_precision_dtype="fp32",
        output_path=str(job.folder / "model.onnx"),
        **job.settings["options"],
    )


if __name__ == "__main__":
    run_job(quantise, ("nvidia-modelopt", "onnxruntime-gpu", "onnx", "numpy"))

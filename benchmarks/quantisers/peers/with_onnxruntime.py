"""onnxruntime's static quantisation, for an environment with onnxruntime, onnx and sympy.

Settings:
    method: minmax, entropy or percentile.
    ops: operator types to quantise.
    moving_average: min-max averages the extremes of the images.
    bins: of the histograms of entropy and percentile. `quantize_static` has no option for them, so its own calibrator
        is made with them and its ranges are handed over as the calibration cache that `quantize_static` reads.
    percentile: share of the values that a percentile range keeps, percent.
    float_outputs: operator types whose outputs get no pair.
    exclude: patterns of node names that stay float. Products without a constant, as in attention, always do.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import onnx
from job import Feed, Job, run_job
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.tools.onnx_model_utils import make_input_shape_fixed

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# Images whose intermediate tensors are held at a time for histograms. Extremes are few numbers and come in one go, for
# a moving average forgets from one go to the next.
CHUNK = 20


class Reader(CalibrationDataReader):
    """A stretch of the calibration images."""

    def __init__(self, job: Job, start: int, end: int) -> None:
        self._feeds = job.feeds(start, end)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def excluded(model: onnx.ModelProto, patterns: list[str]) -> list[str]:
    """Names of the nodes that stay float."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if any(re.fullmatch(pattern, node.name) for pattern in patterns)
        or (node.op_type == "MatMul" and not constants & set(node.input))
    ]


def quantise(job: Job) -> None:
    settings = job.settings
    method = METHODS[settings["method"]]
    with tempfile.TemporaryDirectory() as scratch:
        fixed, prepared, ranges = (Path(scratch) / name for name in ("fixed.onnx", "prepared.onnx", "ranges.json"))
        model = onnx.load(str(job.model))
        for name, shape in job.shapes.items():
            make_input_shape_fixed(model.graph, name, shape)
        onnx.save(model, str(fixed))
        quant_pre_process(str(fixed), str(prepared), auto_merge=True)

        options = {"moving_average": settings.get("moving_average", False)}
        if method is not CalibrationMethod.MinMax:
            options = {"num_bins": settings["bins"]}
        if method is CalibrationMethod.Percentile:
            options["percentile"] = settings["percentile"]
        calibrator = create_calibrator(
            prepared,
            settings["ops"],
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=method,
            extra_options=options,
        )
        total = len(job.inputs)
        chunk = total if method is CalibrationMethod.MinMax else CHUNK
        for start in range(0, total, chunk):
            calibrator.collect_data(Reader(job, start, min(start + chunk, total)))
        save_tensors_data(calibrator.compute_data(), ranges)

        quantize_static(
            str(prepared),
            str(job.folder / "model.onnx"),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=settings["ops"],
            nodes_to_exclude=excluded(onnx.load(str(prepared)), settings.get("exclude", [])),
            per_channel=True,
            reduce_range=False,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            calibration_cache_path=ranges,
            extra_options={"OpTypesToExcludeOutputQuantization": settings.get("float_outputs", [])},
        )


if __name__ == "__main__":
    run_job(quantise, ("onnxruntime", "onnx", "numpy"))

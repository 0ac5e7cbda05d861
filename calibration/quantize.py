"""From a float bundle and its calibration set to the INT8 model of one backend."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from calibration.calibrate import Calibrated, Progress, calibrate
from calibration.collect import CollectOptions, Statistics, session
from calibration.inputs import batch_size, sample_batches
from calibration.observers import Method, Range, observe
from calibration.placement import Placement, PlacementOptions, without
from calibration.render import BackendName, activation_grid, measured, render
from calibration.sampling import FORMAT, VERSION, Sample, read_record, read_sample
from edgedet import BackendError, InvalidInputError, ModelError
from edgedet.bundle import add_json, add_model, load_model_json

# Backends of `edgedet` that an INT8 model is written for.
BACKENDS: tuple[BackendName, ...] = ("openvino", "tensorrt")


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How the INT8 model is made.

    Attributes:
        observer: method that reads the range of a tensor from its histogram.
        percentile: share of values kept by the `percentile` observer, percent.
        alpha: strength of the channel equalisation, 0 (off) to 1.
        correct_bias: take the mean error of rounded weights back in the bias.
        placement: which layers to consider.
        keep_float: names of those that stay in float all the same.
        collect: batch, memory bound and threads.
    """

    observer: Method = "percentile"
    percentile: float = 99.99
    alpha: float = 0.5
    correct_bias: bool = True
    placement: PlacementOptions = field(default_factory=PlacementOptions)
    keep_float: tuple[str, ...] = ()
    collect: CollectOptions = field(default_factory=CollectOptions)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.0 <= self.alpha <= 1.0:
            raise InvalidInputError(f"expected alpha in [0, 1], got {self.alpha}")


@dataclass(frozen=True)
class Quantized:
    """An INT8 model.

    Attributes:
        model: the Q/DQ graph.
        placement: what runs in int8 and what does not, with reasons.
        ranges: range of every quantised tensor.
        file: name of the model in the bundle, empty before it is there.
    """

    model: onnx.ModelProto
    placement: Placement
    ranges: dict[str, Range]
    file: str = ""


def quantize(
    bundle: Path,
    *,
    backend: BackendName,
    options: QuantizeOptions,
    images: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Quantized:
    """Calibrate on the recorded set and write `model.<backend>.int8.onnx` and `calibration.json` into a bundle.

    Args:
        bundle: bundle with a float model and a recorded sample.
        backend: one of `BACKENDS`.
        options: see `QuantizeOptions`.
        images: folder of the calibration images, where it is not the recorded one.
        progress: told (stage, images done, images in all).

    Raises:
        InvalidInputError: no sample, or its images changed.
        ModelError: the float model is broken or has nothing to quantise.
        BundleError: the bundle is damaged.
    """
    calibrated = calibrate_for(bundle, backend, options, images=images, progress=progress)
    return store(bundle, calibrated, build(calibrated, backend, options), backend, options)


def calibrate_for(
    bundle: Path, backend: BackendName, options: QuantizeOptions, *, images: Path | None, progress: Progress
) -> Calibrated:
    """`calibrate` with the settings of `quantize`.

    Raises:
        BackendError: no INT8 model is written for this backend.
    """
    if backend not in BACKENDS:
        raise BackendError(f"expected a backend of {', '.join(BACKENDS)}, got '{backend}'")
    return calibrate(
        bundle,
        backend=backend,
        alpha=options.alpha,
        placement=options.placement,
        collect_options=options.collect,
        images=images,
        progress=progress,
    )


def build(calibrated: Calibrated, backend: BackendName, options: QuantizeOptions) -> Quantized:
    """The INT8 model of a calibrated graph. `options` has to be what the graph was calibrated with, observer aside.

    Raises:
        InvalidInputError: `options.keep_float` names something that is no int8 layer.
        ModelError: everything is left in float.
    """
    placement = without(calibrated.placement, options.keep_float)
    if not placement.layers:
        raise ModelError("expected layers to quantise, got none: all of them are left in float")
    statistics = calibrated.statistics
    ranges = {
        name: observe(statistics[name].histogram, options.observer, percentile=options.percentile)
        for name in measured(calibrated.graph, placement, backend)
    }
    means = {name: statistics[name].channel_means for name in ranges} if options.correct_bias else None
    return Quantized(render(calibrated.graph, placement, ranges, backend, means=means), placement, ranges)


def store(
    bundle: Path,
    calibrated: Calibrated,
    made: Quantized,
    backend: BackendName,
    options: QuantizeOptions,
    *,
    finetuned: Mapping[str, object] | None = None,
) -> Quantized:
    """Write an INT8 model and its record into the bundle, replacing earlier ones for this backend.

    `finetuned` is what the record says of weights that were trained (`calibration.qat`).

    Raises:
        ModelError: the model does not run, or gives NaN.
    """
    _check_runs(made.model, calibrated)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model.onnx"
        onnx.save(made.model, str(target))
        file = add_model(bundle, "int8", backend, target)
    entry = {
        "observer": options.observer,
        "percentile": options.percentile if options.observer == "percentile" else None,
        "alpha": options.alpha,
        "factors": calibrated.factors,
        "correct_bias": options.correct_bias,
        "placement": asdict(options.placement),
        "keep_float": list(options.keep_float),
        "input": calibrated.spec["input"],
        "float_sha256": calibrated.spec["files"][calibrated.float_file]["sha256"],
        "int8_sha256": load_model_json(bundle)["files"][file]["sha256"],
        "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        "ranges": {
            name: _range_entry(calibrated.statistics[name], extent, backend) for name, extent in made.ranges.items()
        },
        "layers": [asdict(layer) for layer in made.placement.layers],
        "kept_float": [asdict(kept) for kept in made.placement.kept],
    }
    if finetuned is not None:
        entry["finetuned"] = dict(finetuned)
    before = read_record(bundle) if read_sample(bundle) == calibrated.sample else {}
    others = before.get("quantization")
    record = {
        **before,
        "format": FORMAT,
        "version": VERSION,
        "sample": calibrated.sample.to_json(),
        "quantization": {**(others if isinstance(others, dict) else {}), backend: entry},
    }
    add_json(bundle, "calibration.json", record)
    return Quantized(made.model, made.placement, made.ranges, file)


def record_sample(bundle: Path, sample: Sample) -> None:
    """Write a set into a bundle's calibration.json. Ranges of an earlier set go: they are not this set's."""
    load_model_json(bundle)
    read_record(bundle)
    add_json(bundle, "calibration.json", {"format": FORMAT, "version": VERSION, "sample": sample.to_json()})


def _check_runs(model: onnx.ModelProto, calibrated: Calibrated) -> None:
    """One run in onnxruntime: a model that cannot even run there, or gives NaN, is not worth a bundle."""
    batch = batch_size(calibrated.graph, calibrated.spec, 1)
    try:
        runner = session(model)
        wanted = {value.name for value in runner.get_inputs()}
        first = next(sample_batches(calibrated.folder, calibrated.sample, calibrated.spec, batch=batch))
        outputs = runner.run(None, {name: value for name, value in first.items() if name in wanted})
    except Exception as cause:  # onnxruntime has one exception type per status code
        raise ModelError(f"the INT8 model does not run in onnxruntime: {str(cause).splitlines()[0]}") from cause
    if any(np.isnan(values).any() for values in outputs if values.dtype.kind == "f"):
        raise ModelError("the INT8 model gives NaN; check the ranges in calibration.json")


def _range_entry(entry: Statistics, extent: Range, backend: BackendName) -> dict[str, object]:
    grid = activation_grid(extent, backend)
    return {
        "low": extent.low,
        "high": extent.high,
        "minimum": entry.histogram.minimum,
        "maximum": entry.histogram.maximum,
        "scale": grid.scale,
        "zero_point": grid.zero_point,
    }

"""From a float bundle and its calibration set to the INT8 model of one backend."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from calibration.collect import Batch, CollectOptions, Statistics, batched, channel_extents, collect, session
from calibration.equalise import equalise
from calibration.graph import Graph, load, prepare
from calibration.observers import Method, Range, observe
from calibration.placement import Placement, PlacementOptions, place
from calibration.render import BackendName, activation_grid, render
from calibration.sampling import FORMAT, VERSION, Sample, read_checked, read_record, read_sample
from edgedet import BackendError, InvalidInputError, ModelError, preprocess
from edgedet.bundle import add_json, add_model, load_model_json

Stage = Literal["ranges of channels", "ranges of tensors"]

# Backends of `edgedet` that an INT8 model is written for.
BACKENDS: tuple[BackendName, ...] = ("openvino",)
# Images that decide the factors of the equalisation; more change them in the second digit only.
_EQUALISE_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How the INT8 model is made.

    Attributes:
        observer: method that reads the range of a tensor from its histogram.
        percentile: share of values kept by the `percentile` observer, percent.
        alpha: strength of the channel equalisation, 0 (off) to 1.
        correct_bias: take the mean error of rounded weights back in the bias.
        placement: which layers.
        collect: batch, memory bound and threads.
    """

    observer: Method = "percentile"
    percentile: float = 99.99
    alpha: float = 0.5
    correct_bias: bool = True
    placement: PlacementOptions = field(default_factory=PlacementOptions)
    collect: CollectOptions = field(default_factory=CollectOptions)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.0 <= self.alpha <= 1.0:
            raise InvalidInputError(f"expected alpha in [0, 1], got {self.alpha}")


@dataclass(frozen=True)
class Quantized:
    """What `quantize` made.

    Attributes:
        file: name of the model in the bundle.
        placement: what runs in int8 and what does not, with reasons.
        ranges: range of every quantised tensor.
    """

    file: str
    placement: Placement
    ranges: dict[str, Range]


def quantize(
    bundle: Path,
    *,
    backend: BackendName,
    options: QuantizeOptions,
    images: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
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
    if backend not in BACKENDS:
        raise BackendError(f"expected a backend of {', '.join(BACKENDS)}, got '{backend}'")
    spec = load_model_json(bundle)
    sample = read_sample(bundle)
    folder = images or Path(sample.directory)
    float_file = bundle / float_model(spec, backend)
    graph = prepare(load(float_file))
    placement = place(graph, options.placement)
    if not placement.layers:
        reasons = "; ".join(sorted({kept.reason for kept in placement.kept})) or "it has no Conv or MatMul with weights"
        raise ModelError(f"{float_file}: expected layers to quantise, got none ({reasons})")
    batch = _batch_size(graph, spec, options.collect.batch)
    settings = CollectOptions(batch=batch, memory_mb=options.collect.memory_mb, threads=options.collect.threads)

    def batches(limit: int) -> Callable[[], Iterator[Batch]]:
        return lambda: _batches(folder, sample, spec, batch=batch, limit=limit)

    factors = 0
    if options.alpha > 0.0:
        count = min(_EQUALISE_IMAGES, len(sample.images))
        extents = channel_extents(
            graph.model,
            placement.activations,
            batches(count),
            options=settings,
            advance=_counter(progress, "ranges of channels", count),
        )
        factors = equalise(graph, placement, extents, alpha=options.alpha)
        placement = place(graph, options.placement)  # the weights have new names
    statistics = collect(
        graph.model,
        placement.activations,
        batches(len(sample.images)),
        options=settings,
        advance=_counter(progress, "ranges of tensors", len(sample.images)),
    )
    ranges = {
        name: observe(entry.histogram, options.observer, percentile=options.percentile)
        for name, entry in statistics.items()
    }
    means = {name: entry.channel_means for name, entry in statistics.items()} if options.correct_bias else None
    model = render(graph, placement, ranges, backend, means=means)
    _check_runs(model, batches(1))
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model.onnx"
        onnx.save(model, str(target))
        file = add_model(bundle, "int8", backend, target)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "sample": sample.to_json(),
        "quantization": {
            "backend": backend,
            "observer": options.observer,
            "percentile": options.percentile if options.observer == "percentile" else None,
            "alpha": options.alpha,
            "factors": factors,
            "correct_bias": options.correct_bias,
            "placement": asdict(options.placement),
            "float_sha256": spec["files"][float_file.name]["sha256"],
            "int8_sha256": load_model_json(bundle)["files"][file]["sha256"],
            "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
            "ranges": {name: _range_entry(statistics[name], ranges[name], backend) for name in placement.activations},
            "layers": [asdict(layer) for layer in placement.layers],
            "kept_float": [asdict(kept) for kept in placement.kept],
        },
    }
    add_json(bundle, "calibration.json", record)
    return Quantized(file, placement, ranges)


def record_sample(bundle: Path, sample: Sample) -> None:
    """Write a set into a bundle's calibration.json. Ranges of an earlier set go: they are not this set's."""
    load_model_json(bundle)
    read_record(bundle)
    add_json(bundle, "calibration.json", {"format": FORMAT, "version": VERSION, "sample": sample.to_json()})


def float_model(spec: Mapping[str, Any], backend: str) -> str:
    """File name of the float model that `backend` runs."""
    files: Mapping[str, str] = spec["models"]["fp32"]
    return files[backend] if backend in files else files["*"]


def network_input(image: npt.NDArray[np.uint8], spec: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """The runtime's own preprocessing of an (H, W, 3) RGB image: (3, height, width) float32."""
    how = spec["input"]
    tensor: npt.NDArray[np.float32] = preprocess(
        image,
        width=how["width"],
        height=how["height"],
        resize=how["resize"],
        filter=how["filter"],
        channels=how["channels"],
        mean=tuple(how["mean"]),
        std=tuple(how["std"]),
        pad_value=how["pad_value"],
    )
    return tensor


def network_feed(tensors: npt.NDArray[np.float32], spec: Mapping[str, Any]) -> Batch:
    """What the network is fed for (N, 3, height, width) inputs: them, and the size where it asks for one."""
    how = spec["input"]
    feed: dict[str, npt.NDArray[np.generic]] = {how["name"]: tensors}
    if size_input := spec["output"].get("size_input"):
        feed[size_input] = np.tile(np.array([how["width"], how["height"]], np.int64), (len(tensors), 1))
    return feed


def _batches(folder: Path, sample: Sample, spec: Mapping[str, Any], *, batch: int, limit: int) -> Iterator[Batch]:
    tensors = (network_input(read_checked(folder, image), spec) for image in sample.images[:limit])
    for stacked in batched(tensors, batch):
        yield network_feed(stacked, spec)


def _batch_size(graph: Graph, spec: Mapping[str, Any], wanted: int) -> int:
    name = spec["input"]["name"]
    image = next((value for value in graph.model.graph.input if value.name == name), None)
    if image is None:
        raise ModelError(f"expected an input '{name}' as model.json says, got none in the graph")
    fixed = image.type.tensor_type.shape.dim[0].dim_value
    return int(fixed) if fixed else wanted


def _check_runs(model: onnx.ModelProto, batches: Callable[[], Iterator[Batch]]) -> None:
    """One run in onnxruntime: a model that cannot even run there, or gives NaN, is not worth a bundle."""
    try:
        runner = session(model)
        wanted = {value.name for value in runner.get_inputs()}
        feed = {name: value for name, value in next(batches()).items() if name in wanted}
        outputs = runner.run(None, feed)
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


def _counter(progress: Callable[[str, int, int], None], stage: Stage, total: int) -> Callable[[int], None]:
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        progress(stage, min(done, total), total)

    progress(stage, 0, total)
    return advance

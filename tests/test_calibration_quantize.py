"""Calibrating a bundle: interrupted and repeated, with other observers, for several backends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from cell_world import make_bundle, make_images, make_model

import calibration.memory as memory_module
from calibration import calibrate as calibrate_module
from calibration.calibrate import calibrate, work_folder
from calibration.collect import Batch, CollectOptions
from calibration.inputs import sample_batches
from calibration.observers import METHODS, Histogram, observe
from calibration.placement import PlacementOptions
from calibration.quantize import QuantizeOptions, build, quantize, record_sample
from calibration.sampling import draw
from edgedet import InvalidInputError, ModelError
from edgedet.bundle import load_model_json

ONE_THREAD = CollectOptions(threads=1, batch=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float bundle with a recorded set of ten images."""
    root = tmp_path_factory.mktemp("bundle")
    make_images(root / "train", 10, seed=1)
    bundle = make_bundle(root / "cells", make_model(root / "model.onnx"))
    record_sample(bundle, draw(root / "train", count=10, seed=0))
    return bundle


@pytest.fixture
def bundle(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "cells"))


def options(**changes: object) -> QuantizeOptions:
    return QuantizeOptions(**{"collect": ONE_THREAD, **changes})  # type: ignore[arg-type]


def model_bytes(bundle: Path, backend: str = "openvino") -> bytes:
    return (bundle / f"model.{backend}.int8.onnx").read_bytes()


def test_an_interrupted_calibration_goes_on_where_it_was(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(source, tmp_path / "whole"))
    quantize(whole, backend="openvino", options=options())
    monkeypatch.setattr(memory_module, "_SECONDS_BETWEEN", 0.0)
    passes = 0

    def stopping(*arguments: object, **named: object) -> Iterator[Batch]:
        nonlocal passes
        passes += 1
        for number, batch in enumerate(sample_batches(*arguments, **named)):  # type: ignore[arg-type]
            if passes == 2 and number == 3:  # the first pass is that of the equalisation
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(calibrate_module, "sample_batches", stopping)
    with pytest.raises(KeyboardInterrupt):
        quantize(bundle, backend="openvino", options=options())
    assert not (bundle / "model.openvino.int8.onnx").exists()
    (kept,) = work_folder(bundle).glob("statistics-*.npz")
    with np.load(kept) as stored:
        assert stored["images"] == 6
    told: list[tuple[str, int, int]] = []
    quantize(bundle, backend="openvino", options=options(), progress=lambda *step: told.append(step))
    assert told[-1] == ("ranges of tensors", 10, 10)
    assert model_bytes(bundle) == model_bytes(whole)


def test_another_observer_costs_no_second_pass(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize(bundle, backend="openvino", options=options(alpha=0.0))
    percentile = model_bytes(bundle)

    def refuse(*arguments: object, **named: object) -> Iterator[Batch]:
        raise AssertionError("the images were read again")

    monkeypatch.setattr(calibrate_module, "sample_batches", refuse)
    quantize(bundle, backend="openvino", options=options(alpha=0.0, observer="minmax"))
    assert model_bytes(bundle) != percentile
    with pytest.raises(AssertionError, match="read again"):  # other settings are another measurement
        quantize(bundle, backend="openvino", options=options(alpha=0.0, collect=CollectOptions(threads=1, batch=5)))


def test_a_damaged_memory_counts_as_none(bundle: Path) -> None:
    quantize(bundle, backend="openvino", options=options())
    before = model_bytes(bundle)
    for file in work_folder(bundle).glob("statistics-*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    quantize(bundle, backend="openvino", options=options())
    assert model_bytes(bundle) == before


def test_two_backends_share_one_record_of_ranges(bundle: Path) -> None:
    for backend in ("openvino", "tensorrt"):
        quantize(bundle, backend=backend, options=options())  # type: ignore[arg-type]
    recorded = json.loads((bundle / "calibration.json").read_text())["quantization"]
    assert sorted(recorded) == ["openvino", "tensorrt"]
    for name, extent in recorded["openvino"]["ranges"].items():
        other = recorded["tensorrt"]["ranges"][name]
        assert (extent["low"], extent["high"]) == (other["low"], other["high"])
        exact = max(-extent["low"], extent["high"]) / 127
        assert exact <= other["scale"] <= exact * (1 + 2**-10)  # the next half precision number
    assert sorted(load_model_json(bundle)["models"]["int8"]) == ["openvino", "tensorrt"]


def test_layers_left_in_float(bundle: Path) -> None:
    calibrated = calibrate(
        bundle, backend="openvino", alpha=0.5, placement=PlacementOptions(), collect_options=ONE_THREAD
    )
    first, second = (layer.node for layer in calibrated.placement.layers)
    made = build(calibrated, "openvino", options(keep_float=(first,)))
    assert [layer.node for layer in made.placement.layers] == [second]
    assert {kept.node: kept.reason for kept in made.placement.kept}[first] == "left in float by choice"
    quantised = [node.input[0] for node in made.model.graph.node if node.op_type == "QuantizeLinear"]
    assert quantised == [made.placement.layers[0].activation]
    with pytest.raises(ModelError, match="all of them are left in float"):
        build(calibrated, "openvino", options(keep_float=(first, second)))
    with pytest.raises(InvalidInputError, match="got 'nothing'"):
        build(calibrated, "openvino", options(keep_float=("nothing",)))


def test_the_average_observer_takes_the_mean_of_extents() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 3, 5)).astype(np.float32) * rng.uniform(0.5, 3, size=(12, 1, 1)).astype(np.float32)
    histogram = Histogram()
    for start in range(0, 12, 4):
        histogram.update(values[start : start + 4], groups=4)
    found = observe(histogram, "average")
    assert found.low == pytest.approx(values.min(axis=(1, 2)).mean(), rel=1e-6)
    assert found.high == pytest.approx(values.max(axis=(1, 2)).mean(), rel=1e-6)
    assert "average" in METHODS


def test_the_written_model_is_the_built_one(bundle: Path) -> None:
    made = quantize(bundle, backend="openvino", options=options())
    assert made.file == "model.openvino.int8.onnx"
    assert onnx.load(str(bundle / made.file)).graph == made.model.graph

"""Which form of deformable attention a bundle keeps, by stand-in engines, and the command `fuse`."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from cell_world import make_images
from test_deploy import small_config
from test_models import shaken

from calibration.cli import main
from calibration.fusion.choice import choose, faster, gather_file
from calibration.fusion.operator import OPERATOR
from calibration.inputs import float_model, fused_name, unfused_name
from calibration.quantize import record_sample
from calibration.sampling import draw
from edgedet import Detections, InvalidInputError, backends
from edgedet.bundle import InputSpec, add_model, load_model_json, name_model, set_best
from training.export import write_bundle_from_model
from training.models.detector import build

FRAMES = [np.zeros((8, 8, 3), np.uint8)]
FUSED = "model.tensorrt.fp16.fused.onnx"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with attention, a calibration set, and the float file as its model for TensorRT in half precision."""
    root = tmp_path_factory.mktemp("fusion")
    model = build(small_config("atto"))
    shaken(model)
    bundle = write_bundle_from_model(
        model,
        root / "bundle",
        name="atto",
        input=InputSpec(width=64, height=96),
        classes=list("abcde"),
        category_ids=list(range(5)),
        top_k=7,
        sampling="gather",
    )
    make_images(root / "train", 3, seed=1)
    record_sample(bundle, draw(root / "train", count=3, seed=0))
    add_model(bundle, "fp16", "tensorrt", bundle / "model.onnx")
    return bundle


@pytest.fixture
def bundle(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "bundle"))


class Engines:
    """Stand-ins for engines: milliseconds a frame, and how far the fused one's boxes are off."""

    def __init__(self, gather: float, fused: float, off: float = 0.0) -> None:
        self._ms = {"gather": gather, "fused": fused}
        self._off = off
        self.opened: list[tuple[str, str]] = []

    def __call__(self, bundle: Path, *, backend: str, precision: str) -> Any:
        assert (backend, precision) == ("tensorrt", "fp16")
        file = load_model_json(bundle)["models"]["fp16"]["tensorrt"]
        nodes = [node.op_type for node in onnx.load(bundle / file).graph.node]
        form = "fused" if OPERATOR in nodes else "gather"
        assert (form == "gather") == ("GatherND" in {node for node in nodes if nodes.count(node) > 1})
        self.opened.append((form, file))

        def run(frame: object) -> Detections:
            time.sleep(self._ms[form] / 1e3)
            shift = self._off if form == "fused" else 0.0
            boxes = np.array([[10 + shift, 10, 40 + shift, 40]], np.float32)
            return Detections(boxes, np.array([0.9], np.float32), np.array([0], np.int32), ("a",))

        return _Engine(run)


class _Engine:
    def __init__(self, run: Any) -> None:
        self._run = run
        self.info = SimpleNamespace(device="a stand-in, 1.0")

    def __call__(self, frame: object) -> Detections:
        found: Detections = self._run(frame)
        return found


def kept(bundle: Path) -> str:
    return str(load_model_json(bundle)["models"]["fp16"]["tensorrt"])


def test_the_rule() -> None:
    assert faster(10.0, 9.0, 0.0) == "fused"
    assert faster(10.0, 9.95, 0.0) == "gather", "within what noise does"
    assert faster(10.0, 12.0, 0.0) == "gather"
    assert faster(10.0, 5.0, 0.03) == "gather", "fast and wrong"
    assert faster(10.0, float("nan"), 0.0) == "gather"
    assert faster(10.0, 5.0, float("nan")) == "gather"


def test_the_faster_one_is_kept_and_both_are_recorded(bundle: Path) -> None:
    set_best(bundle, "tensorrt", "fp16")
    engines = Engines(gather=3.0, fused=1.0)
    found = choose(bundle, "fp16", FRAMES, seconds=0.0, engine=engines)
    assert engines.opened == [("gather", "model.tensorrt.fp16.onnx"), ("fused", FUSED)]
    assert (found.kept, kept(bundle)) == ("fused", FUSED)
    assert found.fused_ms < found.gather_ms
    assert "tensorrt" not in load_model_json(bundle).get("best", {}), "it was another file that was verified"
    record = json.loads((bundle / "calibration.json").read_text())
    assert record["fusion"]["fp16"]["gather_ms"] == found.gather_ms
    assert record["fusion"]["fp16"]["fused_ms"] == found.fused_ms
    assert record["fusion"]["fp16"]["device"] == "a stand-in, 1.0"
    assert record["sample"], "the rest of the record stays"

    # Another device measures something else: the gather form is still there, and comes back.
    again = choose(bundle, "fp16", FRAMES, seconds=0.0, engine=Engines(gather=1.0, fused=3.0))
    assert (again.kept, kept(bundle)) == ("gather", "model.tensorrt.fp16.onnx")
    assert again.source_sha256 == found.source_sha256


@pytest.mark.parametrize("engines", [Engines(1.0, 3.0), Engines(3.0, 1.0, off=5.0)], ids=["slower", "other boxes"])
def test_the_gather_form_stays(bundle: Path, engines: Engines) -> None:
    set_best(bundle, "tensorrt", "fp16")
    before = sorted(path.name for path in bundle.iterdir())
    assert choose(bundle, "fp16", FRAMES, seconds=0.0, engine=engines).kept == "gather"
    assert kept(bundle) == "model.tensorrt.fp16.onnx"
    assert load_model_json(bundle)["best"] == {"tensorrt": "fp16"}
    assert sorted(path.name for path in bundle.iterdir()) == before


def test_nothing_is_left_of_an_engine_that_fails(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    def fails(*arguments: object, **options: object) -> Any:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        choose(bundle, "fp16", FRAMES, seconds=0.0, engine=fails)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_names() -> None:
    for name in ("model.onnx", "model.tensorrt.fp16.onnx"):
        assert unfused_name(fused_name(name)) == unfused_name(name) == name
    assert fused_name("model.tensorrt.fp16.onnx") == FUSED
    spec = {"models": {"fp32": {"*": "model.onnx", "tensorrt": "model.fused.onnx"}}}
    assert float_model(spec, "tensorrt") == float_model(spec, "openvino") == "model.onnx"


def test_a_precision_that_is_not_there(bundle: Path) -> None:
    assert gather_file(bundle, "fp32") == "model.onnx"
    with pytest.raises(InvalidInputError, match="int8 model for tensorrt, got none; make one with "):
        gather_file(bundle, "int8")


def test_a_named_file_that_was_not_verified_is_not_best(bundle: Path) -> None:
    set_best(bundle, "tensorrt", "fp16")
    name_model(bundle, "fp16", "tensorrt", "model.tensorrt.fp16.onnx")
    assert load_model_json(bundle)["best"] == {"tensorrt": "fp16"}
    name_model(bundle, "fp16", "tensorrt", "model.onnx")
    assert load_model_json(bundle).get("best", {}) == {}


def test_the_command_writes_a_file(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fused.onnx"
    assert main(["fuse", str(bundle), "--out", str(out)]) == 0
    assert "3 attentions fused; not timed" in capsys.readouterr().out
    assert [node.op_type for node in onnx.load(out).graph.node].count(OPERATOR) == 3
    assert kept(bundle) == "model.tensorrt.fp16.onnx"


def test_the_command_without_tensorrt(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if next(entry for entry in backends() if entry["name"] == "tensorrt")["available"]:
        pytest.skip("TensorRT is here")
    assert main(["fuse", str(bundle)]) != 0
    told = capsys.readouterr().err
    assert "expected tensorrt, to time both forms on the device" in told
    assert "--out FILE" in told
    assert main(["fuse", str(bundle), "--count", "0"]) != 0
    assert "--count of at least 1" in capsys.readouterr().err


@pytest.mark.tensorrt
def test_the_command_on_a_device(bundle: Path) -> None:
    folder = bundle.parent / "train"
    make_images(folder, 3, seed=1)
    assert main(["fuse", str(bundle), "--precision", "fp32", "--images", str(folder), "--seconds", "1"]) == 0
    record = json.loads((bundle / "calibration.json").read_text())["fusion"]["fp32"]
    assert record["divergence"] < 0.02

"""The benchmark of TensorRT: its sums by hand, its record against crashes, its sections on the backend that is here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cell_world import make_bundle, make_images, make_model
from onnx import TensorProto, helper, numpy_helper

import edgedet
from benchmarks.cuda_frames.tools import Outcome, run_tool
from benchmarks.tensorrt import (
    __main__ as command,
)
from benchmarks.tensorrt import (
    accuracy,
    building,
    goals,
    models,
    oracle,
    other_programs,
    peers,
    plan,
    plugin,
    record,
    reference,
    report,
    runtime,
    speed,
    stress,
    supervise,
    thin,
)
from benchmarks.tensorrt.layers import layer_summary, why_not_faster
from benchmarks.tensorrt.models import Engine, Prepared
from benchmarks.tensorrt.plan import Clock
from benchmarks.tensorrt.record import NotMeasured
from benchmarks.tensorrt.runtime import Scene
from edgedet.bundle import add_model, load_model_json
from edgedet.coco_eval import load_annotations

ROOT = Path(__file__).resolve().parent.parent


# The plan


def test_time_is_shared_out_among_the_sections_that_run() -> None:
    whole = plan.allot(None, 10)
    assert [allotment.plan.name for allotment in whole] == list(plan.NAMES)
    assert whole[-1].until == pytest.approx(600)
    assert sum(section.share for section in plan.SECTIONS) == pytest.approx(1)
    (environment, speeds) = plan.allot(["speed", "environment"], 1)
    assert environment.until == pytest.approx(60 * 0.02 / 0.16)
    assert speeds.until == pytest.approx(60)
    text = plan.plan_text([environment, speeds], {"speed": 3})
    assert "speed        1:00" in text
    assert "(3 steps done)" in text
    assert "not measured" in text


def test_a_clock_counts_down() -> None:
    now = [10.0]
    clock = Clock(12.0, lambda: now[0])
    assert clock.left() == 2
    now[0] = 13
    assert clock.left() == 0


# The record


def row_of(file: Path, section: str, step: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(file.read_text())["sections"][section]["rows"][step]
    return row


def test_a_failing_step_stops_no_other_and_each_is_saved(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.json"
    seen: list[Any] = []

    def fails() -> dict[str, Any]:
        raise ValueError("broken")

    def lacks() -> dict[str, Any]:
        raise NotMeasured("no such thing")

    def works() -> dict[str, Any]:
        seen.append(row_of(file, "speed", "fails")["error"])
        return {"figure": 1}

    record.run_steps(file, "speed", {"fails": fails, "lacks": lacks, "works": works}, Clock(1e12), lambda text: None)
    assert seen == ["ValueError: broken"], "it was on the disk before the next began"
    assert "in fails" in row_of(file, "speed", "fails")["traceback"]
    assert row_of(file, "speed", "lacks")["skipped"] == "no such thing"
    assert list(record.measured(record.read_record(file), "speed")) == ["works"]


def test_a_second_run_does_only_what_is_left(tmp_path: Path) -> None:
    file, calls = tmp_path / "x.json", []

    def step(name: str, fail: bool = False) -> Any:
        def run() -> dict[str, Any]:
            calls.append(name)
            if fail:
                raise ValueError(name)
            return {}

        return run

    now = [0.0]

    def slow() -> dict[str, Any]:
        now[0] = 100.0
        return {}

    steps = {"done": step("done"), "error": step("error", fail=True), "slow": slow, "late": step("late")}
    record.run_steps(file, "speed", steps, Clock(50, lambda: now[0]), lambda text: None)
    assert row_of(file, "speed", "late") == {"skipped": "out of time"}
    assert calls == ["done", "error"]
    record.run_steps(file, "speed", steps, Clock(1e12), lambda text: None)
    assert calls == ["done", "error", "error", "late"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other", "sections": {}}', "{"])
def test_a_file_that_is_no_record_begins_anew(content: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    assert record.read_record(file)["sections"] == {}
    file.write_text(content)
    assert record.read_record(file)["sections"] == {}


CRASHES = """
import os, signal, sys, time
from pathlib import Path
from benchmarks.tensorrt.plan import Clock
from benchmarks.tensorrt.record import run_steps

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def leave():
    os._exit(7)

run_steps(Path(sys.argv[1]), "build", {"first": dict, "crash": crash, "leave": leave, "last": dict}, Clock(1e12))
"""


def test_a_crash_costs_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, starts = tmp_path / "x.json", []

    def child(arguments: Any, seconds: float) -> Outcome:
        starts.append(arguments[3:])
        return run_tool([sys.executable, "-c", CRASHES, str(file)], 60)

    monkeypatch.setattr(supervise, "run_tool", child)
    said: list[str] = []
    supervise.run_sections(file, plan.allot(["build"], 1), ["--out", "x"], 1e12, said.append)
    assert len(starts) == 3
    assert starts[0][:4] == ["--out", "x", "--child", "build"]
    rows = json.loads(file.read_text())["sections"]["build"]["rows"]
    assert list(rows) == ["first", "crash", "leave", "last"]
    assert rows["crash"]["error"] == "the process died of SIGSEGV"
    assert rows["leave"]["error"] == "the process ended with status 7"
    assert "error" not in rows["last"]
    assert any("crash: the process died of SIGSEGV" in line for line in said)
    # Another run tries them again, those alone.
    kept = record.read_record(file)
    kept["commands"].append("again")
    record.save_record(file, kept)
    supervise.run_sections(file, plan.allot(["build"], 1), [], 1e12, said.append)
    assert len(starts) == 6


def test_a_section_that_cannot_begin_has_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    monkeypatch.setattr(supervise, "run_tool", lambda *_: Outcome("one\nImportError: no such package\n", 1, 0.1))
    judged: list[Path] = []
    supervise.run_sections(file, plan.allot(["speed", "peers"], 1), [], 1e12, lambda text: None, judged.append)
    sections = json.loads(file.read_text())["sections"]
    assert sections["speed"]["error"] == "the process ended with status 1"
    assert sections["peers"]["output_tail"][-1] == "ImportError: no such package"
    assert judged == [file, file]
    assert supervise.ended_by(None).startswith("out of time")


# Weights that are not carried


def wide_model(path: Path) -> Path:
    """A weight to leave out, a table of the same size that is added, and a small weight."""
    random = np.random.default_rng(0)
    values = {
        "weight": random.normal(0.5, 2, (160, 160)).astype(np.float32),
        "table": random.normal(0, 1, (160, 160)).astype(np.float32),
        "small": random.normal(0, 1, (160, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["a"]),
        helper.make_node("Add", ["a", "table"], ["b"]),
        helper.make_node("MatMul", ["b", "small"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [160, 160])]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [160, 3])]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "wide", ports, out, tensors)), str(path))
    return path


def test_weights_come_back_with_the_same_distribution(tmp_path: Path) -> None:
    model = onnx.load(str(wide_model(tmp_path / "model.onnx")))
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    fillings = thin.strip(model)
    assert list(fillings) == ["weight"]
    assert model.ByteSize() < sum(value.nbytes for value in before.values())
    thin.fill(model, fillings)
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(after["table"], before["table"])
    assert after["weight"].shape == (160, 160)
    assert not np.array_equal(after["weight"], before["weight"])
    assert after["weight"].mean() == pytest.approx(before["weight"].mean(), abs=0.05)
    assert after["weight"].std() == pytest.approx(before["weight"].std(), rel=0.02)
    # In half precision and in int8 it is the same network, rounded.
    for numpy_kind, factor in ((np.float16, 1.0), (np.int8, 12.0)):
        other = onnx.load(str(tmp_path / "model.onnx"))
        typed = next(tensor for tensor in other.graph.initializer if tensor.name == "weight")
        typed.CopyFrom(numpy_helper.from_array((before["weight"] * factor).astype(numpy_kind), "weight"))
        scaled = thin.strip(other)
        thin.fill(other, {"weight": {key: value * factor for key, value in fillings["weight"].items()}})
        again = numpy_helper.to_array(next(t for t in other.graph.initializer if t.name == "weight"))
        assert again.dtype == numpy_kind
        np.testing.assert_allclose(again / factor, after["weight"], atol=0.05 if factor > 1 else 0.01)
        assert scaled["weight"]["std"] == pytest.approx(fillings["weight"]["std"] * factor, rel=0.05)


def test_a_thinned_bundle_is_restored_once_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thin, "_SMALLEST", 16)
    bundle = make_bundle(tmp_path / "bundle", make_model(tmp_path / "model.onnx"))
    thin.thin(bundle, tmp_path / "thin")
    left_out = json.loads((tmp_path / "thin" / thin.FILLINGS).read_text())["model.onnx"]
    assert left_out, "the model has weights"
    restored = thin.restore(tmp_path / "thin", tmp_path / "work" / "restored")
    document = load_model_json(restored)
    assert document["files"]["model.onnx"]["sha256"] != load_model_json(bundle)["files"]["model.onnx"]["sha256"]
    edgedet.Detector(restored, backend="openvino", threads=1)(np.zeros((48, 48, 3), np.uint8))
    stamp = (restored / "model.onnx").stat().st_mtime_ns
    thin.restore(tmp_path / "thin", tmp_path / "work" / "restored")
    assert (restored / "model.onnx").stat().st_mtime_ns == stamp


# Layers, and what is read of other programs


HALF_LAYERS = [
    {"name": "conv", "type": "CaskConvolution", "precision": "f16"},
    {"name": "shuffle", "type": "Shuffle", "precision": "f16"},
    {"name": "norm", "type": "Myelin", "precision": "f32"},
]
INT8_LAYERS = [
    {"name": "conv", "type": "CaskConvolution", "precision": "s8"},
    {"name": "conv2", "type": "CaskConvolution", "precision": "f32"},
    {"name": "Reformatting CopyNode for Input Tensor 0", "type": "Reformat", "precision": "f32"},
    {"name": "norm", "type": "Myelin", "precision": "f32"},
]


def test_layers_are_summed_up() -> None:
    half, int8 = layer_summary(HALF_LAYERS), layer_summary(INT8_LAYERS)
    assert (half["layers"], half["computing"], half["reformats"]) == (3, 2, 0)
    assert half["by_precision"] == {"f16": 1, "f32": 1}
    assert (int8["layers"], int8["computing"], int8["reformats"]) == (4, 3, 1)
    assert int8["by_precision"] == {"f32": 2, "s8": 1}
    found = why_not_faster(int8, half)
    assert found[0].startswith("1 of 3 computing layers read int8")
    assert "1 layers only change a format or type, 1 more" in found[1]
    assert found[2].startswith("2 layers run in float32 (1 in")
    timed = layer_summary([{**node, "milliseconds": "0.5"} for node in INT8_LAYERS])
    assert timed["milliseconds_by_precision"] == {"f32": 1.0, "s8": 0.5, "reformat": 0.5}
    assert layer_summary([])["layers"] == 0


TRTEXEC = """
[I] Latency: min = 1.1 ms, max = 2 ms, mean = 1.2 ms, median = 1.19 ms, percentile(99%) = 1.5 ms
[I] GPU Compute Time: min = 0.8125 ms, max = 1.2 ms, mean = 0.83 ms, median = 0.82 ms, percentile(99%) = 0.9 ms
"""


def test_trtexec_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert other_programs.parse_trtexec(TRTEXEC) == {"minimum": 0.8125, "p50": 0.82, "p99": 0.9}
    assert other_programs.parse_trtexec("no such line") == {}
    monkeypatch.setattr(other_programs, "find_trtexec", lambda: "trtexec")
    monkeypatch.setattr(other_programs, "run_tool", lambda *_: Outcome(TRTEXEC, 0, 1.0))
    assert other_programs.trtexec_times(tmp_path / "plan")["p50"] == 0.82
    monkeypatch.setattr(other_programs, "run_tool", lambda *_: Outcome("refused", 1, 1.0))
    with pytest.raises(RuntimeError, match="status 1: refused"):
        other_programs.trtexec_times(tmp_path / "plan")


def test_programs_are_looked_for_in_the_folder_of_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("TensorRT_ROOT", str(tmp_path))
    with pytest.raises(NotMeasured, match="no trtexec"):
        other_programs.find_trtexec()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "trtexec").touch()
    assert other_programs.find_trtexec() == str(tmp_path / "bin" / "trtexec")
    with pytest.raises(NotMeasured, match="compiler"):
        other_programs.compile_oracle(tmp_path / "work")


def test_what_the_oracle_writes_is_read(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    values.tofile(tmp_path / "logits.out")
    ran = other_programs.parse_oracle("logits float32 1 2 3\nmilliseconds 0.5\nmilliseconds 0.25\n", tmp_path)
    np.testing.assert_array_equal(ran.outputs["logits"], values)
    assert ran.milliseconds == [0.5, 0.25]
    found = oracle.compare({"logits": values}, ran.outputs)
    assert found["equal"]
    assert found["passed"]
    moved = oracle.compare({"logits": values + np.float32(0.1)}, ran.outputs)
    assert not moved["passed"]
    assert moved["difference"] == pytest.approx(0.1 / 5, rel=1e-4)
    with pytest.raises(RuntimeError, match="none named boxes"):
        oracle.compare({"logits": values, "boxes": values}, ran.outputs)


class FakeContext:
    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors, self.addresses, self.shape = tensors, {}, (0,)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (*self.shape[:1], 2)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        def view(name: str, count: int) -> Any:
            import ctypes

            kind = ctypes.c_float * count
            return np.frombuffer(kind.from_address(self.addresses[name]), np.float32)

        count = int(np.prod(self.shape))
        inputs = view("images", count).reshape(self.shape[0], -1)
        view("sums", 2 * self.shape[0]).reshape(-1, 2)[:] = inputs.sum(1, keepdims=True) * [1, 2]
        return True


def test_the_python_bindings_are_driven_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for TensorRT's Python bindings: a network that sums its input."""
    names = ["sums", "images"]  # outputs may come first

    class Engine:
        num_io_tensors = 2

        def get_tensor_name(self, index: int) -> str:
            return names[index]

        def get_tensor_mode(self, name: str) -> str:
            return "in" if name == "images" else "out"

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (-1, 3, 4) if name == "images" else (-1, 2)

        def get_tensor_dtype(self, name: str) -> str:
            return "FLOAT"

        def create_execution_context(self) -> FakeContext:
            return FakeContext({})

    class Runtime:
        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            return Engine() if plan == b"plan" else None

    class Logger:
        WARNING = 1

        def __init__(self, level: int) -> None:
            pass

    fake = types.SimpleNamespace(
        Runtime=Runtime, Logger=Logger, TensorIOMode=types.SimpleNamespace(INPUT="in"), nptype=lambda kind: np.float32
    )
    monkeypatch.setattr(other_programs, "package", lambda name: {"tensorrt": fake, "torch": torch}[name])
    (tmp_path / "plan").write_bytes(b"plan")
    runner = other_programs.PythonEngine(tmp_path / "plan", 2, device="cpu")
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    sums = images.reshape(2, -1).sum(1)
    np.testing.assert_array_equal(runner({"images": images})["sums"], np.stack([sums, 2 * sums], 1))
    (tmp_path / "plan").write_bytes(b"other")
    with pytest.raises(RuntimeError, match="refuse the plan"):
        other_programs.PythonEngine(tmp_path / "plan", 2, device="cpu")
    monkeypatch.undo()
    with pytest.raises(NotMeasured, match=r"not installed|no CUDA"):
        other_programs.PythonEngine(tmp_path / "plan", 1)


def test_plans_in_the_cache() -> None:
    entry = b"edgedet engine 1\n" + b"a" * 64 + b"0" * 16 + b"b" * 64 + b"the plan"
    assert runtime.plan_bytes(entry) == b"the plan"
    assert runtime.plan_bytes(b"the plan") == b"the plan"


# The sections, on the backend that is here


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two networks of trained weights: cells, and cells that answers otherwise."""
    folder = tmp_path_factory.mktemp("prepared")
    images = make_images(folder / "images", 5, seed=1)
    document: dict[str, Any] = {"format": models.FORMAT, "models": {}}
    for name, middle in (("femto", "plain"), ("atto", "sampled")):
        bundle = make_bundle(folder / name / "bundle", make_model(folder / f"{name}.onnx", middle=middle))
        for precision in ("fp16", "int8"):
            add_model(bundle, precision, "tensorrt", folder / f"{name}.onnx")
            add_model(bundle, precision, "openvino", folder / f"{name}.onnx")
        dataset = load_annotations(images / "instances.json")
        found, figures = reference.run_dataset(
            reference.onnxruntime_detector(bundle, threads=1), load_model_json(bundle), dataset, images
        )
        reference.save_reference(folder / name / "reference.npz", found, figures)
        document["models"][name] = {"trained": True, "bytes": models.folder_bytes(bundle), "side": 48}
    (folder / models.PREPARED).write_text(json.dumps(document))
    prepared = models.open_prepared(folder, folder / "work")
    return Scene(
        prepared=prepared,
        images=images,
        annotations=images / "instances.json",
        work=folder / "work",
        backend="openvino",
        scale=0.02,
        engines=building.engines(prepared.names),
    )


def test_engines_are_built_in_the_order_of_what_matters() -> None:
    names = tuple(model.name for model in models.MODELS)
    keys = [engine.key for engine in building.engines(names)]
    assert len(set(keys)) == len(keys)
    assert keys[:4] == ["femto fp32", "femto fp16", "femto int8", "atto fp32"]
    assert keys.index("rtdetrv2-r18 int8") < keys.index("femto int8 calibrator")
    assert "femto fp16 batch 8" in keys
    assert all(key.startswith("femto") for key in (e.key for e in building.engines(("femto",))))
    assert Engine("femto", "int8+fp16").precision == Engine("femto", "int8 calibrator").precision == "int8"


def test_reference_survives_the_disk(scene: Scene) -> None:
    bundle = scene.prepared.folder / "femto" / "bundle"
    classes = load_model_json(bundle)["classes"]
    found, ap = reference.load_reference(scene.prepared.reference("femto"), classes)
    detect = reference.onnxruntime_detector(bundle, threads=1)
    images = [edgedet.read_image(file) for file in sorted(scene.images.glob("*.png"))]
    assert all(stress.same(one, detect(image)) for one, image in zip(found, images, strict=True))
    assert 0 < ap <= 1


def test_build_and_accuracy_run(scene: Scene) -> None:
    row = building.build(scene, Engine("femto", "fp32"))
    assert row["seconds"] > 0
    assert row["layers"]["layers"] > 0
    assert row["megabytes"] > 0
    found = accuracy.accuracy(scene, Engine("femto", "fp32"))
    assert found["images"] == 5
    assert abs(found["drop"]) < 1e-3
    assert found["boxes"]["matched"] == 1
    steps = accuracy.steps(scene)
    assert "femto fp16" in steps
    assert "verify atto int8" in steps
    assert "femto fp16 batch 8" not in steps


def test_verify_is_run_as_a_user_does(scene: Scene) -> None:
    built = runtime.cache_of(scene, Engine("femto", "int8")) / "name.engine"
    built.parent.mkdir(parents=True)
    built.write_bytes(b"an engine")
    row = accuracy.verdict(scene, "femto", "int8")
    shutil.rmtree(built.parent)
    assert (scene.work / "cache" / "edgedet" / "name.engine").read_bytes() == b"an engine"
    # The stand-in for an int8 model is the float one, never calibrated: refused, with a report or one line.
    assert row["status"] in (1, 2)
    assert "verdict" in row or "error" in row


def test_speed_says_what_is_missing(scene: Scene) -> None:
    row = speed.speed(scene, Engine("femto", "fp32"))
    assert row["milliseconds"][speed.HOST]["count"] == 16
    assert set(row["not_measured"]) == {speed.DEVICE}
    assert "CUDA" in row["not_measured"][speed.DEVICE]
    assert "CUDA" in row["stages"]["not_measured"]
    assert row["resident_bytes"] > 2**20


def test_turns_rotate() -> None:
    order: list[str] = []

    def way(name: str) -> Any:
        def run(calls: int) -> list[float]:
            order.append(name)
            return [1.0] * calls

        return run

    times = speed.in_turns({name: way(name) for name in "abc"}, rounds=2, calls=2, warmup=1)
    assert "".join(order) == "abc" + "abc" + "bca"
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_stress_runs(scene: Scene) -> None:
    steps = stress.steps(scene)
    threads = ("four threads, a detector each", "eight threads, one detector")
    for name in (*threads, "several engines", "swap under traffic"):
        assert steps[name]()["passed"], name
    with pytest.raises(NotMeasured):
        steps["memory limit"]()
    row = stress.flatness(lambda image: None, [np.zeros((4, 4, 3), np.uint8)], frames=100, warmup=10)  # type: ignore[arg-type,return-value]
    assert row["samples"] == 100
    assert row["passed"]


def test_a_swap_is_judged(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a detector that swaps by being made anew."""
    inner: dict[str, Any] = {}

    class Swapping:
        def __init__(self, detector: edgedet.Detector, *, broken: bool = False) -> None:
            self.detector, self.broken = detector, broken

        def __call__(self, image: Any) -> Any:
            return self.detector(image)

        def swap(self, bundle: Path) -> None:
            if not self.broken:
                self.detector = edgedet.Detector(bundle, backend="openvino", threads=1)

    opened = runtime.open_detector

    def open_swapping(*arguments: Any, **options: Any) -> Swapping:
        inner["last"] = Swapping(opened(*arguments, **options), broken=inner["broken"])
        return inner["last"]  # type: ignore[no-any-return]

    monkeypatch.setattr(stress, "open_detector", open_swapping)
    for broken in (False, True):
        inner["broken"] = broken
        row = stress.swap_under_traffic(scene, Engine("femto", "fp16"))
        assert row["passed"] is not broken
        assert row["answers"]["neither"] == 0


def test_peers_that_are_not_here_have_the_reason(scene: Scene) -> None:
    row = peers.compare(scene, Engine("femto", "fp32"))
    assert row["ways"][peers.EDGEDET]["ratio_of_medians"] == 1
    assert set(row["not_measured"]) == {
        "OpenCV + TensorRT Python",
        "torch + TensorRT Python",
        "OpenCV + onnxruntime-gpu, float32",
    }
    assert "CUDA" in row["not_measured"]["OpenCV + onnxruntime-gpu, float32"]


def test_the_opencv_way_detects_what_edgedet_detects(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = scene.prepared.folder / "femto" / "bundle"
    session = reference.cpu_session(bundle / "model.onnx", 1)
    names = [output.name for output in session.get_outputs()]
    monkeypatch.setattr(
        peers, "_onnxruntime", lambda *_: lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))
    )
    row = peers.compare(scene, Engine("femto", "fp32"))
    assert row["ways"]["OpenCV + onnxruntime-gpu, float32"]["boxes"]["matched"] == 1


def test_plugin_and_oracle_are_left_out_without_theirs(scene: Scene) -> None:
    for step in plugin.steps(scene).values():
        with pytest.raises(NotMeasured, match="samples by gathers"):
            step()
    found = oracle.steps(scene)
    assert "femto fp32: C++" in found
    with pytest.raises(NotMeasured, match="no libnvinfer"):
        found["femto fp32: C++"]()


def test_fused_attention_is_compared(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another network stands in for the one with the plugin."""
    opened = runtime.open_detector

    def open_either(scene: Scene, engine: Engine, **options: Any) -> edgedet.Detector:
        return opened(scene, Engine("atto", engine.variant) if "bundle" in options else engine)

    monkeypatch.setattr(plugin, "fused_bundle", lambda bundle, precision, folder: bundle)
    monkeypatch.setattr(plugin, "open_detector", open_either)
    row = plugin.compare(scene, Engine("femto", "fp16"))
    assert row["fused_of_gather"] > 0
    assert set(row["milliseconds"]) == {"gather", "fused"}
    found = synthetic()
    found["sections"]["plugin"]["rows"] = {"femto": {**row, "fused_of_gather": 1.1}}
    assert goals.goals(found)[-2].verdict == "missed"
    monkeypatch.setattr(plugin, "open_detector", lambda scene, engine, **_: opened(scene, engine))
    with pytest.raises(NotMeasured, match="same bits"):
        plugin.compare(scene, Engine("femto", "fp16"))


# Goals and the report


def synthetic() -> dict[str, Any]:
    """A run in which something is met, something missed and something not there."""

    def times(p50: float) -> dict[str, float]:
        return {"p50": p50, "p99": p50 * 1.2, "minimum": p50 * 0.9, "count": 10}

    def speed_row(device: float, engine: float) -> dict[str, Any]:
        return {
            "milliseconds": {speed.DEVICE: times(device), speed.HOST: times(device * 2), speed.ENGINE: times(engine)},
            "of_engine": {speed.DEVICE: device / engine, speed.HOST: 2 * device / engine},
            "not_measured": {},
            "stages": {"preprocess": times(12), "decode": times(9)},
            "device_bytes": 2**27,
        }

    def accuracy_row(ap: float) -> dict[str, Any]:
        boxes = {"matched": 0.99, "box_mean_px": 0.1, "box_p95_px": 0.4}
        return {"AP": ap, "reference_AP": 0.34, "drop": 0.34 - ap, "boxes": boxes, "images": 328, "figures": {}}

    line = {"total": 1000.0, "total_error": 10.0}
    build = {"seconds": 30.0, "open_seconds": 0.2, "megabytes": 9.0}
    rows = {
        "environment": {"tensorrt": {"backend": "TensorRT 8.6.0 on A GPU"}, "machine": {"cuda_runtime": "13.0"}},
        "build": {
            "femto fp16": {**build, "layers": layer_summary(HALF_LAYERS)},
            "rtdetrv2-r18 fp16": {**build, "layers": layer_summary(HALF_LAYERS)},
            "rtdetrv2-r18 int8": {**build, "layers": layer_summary(INT8_LAYERS)},
            "atto fp16": {"error": "BackendError: out of memory\nmore"},
        },
        "accuracy": {
            "femto fp32": accuracy_row(0.3401),
            "femto fp16": accuracy_row(0.3429),
            "femto int8": accuracy_row(0.33),
            "verify femto fp16": {"verdict": {"passed": True, "reasons": []}},
            "verify femto int8": {"verdict": {"passed": False, "reasons": ["AP fell"]}},
        },
        "speed": {
            "femto fp16": speed_row(1.07, 1.0),
            "femto fp32": speed_row(1.2, 1.0),
            "rtdetrv2-r18 fp16": speed_row(3.1, 3.0),
            "rtdetrv2-r18 int8": speed_row(3.6, 3.5),
        },
        "oracle": {"femto fp32: C++": {"equal": True, "difference": 0.0, "passed": True}},
        "stress": {
            "eight threads, one detector": {"wrong": 1, "passed": False},
            "10000 frames": {"frames": 10_000, "limit_bytes": 8 * 2**20, "resident_bytes": line, "passed": True},
            "memory limit": {"most_bytes": 2**30, "limit_bytes": 2**32, "passed": True},
        },
        "plugin": {"femto": {"skipped": "this edgedet has no plugin"}},
        "peers": {
            "femto fp16": {
                "ways": {
                    "edgedet": {"milliseconds": times(1), "ratio_of_medians": 1.0, "boxes": {"matched": 1.0}},
                    "other": {"milliseconds": times(4), "ratio_of_medians": 4.0, "boxes": {"matched": 0.97}},
                },
                "not_measured": {"missing": "not installed"},
            },
            "femto fp16: engine alone": {"milliseconds": {"edgedet": times(0.9), "trtexec": {"skipped": "nowhere"}}},
        },
    }
    sections = {
        name: {"rows": {step: {**row, "step_seconds": 1.0} for step, row in rows.items()}}
        for name, rows in rows.items()
    }
    return {"format": record.FORMAT, "commands": ["python -m benchmarks.tensorrt ..."], "sections": sections}


def test_verdicts() -> None:
    found = {goal.text: goal for goal in goals.goals(synthetic())}
    assert found["femto fp32: AP within 0.003 of onnxruntime FP32"].verdict == "met"
    assert "0.3401 against 0.3400 (+0.0001), 328 images" in found["femto fp32: AP within 0.003 of onnxruntime FP32"].got
    assert found["femto fp16: AP within 0.003 of onnxruntime FP32"].verdict == "met"
    assert found["femto int8: AP within 0.005 of onnxruntime FP32"].verdict == "missed"
    assert found["atto int8: AP within 0.005 of onnxruntime FP32"].verdict == "not measured"
    end_to_end = {text: goal for text, goal in found.items() if "device frame" in text}
    assert [goal.verdict for goal in end_to_end.values()] == ["missed", "met", *["not measured"] * 4]
    int8 = found["rtdetrv2-r18: INT8 faster than FP16, or why not from the layer information"]
    assert int8.verdict == "met"
    assert any("computing layers read int8" in note for note in int8.why)
    assert any("tried: int8 3.500 ms" in note for note in int8.why)
    assert found["femto: `calibration verify --backend tensorrt` runs on the engines"].got.endswith("AP fell")
    assert found["eight threads, one detector: the detections of one thread alone"].verdict == "missed"
    assert found["10000 frames leave memory flat, limit 8 MiB"].verdict == "met"
    assert found["a memory limit of 4 GiB holds in build and run"].got == "1024 of 4096 MiB"
    assert found["four threads, a detector each"].got == "did not run"
    assert found["the tests that need TensorRT pass"].got == "section tests did not run"
    plain = found["fused deformable attention is faster than gather end to end"]
    assert (plain.verdict, plain.got) == ("not measured", "this edgedet has no plugin")
    assert goals.proofs_failed(synthetic())
    assert not goals.proofs_failed({"sections": {}})
    assert all(goal.verdict == "not measured" for goal in goals.goals({"sections": {}}))


def test_int8_without_a_reason_is_missed() -> None:
    found = synthetic()
    del found["sections"]["build"]
    int8 = next(goal for goal in goals.goals(found) if goal.text.startswith("rtdetrv2-r18: INT8"))
    assert int8.verdict == "missed"
    faster = synthetic()
    faster["sections"]["speed"]["rows"]["rtdetrv2-r18 int8"]["milliseconds"][speed.ENGINE]["p50"] = 2.0
    int8 = next(goal for goal in goals.goals(faster) if goal.text.startswith("rtdetrv2-r18: INT8"))
    assert (int8.verdict, int8.why) == ("met", ())


def test_the_report_has_everything(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    record.save_record(file, synthetic())
    words = ["--markdown", str(tmp_path / "x.md"), "--plot", str(tmp_path / "x.png")]
    assert command.main(["report", str(file), *words]) == 0
    text = (tmp_path / "x.md").read_text()
    for part in (
        "# TensorRT on TensorRT 8.6.0 on A GPU, CUDA 13.0",
        "- **missed**: femto int8: AP within 0.005",
        "| femto fp32 | 0.3401",
        "| femto fp16 |",
        "BackendError: out of memory",
        "refused: AP fell",
        "femto fp16, missing: not installed",
        "trtexec: nowhere",
        "- eight threads, one detector: wrong 1, passed False",
        "    python -m benchmarks.tensorrt ...",
    ):
        assert part in text, part
    assert "out of memory\nmore" not in text
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert report.points(synthetic()) == {"femto fp32": (1.2, 0.3401), "femto fp16": (1.07, 0.3429)}
    record.save_record(tmp_path / "none.json", {"format": record.FORMAT, "sections": {}})
    report.markdown(record.read_record(tmp_path / "none.json"))
    assert command.main(["report", str(tmp_path / "none.json")]) == 2


# The command


@pytest.mark.skipif(
    next(entry for entry in edgedet.backends() if entry["name"] == "tensorrt")["available"],
    reason="TensorRT is available here",
)
def test_without_a_device_it_ends_with_the_reason(tmp_path: Path) -> None:
    arguments = ["--models", "none", "--images", "none", "--annotations", "none", "--out", str(tmp_path / "x.json")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tensorrt", *arguments],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: expected TensorRT on a CUDA device, got: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "x.json").exists()


def test_a_folder_that_was_not_prepared_is_refused(tmp_path: Path) -> None:
    for content in (None, "{", "[]", '{"format": 99, "models": {}}'):
        if content is not None:
            (tmp_path / models.PREPARED).write_text(content)
        with pytest.raises(edgedet.InvalidInputError, match="expected what `prepare` writes"):
            models.open_prepared(tmp_path, tmp_path / "work")


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "1e9"])
def test_options_out_of_range(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--models", "a", "--images", "b", "--annotations", "c", "--out", "d", "--budget-minutes", minutes]
    with pytest.raises(SystemExit) as caught:
        command.main(words)
    assert caught.value.code == 2
    assert "--budget-minutes" in capsys.readouterr().err


@pytest.mark.parametrize("name", plan.NAMES)
def test_every_section_has_steps(name: str, scene: Scene) -> None:
    assert command.section_steps(name)(scene)


def test_a_run_from_end_to_end(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command with its processes replaced by calls, on the backend that is here."""
    out = tmp_path / "x.json"

    def child(arguments: Any, seconds: float) -> Outcome:
        options = command._run_parser().parse_args([str(word) for word in arguments[3:]])
        assert options.seconds <= 60
        record.run_steps(
            out, options.child, command.section_steps(options.child)(scene), Clock(1e12), lambda text: None
        )
        return Outcome("  said\n", 0, 1.0)

    monkeypatch.setattr(supervise, "run_tool", child)
    monkeypatch.setattr(runtime, "need_backend", lambda: "a stand-in")
    words = ["--models", str(scene.prepared.folder), "--images", str(scene.images)]
    words += ["--annotations", str(scene.annotations), "--out", str(out), "--budget-minutes", "1"]
    assert command.main([*words, "--only", "build", "plugin"]) == 0
    found = json.loads(out.read_text())
    assert set(found["sections"]) == {"build", "plugin"}
    assert found["goals"][0]["verdict"] == "not measured"
    assert "femto" in found["prepared"]
    assert command.main([*words, "--only", "plugin"]) == 0
    assert len(json.loads(out.read_text())["commands"]) == 2


def test_prepared_knows_its_bundles(scene: Scene, tmp_path: Path) -> None:
    prepared = Prepared(scene.prepared.folder, tmp_path, scene.prepared.document)
    assert prepared.bundle(Engine("femto", "fp16")) == prepared.folder / "femto" / "bundle"
    assert prepared.bundle(Engine("femto", "int8+fp16")).name == "typed"
    shutil.rmtree(tmp_path, ignore_errors=True)

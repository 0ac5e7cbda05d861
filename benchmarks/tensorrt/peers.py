"""`peers`: a 1080p frame in host memory to detections, edgedet and what people write, on the same GPU, by turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cuda_frames.figures import summary
from benchmarks.cuda_frames.record import told
from benchmarks.tensorrt.models import Engine
from benchmarks.tensorrt.other_programs import PythonEngine, compile_oracle, package, run_oracle, trtexec_times
from benchmarks.tensorrt.record import NotMeasured, Row, Step, run_step
from benchmarks.tensorrt.reference import decoded
from benchmarks.tensorrt.runtime import Scene, network_times, open_detector, photos, plan_file
from benchmarks.tensorrt.speed import in_turns, wall
from calibration.inputs import float_model, network_feed, network_input
from edgedet import Detections
from edgedet.bundle import load_model_json
from edgedet.matching import drift

Frame = NDArray[np.uint8]
Detect = Callable[[Frame], Any]
WIDTH, HEIGHT = 1920, 1080
EDGEDET = "edgedet"


def steps(scene: Scene) -> dict[str, Step]:
    chosen = [engine for engine in scene.engines if engine.batch == 1 and engine.variant in ("fp32", "fp16")]
    frames: dict[str, Step] = {engine.key: _step(scene, engine, compare) for engine in chosen}
    return frames | {f"{engine.key}: engine alone": _step(scene, engine, engine_alone) for engine in chosen}


def _step(scene: Scene, engine: Engine, run: Callable[[Scene, Engine], Row]) -> Step:
    return lambda: run(scene, engine)


def compare(scene: Scene, engine: Engine) -> Row:
    """Milliseconds of each way, their medians against edgedet's, and whether it finds what edgedet finds."""
    import cv2

    frame = np.ascontiguousarray(cv2.resize(photos(scene, 1)[0][..., ::-1], (WIDTH, HEIGHT)), np.uint8)
    detector = open_detector(scene, engine)
    spec = detector.info.spec
    ways: dict[str, Detect] = {EDGEDET: lambda frame: detector(frame, format="bgr")}
    reasons: dict[str, str] = {}
    makers: dict[str, Callable[[], Detect]] = {
        "OpenCV + TensorRT Python": lambda: _opencv(spec, _python_engine(scene, engine)),
        "torch + TensorRT Python": lambda: _torch(spec, PythonEngine(plan_file(scene, engine), 1)),
        "OpenCV + onnxruntime-gpu, float32": lambda: _opencv(spec, _onnxruntime(scene, engine)),
    }
    for name, make in makers.items():
        way = _works(make, frame)
        if isinstance(way, str):
            reasons[name] = way
        else:
            ways[name] = way
    times = in_turns(
        {name: _calls(way, frame) for name, way in ways.items()},
        rounds=scene.count(10),
        calls=scene.count(20),
        warmup=scene.count(10),
    )
    base = statistics.median(times[EDGEDET])
    ours = detector(frame, format="bgr")
    found = {
        name: {
            "milliseconds": summary(values),
            "ratio_of_medians": statistics.median(values) / base,
            "boxes": drift([ours], [_as_detections(ways[name](frame), spec)]).to_json(),
        }
        for name, values in times.items()
    }
    return {"ways": found, "not_measured": reasons}


def engine_alone(scene: Scene, engine: Engine) -> Row:
    """The network alone, on the same plan: edgedet's replay, trtexec's, and oracle.cpp's."""
    plan = plan_file(scene, engine)
    spec = load_model_json(scene.prepared.bundle(engine))
    feed = network_feed(network_input(photos(scene, 1)[0], spec)[None], spec)
    found: dict[str, Row] = {
        "edgedet": run_step(lambda: summary(network_times(open_detector(scene, engine), batch=1, calls=200))),
        "trtexec": run_step(lambda: dict(trtexec_times(plan))),
        "oracle.cpp": run_step(
            lambda: summary(
                run_oracle(compile_oracle(scene.work), plan, feed, scene.work / "oracle.values", calls=200).milliseconds
            )
        ),
    }
    return {"milliseconds": found}


def _works(make: Callable[[], Detect], frame: Frame) -> Detect | str:
    """The way, once it has detected on the frame; or why there is none."""
    try:
        way = make()
        way(frame)
    except NotMeasured as reason:
        return str(reason)
    except Exception as error:  # a peer that fails is a finding
        return told(error)
    return way


def _calls(way: Detect, frame: Frame) -> Callable[[int], list[float]]:
    return lambda calls: wall(lambda: way(frame), calls)


def _as_detections(found: Any, spec: dict[str, Any]) -> Detections:
    if isinstance(found, Detections):
        return found
    rows = np.asarray(found, np.float32).reshape(-1, 6)  # xyxy, score, label
    labels = rows[:, 5].astype(np.int32)
    names = [spec["classes"][label] for label in labels.tolist()]
    return Detections(np.ascontiguousarray(rows[:, :4]), np.ascontiguousarray(rows[:, 4]), labels, names)


def _python_engine(scene: Scene, engine: Engine) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return PythonEngine(plan_file(scene, engine), 1)


def _onnxruntime(scene: Scene, engine: Engine) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    onnxruntime = package("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise NotMeasured("this onnxruntime has no CUDA; onnxruntime-gpu has")
    bundle = scene.prepared.bundle(engine)
    file = bundle / float_model(load_model_json(bundle), "tensorrt")
    session = onnxruntime.InferenceSession(str(file), providers=["CUDAExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))


def _opencv(spec: dict[str, Any], run: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Detect:
    """cv2.resize, NumPy normalisation and transpose, the network, NumPy decoding: what a script does."""
    import cv2

    how, out = spec["input"], spec["output"]
    mean, std = (np.array(how[key], np.float32) for key in ("mean", "std"))

    def detect(frame: Frame) -> Detections:
        small = cv2.cvtColor(cv2.resize(frame, (how["width"], how["height"])), cv2.COLOR_BGR2RGB)
        levels = (small.astype(np.float32) / np.float32(255) - mean) / std
        tensor = np.ascontiguousarray(levels.transpose(2, 0, 1)[None])
        outputs = run(network_feed(tensor, spec))
        keys = ("logits", "boxes") if out["form"] == "logits_boxes" else ("labels", "boxes", "scores")
        return decoded([outputs[out[key]][0] for key in keys], spec, frame.shape[1], frame.shape[0])

    return detect


def _torch(spec: dict[str, Any], engine: PythonEngine) -> Detect:
    """Upload, torch preprocessing, the network and torch decoding on the device, one copy back."""
    import torch

    from benchmarks.cuda_frames.torch_peer import ToHost, decode

    how, out = spec["input"], spec["output"]
    if out["form"] != "logits_boxes":
        raise NotMeasured("the torch way is written for networks with raw outputs")
    side = (how["height"], how["width"])
    mean, std = (torch.tensor(how[key], device="cuda").view(3, 1, 1) for key in ("mean", "std"))
    size = torch.tensor([WIDTH, HEIGHT] * 2, dtype=torch.float32, device="cuda")
    to_host = ToHost()

    def detect(frame: Frame) -> Any:
        planes = torch.from_numpy(frame).cuda().permute(2, 0, 1).flip(0)[None].float()
        small = torch.nn.functional.interpolate(planes, side, mode="bilinear")
        engine.inputs[how["name"]].copy_((small / 255 - mean) / std)
        outputs = engine.run()
        return to_host(decode(outputs[out["logits"]], outputs[out["boxes"]], size, out["top_k"]))

    return detect

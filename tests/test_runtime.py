"""The compiled module: the detector against onnxruntime, threads, modes, what it refuses and what it says."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import edgedet
from edgedet import _core
from edgedet.bundle import InputSpec, LabelsBoxesScores, LogitsBoxes, write_bundle
from edgedet.labels import COCO80

Row = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]
PUBLISHED = {"atto": 320, "femto": 416}


@pytest.fixture(scope="module")
def pictures() -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    shapes = [(48, 64), (1, 1), (33, 17), (64, 48), (100, 3), (32, 32), (7, 90)]
    return [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_onnx.logits_model(folder / "model.onnx")
    return wrap(folder / "bundle", model)


def wrap(
    folder: Path, model: Path, *, side: int = tiny_onnx.SIZE, output: LogitsBoxes | LabelsBoxesScores | None = None
) -> Path:
    return write_bundle(
        folder,
        model,
        name="tiny",
        input=InputSpec(width=side, height=side),
        output=output or LogitsBoxes(top_k=9),
        classes=tiny_onnx.CLASSES,
    )


def equal(a: Row, b: Row) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    return overlap / (areas[0][:, None] + areas[1][None] - overlap + np.float32(1e-9))


@pytest.mark.parametrize("name", PUBLISHED)
def test_same_detections_as_onnxruntime(name: str, shared: Path, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    side = PUBLISHED[name]
    model = shared / "models" / f"deimv2_hgnetv2_{name}_coco.onnx"
    bundle = write_bundle(
        tmp_path / name,
        model,
        name=name,
        input=InputSpec(width=side, height=side),
        output=LabelsBoxesScores(size_input="orig_target_sizes"),
        classes=COCO80.names,
    )
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    detector = _core.Detector(str(bundle), threads=2)
    files = sorted((shared / "data" / "coco_val2017_subset" / "images").glob("*.jpg"))[:12]
    images = [edgedet.read_image(file) for file in files]
    results, _ = detector.detect(images)
    compared = 0
    for image, (boxes, scores, labels) in zip(images, results, strict=True):
        height, width = image.shape[:2]
        tensor = _core.preprocess(image, width=side, height=side)[None]
        wanted_labels, wanted_boxes, wanted_scores = (
            output[0]
            for output in session.run(
                ["labels", "boxes", "scores"], {"images": tensor, "orig_target_sizes": np.array([[width, height]])}
            )
        )
        wanted_boxes = np.clip(wanted_boxes, 0, [width, height, width, height]).astype(np.float32)
        overlap = iou(wanted_boxes, boxes) * (wanted_labels[:, None] == labels[None])
        # Boxes drawn by hand on equal scores may swap slots, so rows are matched, never compared by position.
        for row in np.flatnonzero(wanted_scores > 0.1):
            near = np.abs(scores - wanted_scores[row]) < 1e-3
            assert overlap[row][near].max(initial=0) > 0.99, (name, row, wanted_scores[row])
            compared += 1
        for row in np.flatnonzero(scores > 0.101):
            near = np.abs(wanted_scores - scores[row]) < 1e-3
            assert overlap[:, row][near].max(initial=0) > 0.99, (name, row, scores[row])
    assert compared > 40


@pytest.mark.parametrize("batch", [1, 3])
def test_raw_outputs_equal_onnxruntime(batch: int, tiny: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    tensor = np.random.default_rng(1).random((batch, 3, tiny_onnx.SIZE, tiny_onnx.SIZE), dtype=np.float32)
    session = ort.InferenceSession(str(tiny / "model.onnx"), providers=["CPUExecutionProvider"])
    wanted = dict(zip(("logits", "boxes"), session.run(["logits", "boxes"], {"images": tensor}), strict=True))
    got = _core.Detector(str(tiny)).infer(tensor)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5)


def test_ports_of_other_types(tmp_path: Path, pictures: list[NDArray[np.uint8]]) -> None:
    """A network with half-precision ports and int32 labels and sizes runs like any other."""
    half, whole = TensorProto.FLOAT16, TensorProto.INT32
    model = tiny_onnx.free_model(
        tmp_path / "half.onnx",
        {"images": (half, ["N", 3, 32, 32]), "orig_target_sizes": (whole, ["N", 2])},
        {"labels": (whole, [1, 5]), "boxes": (half, [1, 5, 4]), "scores": (half, [1, 5])},
    )
    ports = _core.inspect_onnx(str(model))
    assert ports["inputs"][0] == {"name": "images", "shape": [None, 3, 32, 32], "dtype": "float16"}
    assert ports["outputs"][0]["dtype"] == "int32"
    bundle = wrap(tmp_path / "bundle", model, output=LabelsBoxesScores(size_input="orig_target_sizes"))
    detector = _core.Detector(str(bundle))
    assert detector.infer(np.zeros((2, 3, 32, 32), np.float32))["scores"].dtype == np.float32
    # Labels and scores of this network are its size input and so out of range: said, not passed on.
    with pytest.raises(edgedet.ModelError, match=r"label|score"):
        detector.detect(pictures[:1])


MODES: dict[str, dict[str, Any]] = {
    "latency": {"mode": "latency", "threads": 1},
    "two requests": {"mode": "latency", "requests": 2, "threads": 2},
    "throughput": {"mode": "throughput", "threads": 2},
    "three requests": {"mode": "throughput", "requests": 3, "threads": 2},
}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_batches_threads_and_modes_give_the_same_bits(
    options: dict[str, Any], tiny: Path, pictures: list[NDArray[np.uint8]]
) -> None:
    serial = _core.Detector(str(tiny), threads=1)
    wanted = [serial.detect([picture])[0][0] for picture in pictures]
    detector = _core.Detector(str(tiny), **options)
    assert detector.requests == options.get("requests", detector.requests) >= 1

    def work(start: int) -> bool:
        order = [(start + i) % len(pictures) for i in range(1 + start % len(pictures))]
        results, times = detector.detect([pictures[i] for i in order])
        assert len(times) == 3
        assert all(time > 0 for time in times)
        return all(equal(result, wanted[i]) for result, i in zip(results, order, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(80)))
    assert detector.detect([])[0] == []


def test_detect_releases_the_gil(tiny: Path) -> None:
    detector = _core.Detector(str(tiny), threads=1)
    image = np.zeros((1500, 1500, 3), np.uint8)
    turns = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal turns
        while not stop.is_set():
            turns += 1
            time.sleep(0)  # lets the main thread have the GIL back

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=count)
    # No thread is made to give way, so the other one runs only while detect lets it.
    sys.setswitchinterval(1000)
    try:
        thread.start()
        before = turns
        for _ in range(50):  # on a busy machine a core may not be free during the first calls
            detector.detect([image] * 8)
            after = turns
            if after > before:
                break
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        thread.join()
    assert after > before


def test_strided_rows_are_read_in_place(tiny: Path) -> None:
    detector = _core.Detector(str(tiny))
    whole = np.random.default_rng(2).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    crop = whole[10:50, 20:70]
    assert not crop.flags.c_contiguous
    crop.flags.writeable = False
    assert equal(detector.detect([crop])[0][0], detector.detect([crop.copy()])[0][0])
    assert equal(detector.detect([crop])[0][0], detector.detect([crop[:, :, ::-1].copy()], "bgr")[0][0])
    gray = np.ascontiguousarray(crop[:, :, 0])
    assert equal(detector.detect([gray], "gray")[0][0], detector.detect([np.dstack([gray] * 3)])[0][0])


BAD_IMAGES: dict[str, tuple[Callable[[NDArray[np.uint8]], Any], str]] = {
    "not an array": (lambda image: image.tolist(), "rgb"),
    "float": (lambda image: image.astype(np.float32), "rgb"),
    "signed": (lambda image: image.astype(np.int8), "rgb"),
    "four channels": (lambda image: np.dstack([image, image[:, :, :1]]), "rgb"),
    "gray as rgb": (lambda image: image[:, :, 0], "rgb"),
    "rgb as gray": (lambda image: image, "gray"),
    "batch": (lambda image: image[None], "rgb"),
    "empty": (lambda image: image[:0], "rgb"),
    "no columns": (lambda image: image[:, :0], "rgb"),
    "transposed": (lambda image: image.transpose(1, 0, 2), "rgb"),
    "upside down": (lambda image: image[::-1], "rgb"),
    "mirrored": (lambda image: image[:, ::-1], "rgb"),
    "every second pixel": (lambda image: image[:, ::2], "rgb"),
    "channels reversed": (lambda image: image[:, :, ::-1], "rgb"),
    "repeated row": (lambda image: np.broadcast_to(image[:1], image.shape), "rgb"),
    "nv12 of odd width": (lambda image: np.zeros((12, 7), np.uint8), "nv12"),
    "nv12 of no thirds": (lambda image: np.zeros((10, 8), np.uint8), "nv12"),
    "unknown format": (lambda image: image, "yuyv"),
}


@pytest.mark.parametrize(("spoil", "format"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_images_are_refused(spoil: Callable[[NDArray[np.uint8]], Any], format: Any, tiny: Path) -> None:
    image = np.zeros((24, 16, 3), np.uint8)
    detector = _core.Detector(str(tiny))
    with pytest.raises(edgedet.InvalidInputError, match="expected"):
        detector.detect([spoil(image)], format)
    with pytest.raises(edgedet.InvalidInputError, match="expected"):
        _core.preprocess(spoil(image), width=8, height=8, format=format)
    assert detector.detect([image])[0][0][0].shape == (9, 4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "tensorrt"}, edgedet.BackendError, r"tensorrt is not available here:\s.*TensorRT"),
        ({"backend": "abacus"}, edgedet.InvalidInputError, "auto or one of tensorrt, openvino"),
        ({"precision": "int4"}, edgedet.BundleError, "no int4 model for the backend openvino; it has: fp32"),
        ({"mode": "fast"}, edgedet.InvalidInputError, "one of latency, throughput"),
        ({"threads": -1}, edgedet.InvalidInputError, "threads"),
        ({"requests": 10**6}, edgedet.InvalidInputError, "requests"),
        ({"score_threshold": 1.5}, edgedet.InvalidInputError, "score_threshold"),
        ({"max_detections": -1}, edgedet.InvalidInputError, "max_detections"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[edgedet.Error], message: str, tiny: Path) -> None:
    with pytest.raises(error, match=message):
        _core.Detector(str(tiny), **options)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"images": [2, 3, 32, 32]}, {"logits": [1, 3, 3], "boxes": [1, 3, 4]}, r"\[1,3,32,32\].*got \[2,3,32,32\]"),
        ({"images": ["N", 3, 64, 64]}, {"logits": [1, 3, 3], "boxes": [1, 3, 4]}, r"got \[\?,3,64,64\]"),
        ({"images": ["N", 3, 32]}, {"logits": [1, 3, 3], "boxes": [1, 3, 4]}, 'expected "images" of shape'),
        ({"pixels": ["N", 3, 32, 32]}, {"logits": [1, 3, 3], "boxes": [1, 3, 4]}, 'named "images".*got: pixels'),
        (
            {"images": ["N", 3, 32, 32], "mask": ["N", 1]},
            {"logits": [1, 3, 3], "boxes": [1, 3, 4]},
            '"mask" is not named in model.json',
        ),
        ({"images": ["N", 3, 32, 32]}, {"logits": [1, 3, 4], "boxes": [1, 3, 4]}, r"\[1,3,3\].*got \[1,3,4\]"),
        ({"images": ["N", 3, 32, 32]}, {"logits": [1, 2, 3], "boxes": [1, 3, 4]}, '"logits" of shape'),
        ({"images": ["N", 3, 32, 32]}, {"logits": [1, 3, 3], "boxes": [1, 3, 5]}, '"boxes" of shape'),
    ],
)
def test_network_that_does_not_fit(
    inputs: dict[str, list[int | str]], outputs: dict[str, list[int]], message: str, tmp_path: Path
) -> None:
    kind = TensorProto.FLOAT
    model = tiny_onnx.free_model(
        tmp_path / "model.onnx",
        {name: (kind, shape) for name, shape in inputs.items()},
        {name: (kind, shape) for name, shape in outputs.items()},
    )
    with pytest.raises(edgedet.ModelError, match=message):
        _core.Detector(str(wrap(tmp_path / "bundle", model)))


def test_fixed_batch_of_one_runs(tmp_path: Path, pictures: list[NDArray[np.uint8]]) -> None:
    kind = TensorProto.FLOAT
    model = tiny_onnx.free_model(
        tmp_path / "model.onnx",
        {"images": (kind, [1, 3, 32, 32])},
        {"logits": (kind, [1, 3, 3]), "boxes": (kind, [1, 3, 4])},
    )
    results, _ = _core.Detector(str(wrap(tmp_path / "bundle", model))).detect(pictures)
    assert len(results) == len(pictures)


def test_nan_weights_are_an_error(tmp_path: Path, pictures: list[NDArray[np.uint8]]) -> None:
    model = tiny_onnx.logits_model(tmp_path / "model.onnx", poison=float("nan"))
    detector = _core.Detector(str(wrap(tmp_path / "bundle", model)), mode="throughput", requests=2, threads=1)
    for _ in range(4):
        with pytest.raises(edgedet.ModelError, match="NaN"):
            detector.detect(pictures)


def test_tampered_files_are_named(tiny: Path, tmp_path: Path) -> None:
    content = (tiny / "model.onnx").read_bytes()
    for name in ("model.json", "model.onnx"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for call in (_core.Detector, _core.load_spec):
        with pytest.raises(edgedet.BundleError, match=r"model\.onnx: expected sha256"):
            call(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08\x08\x12\x00" * 40])
def test_a_file_that_is_no_network(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(edgedet.ModelError, match="ONNX"):
        _core.inspect_onnx(str(tmp_path / "model.onnx"))


def _quantised(path: Path) -> Path:
    """A convolution between Q/DQ pairs: u8 asymmetric activations, per-channel s8 weights."""
    random = np.random.default_rng(3)
    weights = {
        "scale": np.float32(1 / 255),
        "zero": np.uint8(0),
        "w": random.integers(-127, 128, (16, 3, 3, 3)).astype(np.int8),
        "w_scale": np.full(16, 0.01, np.float32),
        "w_zero": np.zeros(16, np.int8),
        "y_scale": np.float32(0.1),
        "y_zero": np.uint8(128),
        "head": random.normal(size=(16, 21)).astype(np.float32),
        "cut": np.array([9, 12], np.int64),
        "logits_shape": np.array([-1, 3, 3], np.int64),
        "boxes_shape": np.array([-1, 3, 4], np.int64),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_f"], axis=0),
        helper.make_node("Conv", ["x", "w_f"], ["y"], name="the_convolution", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("QuantizeLinear", ["y", "y_scale", "y_zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "y_scale", "y_zero"], ["y_f"]),
        helper.make_node("GlobalAveragePool", ["y_f"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["all"]),
        helper.make_node("Split", ["all", "cut"], ["flat_logits", "flat_boxes"], axis=1),
        helper.make_node("Reshape", ["flat_logits", "logits_shape"], ["logits"]),
        helper.make_node("Sigmoid", ["flat_boxes"], ["inside"]),
        helper.make_node("Reshape", ["inside", "boxes_shape"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3, 3]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 3, 4]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_execution_graph_shows_int8(tmp_path: Path, tiny: Path) -> None:
    bundle = wrap(tmp_path / "bundle", _quantised(tmp_path / "q.onnx"))
    nodes = _core.Detector(str(bundle)).execution_graph()
    (convolution,) = [node for node in nodes if node["type"] == "Convolution"]
    assert convolution["precision"] in ("u8", "i8")
    assert "the_convolution" in convolution["original"] or "y" in convolution["original"].split(",")
    assert all(node["precision"] != "bf16" for node in nodes)
    floats = {node["precision"] for node in _core.Detector(str(tiny)).execution_graph() if node["type"] == "Eltwise"}
    assert floats <= {"f32"}


def test_spec_and_build_info(tiny: Path) -> None:
    detector = _core.Detector(str(tiny), threads=1)
    assert detector.spec == _core.load_spec(str(tiny))
    assert (detector.backend, detector.precision, detector.threads) == ("openvino", "fp32", 1)
    assert "OpenVINO" in detector.device
    assert [backend["name"] for backend in _core.backends()] == ["tensorrt", "openvino"]
    assert all(backend["detail"] for backend in _core.backends())
    info = _core.build_info()
    assert info["version"] == _core.__version__ == edgedet.__version__
    assert set(info) == {"version", "compiler", "build_type", "openvino", "cuda", "tensorrt", "jpeg", "png"}


def test_error_classes() -> None:
    for name in ("InvalidInputError", "BundleError", "ModelError", "BackendError", "ImageError"):
        error = getattr(edgedet, name)
        assert issubclass(error, edgedet.Error)
        assert error.__module__ == "edgedet"
        assert str(pickle.loads(pickle.dumps(error("why")))) == "why"
    assert issubclass(edgedet.Error, RuntimeError)
    assert issubclass(edgedet.InvalidInputError, ValueError)


def test_import_is_light_and_quick() -> None:
    code = (
        "import time, sys, numpy; start = time.perf_counter(); import edgedet; spent = time.perf_counter() - start;"
        "heavy = {'torch', 'cv2', 'onnx', 'onnxruntime', 'openvino', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy; print(spent)"
    )
    spent = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(spent) <= 0.15


def test_stub_matches_the_module(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    allowed = tmp_path / "allowed.txt"
    # Their metaclass is pybind11's; some of them cannot be made from Python.
    made = ("BenchRun", "CudaDecoder", "CudaPreprocessor", "Detector", "EngineOptions", "FramePool", "Sampler")
    given = ("DeviceView", "FrameTicket", "PartTimes", "TelemetryRecord")
    names, inits = (*made, "TileOptions", *given), tuple(f"{name}.__init__" for name in given)
    allowed.write_text("".join(f"edgedet._core.{name}\n" for name in (*names, *inits)))
    command = [sys.executable, "-m", "mypy.stubtest", "edgedet._core", "--allowlist", str(allowed)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout

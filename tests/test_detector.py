"""The Python detector: every kind of image in, the detections that can be worked out by hand out."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny_onnx
from cell_world import make_bundle, make_images, make_model
from numpy.typing import NDArray
from PIL import Image

import edgedet
from edgedet import Detections, Detector
from edgedet.bundle import InputSpec, LabelsBoxesScores, LogitsBoxes, add_model, name_model, set_best, write_bundle

HEIGHT, WIDTH = 48, 80


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + np.exp(-value))


def write(tmp_path: Path, **spec: Any) -> Path:
    return write_bundle(
        tmp_path / "bundle",
        tiny_onnx.logits_model(tmp_path / "tiny.onnx"),
        name="tiny",
        input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE, **spec),
        output=LogitsBoxes(top_k=9),
        classes=tiny_onnx.CLASSES,
        category_ids=[10, 20, 30],
    )


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return Detector(write(tmp_path), threads=1)


def plain(red: int, green: int, blue: int) -> NDArray[np.uint8]:
    return np.full((HEIGHT, WIDTH, 3), (red, green, blue), np.uint8)


ORANGE = plain(255, 128, 0)


def expected_corners(query: int) -> list[float]:
    x, y, w, h = tiny_onnx.BOXES[query].tolist()
    return [(x - w / 2) * WIDTH, (y - h / 2) * HEIGHT, (x + w / 2) * WIDTH, (y + h / 2) * HEIGHT]


def check_orange(found: Detections) -> None:
    """ORANGE: logits of query q are 4 - 2 q (red), 8 * (128 / 255 - 0.5) - 2 q (green) and -4 - 2 q (blue)."""
    logits = {
        (query, label): 8 * (value / 255 - 0.5) - 2 * query
        for query in range(3)
        for label, value in enumerate((255, 128, 0))
    }
    # Logits -2 q - 4 of blue and of other queries tie exactly nowhere here but at red: 4, 2, 0 and blue: -4, -6, -8.
    order = sorted(logits, key=lambda at: -logits[at])
    assert [tiny_onnx.CLASSES[label] for _, label in order] == found.names
    np.testing.assert_array_equal(found.labels, [label for _, label in order])
    np.testing.assert_allclose(found.scores, [sigmoid(logits[at]) for at in order], atol=1e-5)
    np.testing.assert_allclose(found.boxes, [expected_corners(query) for query, _ in order], atol=1e-3)


def test_an_array(detector: Detector) -> None:
    found = detector(ORANGE)
    check_orange(found)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.labels.dtype == np.int32


def nv12_of(grey: int) -> NDArray[np.uint8]:
    """Full frames of one grey: Y in 16..235 (BT.601), chroma 128."""
    frame = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
    frame[:HEIGHT] = round(16 + grey * 219 / 255)
    return frame


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (ORANGE[..., ::-1].copy(), "bgr"),
        (ORANGE[:, :, ::-1][:, :, ::-1], "rgb"),
        (np.pad(ORANGE, ((0, 0), (0, 7), (0, 0)))[:, :WIDTH], "rgb"),  # rows longer than the image
        (np.flipud(ORANGE), "rgb"),  # the next four need a copy
        (ORANGE[..., ::-1], "bgr"),
        (ORANGE.repeat(2, axis=1)[:, ::2], "rgb"),
        (np.asfortranarray(ORANGE), "rgb"),
    ],
)
def test_colour_formats_and_strides(detector: Detector, image: NDArray[np.uint8], format: Any) -> None:
    check_orange(detector(image, format=format))


@pytest.mark.parametrize("grey", [0, 77, 255])
def test_gray_and_nv12(detector: Detector, grey: int) -> None:
    colour = detector(plain(grey, grey, grey))
    frame = nv12_of(grey)
    planes = (frame[:HEIGHT], frame[HEIGHT:])
    split = (frame[:HEIGHT], frame[HEIGHT:].reshape(HEIGHT // 2, WIDTH // 2, 2))
    cases: list[tuple[Any, Any]] = [
        (np.full((HEIGHT, WIDTH), grey, np.uint8), "gray"),
        (frame, "nv12"),
        (planes, "nv12"),
        (split, "nv12"),
    ]
    for image, format in cases:
        found = detector(image, format=format)
        np.testing.assert_allclose(found.scores, colour.scores, atol=0.01)
        np.testing.assert_allclose(np.sort(found.boxes, axis=0), np.sort(colour.boxes, axis=0), atol=1e-3)


def test_the_network_may_want_bgr(tmp_path: Path) -> None:
    found = Detector(write(tmp_path, channels="bgr"))(ORANGE)
    assert found.names[0] == "blue"  # the network's first channel is "red", and it gets the blue one


def test_paths_and_lists_that_mix(detector: Detector, tmp_path: Path) -> None:
    file = tmp_path / "orange.png"
    Image.fromarray(ORANGE).save(file)
    check_orange(detector(file))
    check_orange(detector(str(file)))
    blue = plain(0, 0, 255)
    found = detector([file, blue[..., ::-1].copy(), str(file), ORANGE[..., ::-1].copy()], format="bgr")
    assert [one.names[0] for one in found] == ["red", "blue", "red", "red"]
    check_orange(found[2])
    check_orange(found[3])
    assert detector([]) == []


def test_images_of_different_sizes_in_one_call(detector: Detector) -> None:
    images = [plain(255, 0, 0)[: HEIGHT - row, : WIDTH - 2 * row] for row in range(5)]
    together = detector(images)
    for image, found in zip(images, together, strict=True):
        alone = detector(image)
        np.testing.assert_array_equal(found.boxes, alone.boxes)
        np.testing.assert_array_equal(found.scores, alone.scores)


def test_letterbox_maps_back_to_the_image(tmp_path: Path) -> None:
    # 80x48 in 32x32: 32x19 pixels of content from row 6 on. Query 0 spans 8..24 of the input on both axes.
    found = Detector(write(tmp_path, resize="letterbox"))(ORANGE)
    np.testing.assert_allclose(found.boxes[0], [8 * 2.5, 2 * 48 / 19, 24 * 2.5, 18 * 48 / 19], atol=1e-3)


def test_post_processed_heads(tmp_path: Path) -> None:
    for sizes in (True, False):
        bundle = write_bundle(
            tmp_path / f"bundle_{sizes}",
            tiny_onnx.scored_model(tmp_path / "tiny.onnx", sizes=sizes),
            name="tiny",
            input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE),
            output=LabelsBoxesScores(top_k=3, size_input="orig_target_sizes" if sizes else None),
            classes=tiny_onnx.CLASSES,
        )
        found = Detector(bundle)(ORANGE)
        assert found.names == ["red", "green", "blue"]
        np.testing.assert_allclose(found.scores, [0.9, 0.6, 0.3], atol=1e-6)
        np.testing.assert_allclose(found.boxes, [expected_corners(query) for query in range(3)], atol=1e-3)


def test_threshold_and_number_of_rows(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    assert len(Detector(bundle, score_threshold=0.5)(ORANGE)) == 4  # logits 4, 2, 0.0157 and 0
    assert len(Detector(bundle, max_detections=2)(ORANGE)) == 2
    assert len(Detector(bundle, score_threshold=0.99)(ORANGE)) == 0


def test_where_compiled_networks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write(tmp_path)
    before = set(tmp_path.iterdir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Detector(bundle, threads=1, cache_dir="")
    assert set(tmp_path.iterdir()) == before
    Detector(bundle, threads=1)
    Detector(bundle, threads=1, cache_dir=tmp_path / "own")
    assert set(tmp_path.iterdir()) == before | {tmp_path / "cache", tmp_path / "own"}
    assert len(list((tmp_path / "cache" / "edgedet").glob("*.engine"))) == 1


def test_what_runs(detector: Detector) -> None:
    info = detector.info
    assert (info.name, info.width, info.height) == ("tiny", 32, 32)
    assert info.classes == tiny_onnx.CLASSES
    assert info.category_ids == (10, 20, 30)
    assert (info.backend, info.precision, info.threads, info.requests) == ("openvino", "fp32", 1, 1)
    assert repr(detector) == "Detector('tiny', 32x32, 3 classes, openvino fp32)"


def test_stage_times(detector: Detector) -> None:
    _, times = detector.detect_timed([ORANGE] * 3)
    assert times.inference > 0
    assert min(times) >= 0
    found, times = detector.detect_timed([])
    assert (found, tuple(times)) == ([], (0, 0, 0))


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_threads_share_a_detector(tmp_path: Path, mode: Any) -> None:
    detector = Detector(write(tmp_path), mode=mode, requests=2, threads=2)
    colours = [plain(255, 0, 0), plain(0, 255, 0), plain(0, 0, 255)]
    wrong: list[str] = []

    def work(place: int) -> None:
        for turn in range(50):
            at = (place + turn) % 3
            if detector(colours[at]).names[0] != tiny_onnx.CLASSES[at]:
                wrong.append(f"thread {place}, turn {turn}")

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_verified_best_precision_is_taken(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    flipped = tiny_onnx.logits_model(tmp_path / "flipped.onnx", boxes=tiny_onnx.BOXES[::-1].copy())
    add_model(bundle, "int8", "openvino", flipped)
    assert Detector(bundle).info.precision == "fp32"
    set_best(bundle, "openvino", "int8")
    detector = Detector(bundle)
    assert detector.info.precision == "int8"
    np.testing.assert_allclose(detector(ORANGE).boxes[0], expected_corners(2), atol=1e-3)
    check_orange(Detector(bundle, precision="fp32")(ORANGE))


def test_a_half_type_runs_the_float_file(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 2, seed=1)
    bundle = make_bundle(tmp_path / "cells", make_model(tmp_path / "model.onnx"))
    image = sorted((tmp_path / "images").glob("*.[jp][pn]g"))[0]
    expected = Detector(bundle, backend="openvino", precision="fp32")(image)
    here = next(entry["precisions"] for entry in edgedet.backends() if entry["name"] == "openvino")
    for precision, kernel in (("bf16", "bf16"), ("fp16", "f16")):
        name_model(bundle, precision, "openvino", "model.onnx")
        if precision in here:
            detector = Detector(bundle, backend="openvino", precision=precision)
            assert detector.info.precision == precision
            np.testing.assert_allclose(detector(image).scores, expected.scores, atol=0.03)
            assert kernel in {node["precision"] for node in detector.execution_graph()}
    assert Detector(bundle).info.precision == "fp32", "nothing is verified"


def test_a_precision_that_this_device_lacks_is_refused_or_left_out(tmp_path: Path) -> None:
    bundle = write(tmp_path)
    name_model(bundle, "fp4", "openvino", "model.onnx")  # type: ignore[arg-type]
    set_best(bundle, "openvino", "fp4")  # type: ignore[arg-type]
    detector = Detector(bundle, backend="openvino")
    assert detector.info.precision == "fp32"
    check_orange(detector(ORANGE))
    with pytest.raises(edgedet.BackendError, match=r"expected one that OpenVINO .* computes in \(fp32, int8.*got fp4"):
        Detector(bundle, backend="openvino", precision="fp4")


class PilLike:
    """Stands for objects of other libraries."""


@pytest.mark.parametrize(
    ("image", "format", "message"),
    [
        (None, "rgb", "image 0: expected a path or a .*got NoneType"),
        (PilLike(), "rgb", r"got .*PilLike; pass a NumPy array"),
        (np.moveaxis(ORANGE, 2, 0), "rgb", r"shape \(3, 48, 80\); put the channels last"),
        (ORANGE.astype(np.float32), "rgb", "type float32; scale the pixels"),
        (ORANGE[None], "rgb", "pass a batch as a list"),
        (ORANGE[..., 0], "rgb", r"shape \(48, 80\).*name the pixel format"),
        (ORANGE, "gray", r"\(H, W\) uint8"),
        (ORANGE, "nv12", r"\(H \* 3 / 2, W\)"),
        (ORANGE[..., :2], "rgb", "2"),
        (np.zeros((0, 5, 3), np.uint8), "rgb", "0"),
        (np.zeros((5, 0, 3), np.uint8), "rgb", "0"),
        (np.zeros((48, 81), np.uint8), "nv12", "even|odd"),
        (np.zeros((50, 80), np.uint8), "nv12", "3"),
        ((ORANGE[..., 0],), "nv12", "planes Y"),
        ((ORANGE[..., 0], ORANGE[..., 0]), "nv12", "planes Y"),
        ((1, 2), "nv12", "planes Y"),
        (ORANGE, "yuv", "expected format rgb, bgr, gray, nv12, got 'yuv'"),
    ],
)
def test_what_is_not_an_image(detector: Detector, image: Any, format: Any, message: str) -> None:
    with pytest.raises(edgedet.InvalidInputError, match=message) as caught:
        detector(image, format=format)
    assert isinstance(caught.value, ValueError)


def test_the_place_in_a_list_is_named(detector: Detector) -> None:
    with pytest.raises(edgedet.InvalidInputError, match="image 2"):
        detector([ORANGE, ORANGE, None])  # type: ignore[list-item]
    with pytest.raises(edgedet.InvalidInputError, match="expected a list of images"):
        detector.detect_timed(ORANGE)  # type: ignore[arg-type]
    with pytest.raises(edgedet.ImageError, match=r"missing\.png"):
        detector([ORANGE, "missing.png"])


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "tpu"},
        {"precision": "int4"},
        {"mode": "fast"},
        {"threads": -1},
        {"requests": -1},
        {"score_threshold": 1.5},
        {"score_threshold": float("nan")},
        {"max_detections": -1},
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(edgedet.Error, match=str(next(iter(options.values())))):
        Detector(write(tmp_path), **options)


def poisoned(tmp_path: Path) -> Path:
    model = tiny_onnx.logits_model(tmp_path / "nan.onnx", poison=float("nan"))
    bundle = write(tmp_path)
    add_model(bundle, "fp32", "*", model)
    return bundle


def wrong_outputs(tmp_path: Path) -> Path:
    model = tiny_onnx.logits_model(tmp_path / "renamed.onnx", names=("images", "class_logits", "boxes"))
    bundle = write(tmp_path)
    add_model(bundle, "fp32", "*", model)
    return bundle


def wrong_input_size(tmp_path: Path) -> Path:
    model = tiny_onnx.logits_model(tmp_path / "large.onnx", side=64)
    bundle = write(tmp_path)
    add_model(bundle, "fp32", "*", model)
    return bundle


def wrong_classes(tmp_path: Path) -> Path:
    return write_bundle(
        tmp_path / "bundle",
        tiny_onnx.logits_model(tmp_path / "tiny.onnx"),
        name="tiny",
        input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE),
        output=LogitsBoxes(),
        classes=["one", "two"],
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (poisoned, "NaN"),
        (wrong_outputs, "logits"),
        (wrong_input_size, "64|32"),
        (wrong_classes, "3|2"),
    ],
)
def test_networks_that_contradict_their_bundle(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    bundle = make(tmp_path)
    with pytest.raises(edgedet.ModelError, match=message):
        Detector(bundle)(ORANGE)


# ---- Detections ----


def three() -> Detections:
    boxes = np.array([[0, 0, 10, 20], [5, 5, 6, 8], [1.5, 2.5, 4, 4]], np.float32)
    return Detections(boxes, np.array([0.9, 0.5, 0.1], np.float32), np.array([1, 0, 1], np.int32), ["b", "a", "b"])


def test_detections_iterate_and_filter() -> None:
    found = three()
    assert len(found) == 3
    assert list(found)[1] == edgedet.Detection((5.0, 5.0, 6.0, 8.0), 0.5, 0, "a")
    kept = found.filter(0.5)
    assert kept.names == ["b", "a"]
    np.testing.assert_array_equal(kept.boxes, found.boxes[:2])
    assert len(found.filter(1.0)) == 0


def test_detections_to_coco() -> None:
    results = three().to_coco(42, [7, 9])
    assert [entry["category_id"] for entry in results] == [9, 7, 9]
    assert results[2] == {
        "image_id": 42,
        "category_id": 9,
        "bbox": [1.5, 2.5, 2.5, 1.5],
        "score": float(np.float32(0.1)),
    }
    assert three().filter(1.0).to_coco(1, []) == []
    with pytest.raises(edgedet.InvalidInputError, match="got 1 ids and label 1"):
        three().to_coco(42, [7])


def test_detections_must_agree_in_length() -> None:
    found = three()
    with pytest.raises(edgedet.InvalidInputError, match="for 2 names"):
        Detections(found.boxes, found.scores, found.labels, ["a", "b"])


def test_detections_to_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    fake = types.SimpleNamespace(Detections=lambda **fields: made.update(fields) or "made")
    monkeypatch.setitem(sys.modules, "supervision", fake)
    assert three().to_supervision() == "made"
    assert made["xyxy"].shape == (3, 4)
    assert made["confidence"].tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert made["class_id"].tolist() == [1, 0, 1]
    assert made["data"]["class_name"].tolist() == ["b", "a", "b"]
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(edgedet.Error, match="pip install supervision"):
        three().to_supervision()


class OnDevice:
    """What an array in a GPU's memory says of itself."""

    __cuda_array_interface__: ClassVar = {"shape": (48, 80, 3), "typestr": "|u1", "data": (4096, False), "version": 3}


class OnDeviceByDlpack:
    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: object) -> object:
        raise AssertionError("not to be asked for here")


@pytest.mark.parametrize("image", [OnDevice(), OnDeviceByDlpack()])
def test_an_array_in_device_memory_is_for_a_gpu(detector: Detector, image: object) -> None:
    with pytest.raises(edgedet.InvalidInputError, match="expected host memory, which is what openvino reads"):
        detector(image)  # type: ignore[call-overload]
    with pytest.raises(edgedet.InvalidInputError, match="host memory"):
        detector([ORANGE, image])  # type: ignore[list-item]
    check_orange(detector(ORANGE))

"""DeepStream: the parser gives edgedet's objects, and the configuration gives its network input as far as nvinfer can.

Compiled against a stand-in of nvinfer's header; not run on a GPU, nor in DeepStream.
"""

from __future__ import annotations

import configparser
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from numpy.typing import NDArray

import edgedet
from edgedet.bundle import InputSpec, LabelsBoxesScores, LogitsBoxes, write_bundle
from edgedet.cli import main
from edgedet.exporting.deepstream import CONFIG, LIBRARY, PARSER, differences, export_deepstream, normalisation

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 96, 64
SIZES = {"width": WIDTH, "height": HEIGHT, "image_width": WIDTH, "image_height": HEIGHT}
TYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "int64": 4}

Objects = NDArray[np.float32]
Parse = Callable[..., Objects | None]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ctypes.CDLL]:
    """The parser of the example, and the library that calls it as nvinfer does."""
    folder = tmp_path_factory.mktemp("deepstream")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cmake, compiler = shutil.which("cmake", path=path), shutil.which("c++")
    if cmake is None or compiler is None:
        pytest.skip("no cmake or no C++ compiler")
    header = ROOT / "tests" / "deepstream"
    options = [f"-DDeepStream_INCLUDE_DIR={header}", "-DCMAKE_CXX_FLAGS=-Werror", "-DCMAKE_BUILD_TYPE=Debug"]
    driver = folder / "driver.so"
    for command in (
        [cmake, "-S", ROOT / "examples" / "deepstream", "-B", folder, *options],
        [cmake, "--build", folder],
        [compiler, "-std=c++17", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{header}", header / "driver.cpp", "-o",
         driver, "-ldl"],
    ):  # fmt: skip
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "PATH": path})
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / LIBRARY, ctypes.CDLL(str(driver))


@pytest.fixture
def parse(built: tuple[Path, ctypes.CDLL]) -> Parse:
    """Objects of output arrays, each left, top, width, height, score, class; None where the parser fails."""
    library, driver = built

    def run(
        layers: Mapping[str, NDArray[Any]], classes: int, thresholds: Sequence[float] | None = None
    ) -> Objects | None:
        arrays = [np.ascontiguousarray(array) for array in layers.values()]
        names = (ctypes.c_char_p * len(arrays))(*[name.encode() for name in layers])
        types = (ctypes.c_int * len(arrays))(*[TYPES[array.dtype.name] for array in arrays])
        axes = (ctypes.c_int * len(arrays))(*[array.ndim for array in arrays])
        dims = [size for array in arrays for size in array.shape]
        buffers = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
        out = np.zeros((400, 6), np.float32)
        count = driver.driver_parse(
            str(library).encode(),
            len(arrays),
            names,
            types,
            axes,
            (ctypes.c_uint * len(dims))(*dims),
            buffers,
            WIDTH,
            HEIGHT,
            classes,
            (ctypes.c_float * classes)(*(thresholds or [0.0] * classes)),
            len(out),
            out.ctypes.data_as(ctypes.c_void_p),
        )
        assert count >= -1
        return None if count < 0 else out[:count]

    return run


def rows_of(boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: NDArray[np.int32]) -> Objects:
    """edgedet's detections as the parser's objects."""
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores[:, None], labels[:, None]), axis=1)


def head(queries: int, classes: int, *, ties: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and boxes, some of which leave the image."""
    random = np.random.default_rng(queries)
    logits = random.normal(0, 2, (queries, classes)).astype(np.float32)
    if ties:
        logits = np.round(logits).astype(np.float32)
    return logits, random.uniform(0, 1, (queries, 4)).astype(np.float32)


def decoded(logits: NDArray[np.float32], boxes: NDArray[np.float32]) -> Objects:
    return rows_of(*edgedet.decode_logits(logits, boxes, **SIZES))


@pytest.mark.parametrize(
    ("queries", "classes", "ties"), [(300, 80, False), (300, 80, True), (7, 3, True), (50, 4, False)]
)
def test_logits_and_boxes(parse: Parse, queries: int, classes: int, ties: bool) -> None:
    """Four classes too: there both outputs have four columns, and the name decides."""
    logits, boxes = head(queries, classes, ties=ties)
    found = parse({"logits": logits, "pred_Boxes": boxes}, classes)
    wanted = decoded(logits, boxes)
    assert len(wanted) == min(300, queries * classes)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(parse({"boxes": boxes, "logits": logits}, classes), wanted)


def test_half_outputs(parse: Parse) -> None:
    logits, boxes = (array.astype(np.float16) for array in head(40, 5))
    wanted = decoded(logits.astype(np.float32), boxes.astype(np.float32))
    np.testing.assert_array_equal(parse({"logits": logits, "boxes": boxes}, 5), wanted)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_labels_boxes_and_scores(parse: Parse, dtype: str) -> None:
    random = np.random.default_rng(1)
    scores = np.round(random.uniform(0, 1, 60), 1).astype(np.float32)  # with ties
    boxes = random.uniform(-5, 100, (60, 4)).astype(np.float32)
    labels = random.integers(0, 9, 60).astype(dtype)
    wanted = rows_of(*edgedet.decode_scored(labels.astype(np.int64), boxes, scores, classes=9, **SIZES))
    np.testing.assert_array_equal(parse({"scores": scores, "labels": labels, "boxes": boxes}, 9), wanted)


def test_each_class_has_its_threshold(parse: Parse) -> None:
    logits, boxes = head(100, 3)
    wanted = decoded(logits, boxes)
    thresholds = [0.1, 0.5, 0.9]
    kept = wanted[wanted[:, 4] >= np.float32(thresholds)[wanted[:, 5].astype(int)]]
    assert 0 < len(kept) < len(wanted)
    np.testing.assert_array_equal(parse({"logits": logits, "boxes": boxes}, 3, thresholds), kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, boxes: {"logits": logits}, "expected outputs logits (Q, C) and boxes (Q, 4)"),
        (lambda logits, boxes: {"logits": logits[:4], "boxes": boxes}, "got logits (4, 3) boxes (5, 4)"),
        (lambda logits, boxes: {"a": boxes, "b": boxes}, "got a (5, 4) b (5, 4)"),
        (lambda logits, boxes: {"logits": logits[:, :2], "boxes": boxes}, "expected num-detected-classes=2"),
        (lambda logits, boxes: {"logits": logits * np.float32("nan"), "boxes": boxes}, "got NaN"),
        (lambda logits, boxes: {"logits": logits, "boxes": boxes * np.float32("inf")}, "expected finite boxes"),
        (
            lambda logits, boxes: {"labels": np.full(5, 3, np.int32), "boxes": boxes, "scores": boxes[:, 0].copy()},
            "expected labels from 0 to 2",
        ),
    ],
)
def test_outputs_that_cannot_be_read(
    parse: Parse, capfd: pytest.CaptureFixture[str], change: Callable[..., Any], message: str
) -> None:
    assert parse(change(*head(5, 3)), 3) is None
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_sizes_are_those_of_the_network(built: tuple[Path, ctypes.CDLL], dtype: str) -> None:
    library, driver = built
    sizes = np.full((5, 2), -1, dtype)
    place = sizes.ctypes.data_as(ctypes.c_void_p)
    assert driver.driver_sizes(str(library).encode(), TYPES[dtype], 2, place, WIDTH, HEIGHT, 4) == 1
    assert sizes.tolist() == [[WIDTH, HEIGHT]] * 4 + [[-1, -1]]
    assert driver.driver_sizes(str(library).encode(), TYPES["float32"], 2, place, WIDTH, HEIGHT, 4) == 0
    assert driver.driver_sizes(str(library).encode(), TYPES[dtype], 3, place, WIDTH, HEIGHT, 1) == 0


def exported(folder: Path) -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read_string((folder / CONFIG).read_text(encoding="utf-8"))
    return config


def nvinfer_input(pixels: NDArray[np.uint8], properties: Mapping[str, str]) -> NDArray[np.float32]:
    """What nvinfer's conversion kernels compute of RGB pixels that have the network's size already: (3, H, W)."""
    ordered = pixels if properties["model-color-format"] == "0" else pixels[..., ::-1]
    offsets = np.float32(properties["offsets"].split(";"))
    scaled = np.float32(properties["net-scale-factor"]) * (ordered.astype(np.float32) - offsets)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize(("mean", "std"), [((0, 0, 0), (1, 1, 1)), ((0.485, 0.456, 0.406), (0.226, 0.226, 0.226))])
def test_the_configuration_normalises_as_edgedet_does(
    tmp_path: Path, channels: Any, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    spec = InputSpec(width=32, height=32, channels=channels, mean=mean, std=std)
    folder = write_bundle(
        tmp_path / "bundle",
        tiny_onnx.logits_model(tmp_path / "tiny.onnx"),
        name="tiny",
        input=spec,
        output=LogitsBoxes(top_k=9),
        classes=tiny_onnx.CLASSES,
    )
    notes = export_deepstream(folder, tmp_path / "out", batch=4)
    assert notes[-1] == "build the parser with -DEDGEDET_TOP_K=9, else it keeps 300 objects"
    properties = dict(exported(tmp_path / "out")["property"])
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
    ours = edgedet.preprocess(pixels, width=32, height=32, channels=channels, mean=mean, std=std)
    np.testing.assert_allclose(nvinfer_input(pixels, properties), ours, rtol=0, atol=2e-6)
    # A frame that is scaled has whole grey levels before it is normalised, as in edgedet.
    frame = random.integers(0, 256, (90, 70, 3), np.uint8)
    ours = edgedet.preprocess(frame, width=32, height=32, channels=channels, mean=mean, std=std)
    levels = edgedet.preprocess(frame, width=32, height=32).transpose(1, 2, 0) * 255
    np.testing.assert_allclose(nvinfer_input(np.round(levels).astype(np.uint8), properties), ours, rtol=0, atol=2e-6)


def test_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_bundle(
        tmp_path / "bundle",
        tiny_onnx.scored_model(tmp_path / "scored.onnx"),
        name="scored",
        input=InputSpec(width=32, height=32, resize="letterbox", filter="antialias"),
        output=LabelsBoxesScores(top_k=3, size_input="orig_target_sizes"),
        classes=tiny_onnx.CLASSES,
    )
    out = tmp_path / "out"
    assert main(["export", "deepstream", str(folder), "--out", str(out), "--score", "0.25"]) == 0
    said = capsys.readouterr().out
    assert "without antialiasing" in said
    assert "borders are black, not of grey level 114" in said
    assert (out / "labels.txt").read_text() == "red\ngreen\nblue\n"
    assert (out / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    config = exported(out)
    wanted = {
        "onnx-file": "model.onnx",
        "labelfile-path": "labels.txt",
        "infer-dims": "3;32;32",
        "num-detected-classes": "3",
        "network-type": "0",
        "cluster-mode": "4",
        "maintain-aspect-ratio": "1",
        "symmetric-padding": "1",
        "parse-bbox-func-name": PARSER,
        "custom-lib-path": LIBRARY,
    }
    assert {key: config["property"][key] for key in wanted} == wanted
    assert float(config["class-attrs-all"]["pre-cluster-threshold"]) == 0.25
    assert main(["export", "deepstream", str(folder), "--out", str(out)]) == 2
    assert main(["export", "deepstream", str(folder), "--out", str(out), "--force"]) == 0


def test_three_deviations_are_refused() -> None:
    image = {
        "mean": [0, 0, 0],
        "std": [0.229, 0.224, 0.225],
        "filter": "bilinear",
        "resize": "letterbox",
        "pad_value": 0,
    }
    with pytest.raises(edgedet.InvalidInputError, match=r"one net-scale-factor, got std \[0\.229.*into the network"):
        normalisation(image)
    assert not any("black" in note for note in differences(image))

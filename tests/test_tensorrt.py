"""The TensorRT backend: its proofs on a device, and what is said, not crashed, where there is none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from cell_world import make_bundle, make_images, make_model
from numpy.typing import NDArray

import edgedet
from benchmarks.tensorrt.oracle import compare
from benchmarks.tensorrt.other_programs import PythonEngine, compile_oracle, run_oracle
from benchmarks.tensorrt.record import NotMeasured
from benchmarks.tensorrt.reference import onnxruntime_detector
from benchmarks.tensorrt.runtime import plan_bytes, raw_outputs
from benchmarks.tensorrt.stress import same
from calibration.inputs import network_input
from edgedet import Detector, _core
from edgedet.bundle import InputSpec, LogitsBoxes, add_model, load_model_json, write_bundle
from edgedet.labels import COCO80
from edgedet.matching import drift

ROOT = Path(__file__).resolve().parent.parent
AVAILABLE = next(entry for entry in _core.backends() if entry["name"] == "tensorrt")["available"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    return make_bundle(folder / "bundle", make_model(folder / "model.onnx"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[np.uint8]]:
    folder = make_images(tmp_path_factory.mktemp("pictures") / "images", 6, seed=3)
    return [edgedet.read_image(file) for file in sorted(folder.glob("*.png"))]


def tiny(folder: Path, **options: Any) -> Path:
    return write_bundle(
        folder / "bundle",
        tiny_onnx.logits_model(folder / "tiny.onnx", **options),
        name="tiny",
        input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE),
        output=LogitsBoxes(top_k=9),
        classes=tiny_onnx.CLASSES,
    )


# On a device


@pytest.mark.tensorrt
@pytest.mark.slow
def test_femto_detects_what_onnxruntime_detects(shared: Path, tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("torch")
    from training.export import write_bundle_from_model
    from training.models.detector import build
    from training.models.zoo import detector_config
    from training.weights.load import load_weights

    config = detector_config("femto")
    network = build(config)
    load_weights(network, next((shared / "models").glob("*_femto_*.safetensors")))
    side = config.input_size[0]
    bundle = write_bundle_from_model(
        network,
        tmp_path / "femto",
        name="femto",
        input=InputSpec(width=side, height=side),
        classes=COCO80.names,
        category_ids=COCO80.category_ids,
    )
    detector = Detector(bundle, backend="tensorrt", precision="fp32", cache_dir=cache)
    wanted = onnxruntime_detector(bundle)
    files = sorted((shared / "data" / "coco_val2017_subset" / "images").glob("*.jpg"))[:12]
    images = [edgedet.read_image(file) for file in files]
    found = drift([wanted(image) for image in images], [detector(image) for image in images])
    assert found.detections > 40
    assert found.matched == 1.0
    assert found.box_p95_px < 0.5
    assert found.score_p95 < 1e-3


@pytest.mark.tensorrt
def test_cells_are_detected_as_on_the_cpu(cells: Path, cache: Path, pictures: list[NDArray[np.uint8]]) -> None:
    detector = Detector(cells, backend="tensorrt", precision="fp32", cache_dir=cache)
    wanted = Detector(cells, backend="openvino", precision="fp32")
    found = drift([wanted(picture) for picture in pictures], [detector(picture) for picture in pictures])
    assert found.detections >= len(pictures)
    assert found.matched == 1.0
    assert found.box_p95_px < 0.1
    assert found.score_p95 < 1e-3


@pytest.mark.tensorrt
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_list_is_one_by_one(cells: Path, cache: Path, pictures: list[NDArray[np.uint8]], mode: Any) -> None:
    detector = Detector(cells, backend="tensorrt", mode=mode, cache_dir=cache)
    alone = [detector(picture) for picture in pictures]
    together = detector(pictures)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        # A batch may run other kernels.
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3 if mode == "throughput" else 0)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.5 if mode == "throughput" else 0)


@pytest.mark.tensorrt
def test_an_engine_is_built_once(cells: Path, tmp_path: Path) -> None:
    Detector(cells, backend="tensorrt", cache_dir=tmp_path)
    (entry,) = tmp_path.glob("*.engine")
    before = (entry.read_bytes(), entry.stat().st_mtime_ns)
    Detector(cells, backend="tensorrt", cache_dir=tmp_path)
    assert (entry.read_bytes(), entry.stat().st_mtime_ns) == before


@pytest.mark.tensorrt
@pytest.mark.parametrize("spoil", ["empty", "text", "short", "flipped", "another entry"])
def test_a_damaged_engine_is_built_again(
    spoil: str, cells: Path, tmp_path: Path, pictures: list[NDArray[np.uint8]]
) -> None:
    wanted = Detector(cells, backend="tensorrt", cache_dir=tmp_path)(pictures[0])
    (entry,) = tmp_path.glob("*.engine")
    content = entry.read_bytes()
    if spoil == "another entry":
        (tmp_path / "tiny").mkdir()
        Detector(tiny(tmp_path / "tiny"), backend="tensorrt", cache_dir=tmp_path / "other")
        spoilt = next((tmp_path / "other").glob("*.engine")).read_bytes()
    else:
        flipped = bytearray(content)
        flipped[-9] ^= 1
        spoilt = {"empty": b"", "text": b"no engine\n", "short": content[:-1], "flipped": bytes(flipped)}[spoil]
    entry.write_bytes(spoilt)
    found = Detector(cells, backend="tensorrt", cache_dir=tmp_path)(pictures[0])
    assert drift([wanted], [found]).matched == 1.0
    assert entry.read_bytes() != spoilt


@pytest.mark.tensorrt
@pytest.mark.parametrize("spoil", ["short", "half", "text", "zeros"])
def test_a_plan_that_is_none_is_a_sentence(
    spoil: str, cells: Path, tmp_path: Path, pictures: list[NDArray[np.uint8]]
) -> None:
    """In an entry whose digests are right, as after a build by a library that wrote nonsense."""
    wanted = Detector(cells, backend="tensorrt", cache_dir=tmp_path)(pictures[0])
    (entry,) = tmp_path.glob("*.engine")
    content = entry.read_bytes()
    plan = plan_bytes(content)
    spoilt = {
        "short": plan[:-1000],
        "half": plan[: len(plan) // 2],
        "text": b"no plan\n" * 100,
        "zeros": bytes(len(plan)),
    }[spoil]
    head = content[: len(content) - len(plan) - 16 - 64]  # magic word and key
    entry.write_bytes(head + f"{len(spoilt):016x}".encode() + hashlib.sha256(spoilt).hexdigest().encode() + spoilt)
    with contextlib.suppress(edgedet.BackendError):
        Detector(cells, backend="tensorrt", cache_dir=tmp_path)
        spoilt = b""  # it was built again: good, too
    if spoilt:
        with pytest.raises(edgedet.BackendError, match=r"expected an engine.*build it again"):
            Detector(cells, backend="tensorrt", cache_dir=tmp_path)
    else:
        found = Detector(cells, backend="tensorrt", cache_dir=tmp_path)(pictures[0])
        assert drift([wanted], [found]).matched == 1.0


@pytest.mark.tensorrt
def test_nan_is_an_error_not_a_detection(tmp_path: Path, cache: Path) -> None:
    detector = Detector(tiny(tmp_path, poison=float("nan")), backend="tensorrt", cache_dir=cache)
    with pytest.raises(edgedet.ModelError, match="NaN"):
        detector(np.zeros((48, 80, 3), np.uint8))


@pytest.mark.tensorrt
def test_a_file_that_is_no_network_is_one_sentence(tmp_path: Path, cache: Path) -> None:
    bundle = tiny(tmp_path)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((bundle / "model.onnx").read_bytes()[:200])
    add_model(bundle, "fp32", "tensorrt", broken)
    with pytest.raises(edgedet.Error) as caught:
        Detector(bundle, backend="tensorrt", precision="fp32", cache_dir=cache)
    assert "expected" in str(caught.value)


@pytest.mark.tensorrt
def test_an_int8_file_of_another_backend_is_refused(tmp_path: Path, cache: Path) -> None:
    bundle = tiny(tmp_path)
    add_model(bundle, "int8", "openvino", tmp_path / "tiny.onnx")
    with pytest.raises(edgedet.Error, match="int8"):
        Detector(bundle, backend="tensorrt", precision="int8", cache_dir=cache)


@pytest.mark.tensorrt
@pytest.mark.parametrize("program", ["C++", "Python"])
def test_another_program_gives_the_same_tensors(
    program: str, cells: Path, tmp_path: Path, pictures: list[NDArray[np.uint8]]
) -> None:
    detector = Detector(cells, backend="tensorrt", precision="fp32", cache_dir=tmp_path)
    (entry,) = tmp_path.glob("*.engine")
    plan = tmp_path / "bare.plan"
    plan.write_bytes(plan_bytes(entry.read_bytes()))
    spec = load_model_json(cells)
    feed = {spec["input"]["name"]: network_input(pictures[0], spec)[None]}
    try:
        if program == "Python":
            theirs = PythonEngine(plan, 1)(feed)
        else:
            theirs = run_oracle(compile_oracle(tmp_path), plan, feed, tmp_path / "values", calls=1).outputs
    except NotMeasured as reason:
        pytest.skip(str(reason))
    found = compare(raw_outputs(detector, next(iter(feed.values()))), theirs)
    assert found["passed"], found


@pytest.mark.tensorrt
def test_a_swap_under_traffic_loses_no_answer(tmp_path: Path, cache: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = tiny(tmp_path / "one"), tiny(tmp_path / "other", boxes=tiny_onnx.BOXES[::-1].copy())
    picture = np.full((48, 80, 3), (255, 128, 0), np.uint8)
    detector = Detector(one, backend="tensorrt", cache_dir=cache)
    answers = [Detector(bundle, backend="tensorrt", cache_dir=cache)(picture) for bundle in (one, other)]
    assert not same(*answers)
    stop, wrong = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            found = detector(picture)
            if not any(same(found, answer) for answer in answers):
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(5):
            detector.swap(one if turn % 2 else other)
    except NotMeasured as reason:
        pytest.skip(str(reason))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert same(detector(picture), answers[1])


# Anywhere

PROBE = """
import sys
import edgedet
from edgedet import _core
entry = next(entry for entry in _core.backends() if entry["name"] == "tensorrt")
print(entry["available"])
print(entry["detail"])
try:
    edgedet.Detector(sys.argv[1], backend="tensorrt", cache_dir=sys.argv[2])
    print("made")
except edgedet.BackendError as error:
    print(error)
print(len(edgedet.Detector(sys.argv[1], backend="openvino")(sys.argv[3])))
"""
WITHOUT_SYMBOLS = "int edgedet_test_nothing(void) { return 0; }\n"
# Creating anything with it must not be tried: its version is asked for first.
OF_ANOTHER_VERSION = """
#include <stdlib.h>
int getInferLibVersion(void) { return 7000; }
void* createInferRuntime_INTERNAL(void* logger, int version) { abort(); }
void* createInferBuilder_INTERNAL(void* logger, int version) { abort(); }
"""
NAMES = ("libnvinfer.so", "libnvinfer.so.8", "libnvinfer.so.10", "libnvinfer.so.11")


def bogus_library(kind: str, folder: Path) -> None:
    """libnvinfer under every name that is looked for, and no library of TensorRT."""
    folder.mkdir()
    first = folder / NAMES[0]
    if kind == "an empty file":
        first.touch()
    elif kind == "a text file":
        first.write_text("INPUT(libnvinfer.so.10)\n")
    else:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            pytest.skip("no C compiler")
        source = folder / "source.c"
        source.write_text(WITHOUT_SYMBOLS if kind == "a library without the symbols" else OF_ANOTHER_VERSION)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(first), str(source)], check=True, timeout=60)
    for name in NAMES[1:]:
        shutil.copyfile(first, folder / name)


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "error", **changes}


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (80, 48), (255, 128, 0)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize(
    "kind", ["an empty file", "a text file", "a library without the symbols", "a library of another version"]
)
def test_a_bogus_library_is_a_sentence(kind: str, tiny_bundle: Path, tmp_path: Path, picture: Path) -> None:
    bogus_library(kind, tmp_path / "bogus")
    changes = environment(LD_LIBRARY_PATH=str(tmp_path / "bogus"))
    command = [sys.executable, "-c", PROBE, str(tiny_bundle), str(tmp_path / "cache"), str(picture)]
    done = subprocess.run(command, env=changes, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    lines = done.stdout.splitlines()
    assert len(lines) == 4, "each message is one line"
    available, detail, refused, rows = lines
    assert (available, rows) == ("False", "9"), "the other backend goes on"
    assert detail in refused
    assert "TensorRT" in refused
    doctor = [sys.executable, "-m", "edgedet", "doctor"]
    done = subprocess.run(doctor, env=changes, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"tensorrt   not here: {detail}" in done.stdout


@pytest.mark.skipif(AVAILABLE, reason="TensorRT is available here")
def test_without_tensorrt_the_detector_says_why_and_how(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(edgedet.BackendError) as caught:
        Detector(tiny_bundle, backend="tensorrt", cache_dir=tmp_path / "cache")
    text = str(caught.value)
    assert "\n" not in text
    assert "TensorRT" in text
    assert any(word in text for word in ("install", "set TensorRT_ROOT", "check the driver", "add its folder"))
    assert not (tmp_path / "cache").exists()
    assert Detector(tiny_bundle).info.backend == "openvino", "auto goes on to the next"


@pytest.mark.skipif(AVAILABLE, reason="TensorRT is available here")
@pytest.mark.parametrize(
    "command",
    [
        ["predict", "BUNDLE", "PICTURE", "--backend", "tensorrt"],
        ["bench", "BUNDLE", "--backend", "tensorrt"],
        ["build", "BUNDLE", "--backend", "tensorrt"],
    ],
    ids=lambda command: command[0],
)
def test_without_tensorrt_commands_say_why(command: list[str], tiny_bundle: Path, picture: Path) -> None:
    words = {"BUNDLE": str(tiny_bundle), "PICTURE": str(picture)}
    filled = [words.get(word, word) for word in command]
    done = subprocess.run(
        [sys.executable, "-m", "edgedet", *filled],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert "TensorRT" in done.stderr


@pytest.mark.skipif(AVAILABLE, reason="TensorRT is available here")
@pytest.mark.parametrize(("required", "status", "word"), [("", 0, "skipped"), ("tensorrt", 1, "EDGEDET_REQUIRE names")])
def test_what_needs_tensorrt_is_skipped_or_fails(required: str, status: int, word: str) -> None:
    this = f"{Path(__file__).relative_to(ROOT)}::test_an_engine_is_built_once"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", this],
        cwd=ROOT,
        env={**os.environ, "EDGEDET_REQUIRE": required},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == status, done.stdout
    assert word in done.stdout
    assert "TensorRT" in done.stdout

"""The C functions, called through ctypes: the same rows as the Python detector, and errors instead of crashes."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint8, c_void_p, sizeof
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx
from numpy.typing import NDArray

import edgedet

RNG = np.random.default_rng(0)
FRAMES = [RNG.integers(0, 256, (48, 80, 3), dtype=np.uint8), RNG.integers(0, 256, (31, 33, 3), dtype=np.uint8)]
INVALID, BUNDLE = 1, 2


class Options(ctypes.Structure):
    _fields_ = (
        ("size", c_size_t), ("backend", c_char_p), ("precision", c_char_p), ("throughput", c_int32),
        ("threads", c_int32), ("requests", c_int32), ("score_threshold", c_float), ("max_detections", c_int32),
        ("cache_dir", c_char_p),
    )  # fmt: skip


class Image(ctypes.Structure):
    _fields_ = (
        ("size", c_size_t), ("data", POINTER(c_uint8)), ("width", c_int32), ("height", c_int32), ("stride", c_int64),
        ("format", c_int32), ("uv", POINTER(c_uint8)), ("uv_stride", c_int64),
    )  # fmt: skip


class LaterImage(ctypes.Structure):
    """As a later version may be: with a field that this library does not know."""

    _fields_ = (*Image._fields_, ("rotation", c_double))


class Found(ctypes.Structure):
    _fields_ = (*((name, c_float) for name in ("x0", "y0", "x1", "y1", "score")), ("label", c_int32))


class Times(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("preprocess", c_double), ("inference", c_double), ("decode", c_double))


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(edgedet.c_library()))
    for name in ("last_error", "version", "backend", "precision", "device", "class_name"):
        getattr(loaded, f"edgedet_{name}").restype = c_char_p
    for name in ("max_detections", "class_count"):
        getattr(loaded, f"edgedet_{name}").restype = c_size_t
    for name in ("backend", "precision", "device", "max_detections", "class_count", "close"):
        getattr(loaded, f"edgedet_{name}").argtypes = [c_void_p]
    for name in ("class_name", "category_id"):
        getattr(loaded, f"edgedet_{name}").argtypes = [c_void_p, c_size_t]
    loaded.edgedet_open.argtypes = [c_char_p, c_void_p, c_void_p]
    loaded.edgedet_detect.argtypes = [c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_void_p]
    return loaded


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("c")
    return tiny_onnx.logits_bundle(folder, category_ids=[10, 20, 30])


def default_options(library: ctypes.CDLL) -> Options:
    options = Options()
    library.edgedet_options_init(byref(options), c_size_t(sizeof(options)))
    return options


@pytest.fixture(scope="module")
def detector(library: ctypes.CDLL, bundle: Path) -> Iterator[c_void_p]:
    options = default_options(library)
    options.threads = 1
    opened = c_void_p()
    assert library.edgedet_open(str(bundle).encode(), byref(options), byref(opened)) == 0
    yield opened
    library.edgedet_close(opened)


def view(library: ctypes.CDLL, frame: NDArray[np.uint8], kind: type[ctypes.Structure] = Image) -> ctypes.Structure:
    image = kind()
    library.edgedet_image_init(byref(image), c_size_t(sizeof(image)))
    image.data = frame.ctypes.data_as(POINTER(c_uint8))
    image.height, image.width = frame.shape[:2]
    image.stride = frame.strides[0]
    return image


def detect(
    library: ctypes.CDLL, detector: c_void_p, kind: type[ctypes.Structure] = Image
) -> list[list[tuple[float, ...]]]:
    """Rows of both frames in one call."""
    images = (kind * 2)(*(view(library, frame, kind) for frame in FRAMES))
    most = library.edgedet_max_detections(detector)
    found, counts = (Found * (2 * most))(), (c_size_t * 2)()
    assert library.edgedet_detect(detector, images, 2, found, most, counts, None) == 0, library.edgedet_last_error()
    rows = [found[i * most : i * most + counts[i]] for i in range(2)]
    return [[(row.x0, row.y0, row.x1, row.y1, row.score, row.label) for row in image] for image in rows]


def python_rows(bundle: Path) -> list[list[tuple[float, ...]]]:
    found = edgedet.Detector(bundle, threads=1)(FRAMES)
    return [[(*map(float, one.box), float(one.score), int(one.label)) for one in image] for image in found]


@pytest.mark.parametrize("kind", [Image, LaterImage])
def test_the_rows_are_those_of_python(
    library: ctypes.CDLL, detector: c_void_p, bundle: Path, kind: type[ctypes.Structure]
) -> None:
    assert detect(library, detector, kind) == python_rows(bundle)


def test_what_runs(library: ctypes.CDLL, detector: c_void_p, bundle: Path) -> None:
    info = edgedet.Detector(bundle, threads=1).info
    assert library.edgedet_version().decode() == edgedet.__version__
    assert library.edgedet_backend(detector).decode() == info.backend
    assert library.edgedet_precision(detector).decode() == info.precision
    assert library.edgedet_device(detector).decode() == info.device
    assert library.edgedet_max_detections(detector) == 9
    names = [library.edgedet_class_name(detector, i).decode() for i in range(library.edgedet_class_count(detector))]
    assert tuple(names) == info.classes
    assert [library.edgedet_category_id(detector, i) for i in range(3)] == [10, 20, 30]
    assert library.edgedet_class_name(detector, 3) is None
    assert library.edgedet_class_name(None, 0) is None
    assert library.edgedet_max_detections(None) == 0
    library.edgedet_close(None)


def test_stages_are_timed(library: ctypes.CDLL, detector: c_void_p) -> None:
    times = Times(size=sizeof(Times))
    found, counts = (Found * 9)(), (c_size_t * 1)()
    image = view(library, FRAMES[0])
    assert library.edgedet_detect(detector, byref(image), 1, found, 9, counts, byref(times)) == 0
    assert times.inference > 0
    assert library.edgedet_detect(detector, None, 0, None, 0, None, None) == 0


def test_threads_share_a_detector(library: ctypes.CDLL, detector: c_void_p, bundle: Path) -> None:
    expected = python_rows(bundle)
    wrong: list[object] = []

    def work() -> None:
        wrong.extend(rows for rows in (detect(library, detector) for _ in range(50)) if rows != expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_errors_of_opening(library: ctypes.CDLL, bundle: Path, tmp_path: Path) -> None:
    opened = c_void_p(1)

    def open_with(folder: bytes | None, options: Options | None) -> tuple[int, str]:
        status = library.edgedet_open(folder, byref(options) if options else None, byref(opened))
        return status, library.edgedet_last_error().decode()

    good, folder = default_options(library), str(bundle).encode()
    assert open_with(str(tmp_path / "none").encode(), good)[0] == BUNDLE
    assert opened.value is None
    assert open_with(None, good) == (INVALID, "bundle: expected a string, got null")
    assert "expected at least" in open_with(folder, Options())[1]  # never filled in
    for field, value, message in (
        ("backend", b"none", "backend: expected auto or one of"),
        ("backend", None, "options.backend: expected a string"),
        ("throughput", 2, "options.throughput"),
        ("score_threshold", 2.0, "score_threshold: expected"),
        ("threads", -1, "threads: expected"),
    ):
        bad = default_options(library)
        setattr(bad, field, value)
        status, said = open_with(folder, bad)
        assert status == INVALID
        assert message in said
    assert library.edgedet_open(folder, None, None) == INVALID
    assert open_with(folder, None)[0] == 0
    library.edgedet_close(opened)


def test_errors_of_detecting(library: ctypes.CDLL, detector: c_void_p) -> None:
    found, counts = (Found * 9)(), (c_size_t * 1)()

    def refused(image: ctypes.Structure | None, capacity: int = 9, times: Times | None = None) -> str:
        given = byref(image) if image else None
        status = library.edgedet_detect(
            detector, given, 1, found, capacity, counts, byref(times) if times is not None else None
        )
        assert status == INVALID
        return str(library.edgedet_last_error().decode())

    image = view(library, FRAMES[0])
    assert "expected pointers" in refused(None)
    assert "expected at least 9 rows an image, got 8" in refused(image, capacity=8)
    assert "times.size" in refused(image, times=Times())
    image.format = 9
    assert "edgedet_format" in refused(image)
    image.format, image.size = 0, 8
    assert "image.size: expected at least" in refused(image)
    image.size = sizeof(Image) + 1
    assert "size of a struct" in refused(image)
    image.size, image.data = sizeof(Image), None
    assert "image" in refused(image)
    assert library.edgedet_detect(None, None, 0, None, 0, None, None) == INVALID

"""What other libraries hold: Pillow's images and arrays with DLPack on the host; and what Detections can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
import torch
from PIL import Image

from edgedet import Detection, Detections, Detector, ImageError, InvalidInputError
from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle
from edgedet.image_input import as_pixels


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    folder = tmp_path_factory.mktemp("inputs")
    bundle = write_bundle(
        folder / "bundle",
        tiny_onnx.logits_model(folder / "tiny.onnx"),
        name="tiny",
        input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE),
        output=LogitsBoxes(top_k=9),
        classes=tiny_onnx.CLASSES,
    )
    return Detector(bundle, threads=1)


PIXELS = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)


def same(a: Detections, b: Detections) -> bool:
    return a.names == b.names and np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_pillow_images_are_rgb_whatever_the_format(detector: Detector, mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    expected = detector(np.asarray(image.convert("RGB")))
    for format in ("rgb", "bgr", "gray", "nv12"):
        assert same(detector(image, format=format), expected)  # type: ignore[call-overload]
    mixed = detector([PIXELS[..., ::-1], image], format="bgr")
    assert same(mixed[0], detector(PIXELS))
    assert same(mixed[1], expected)


def test_one_and_several_by_name(detector: Detector) -> None:
    expected = detector(PIXELS)
    assert same(detector.detect(PIXELS[..., ::-1], format="bgr"), expected)
    both = detector.detect_batch((PIXELS, PIXELS[..., ::-1].copy()))
    assert [same(one, expected) for one in both] == [True, False]
    assert detector.detect_batch([]) == []
    with pytest.raises(InvalidInputError, match="expected"):
        detector.detect([PIXELS])  # type: ignore[arg-type]


def test_an_opened_file_is_taken_as_it_is(detector: Detector, tmp_path: Path) -> None:
    """Not turned by EXIF data, unlike a path: boxes are in the frame of the image that the caller has."""
    file = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(file, exif=exif)
    with Image.open(file) as image:
        assert same(detector(image), detector(PIXELS))
    assert same(detector(file), detector(np.rot90(PIXELS, -1)))


def test_pillow_images_that_cannot_be_read(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="image 0: pixels of type 'F'"):
        detector(Image.fromarray(np.zeros((4, 4), np.float32)))
    file = tmp_path / "cut.jpg"
    Image.fromarray(PIXELS.repeat(8, 0).repeat(8, 1)).save(file)
    file.write_bytes(file.read_bytes()[:3000])
    with Image.open(file) as image, pytest.raises(ImageError, match=r"image 0: .*truncated"):
        detector(image)


def test_tensors_on_the_host_are_not_copied(detector: Detector) -> None:
    tensor = torch.from_numpy(PIXELS.copy())
    pixels, is_rgb = as_pixels(tensor, "rgb", 0)
    assert isinstance(pixels, np.ndarray)
    assert pixels.ctypes.data == tensor.data_ptr()
    assert not is_rgb
    assert same(detector(tensor), detector(PIXELS))  # type: ignore[call-overload]
    cropped, _ = as_pixels(tensor[3:, 5:60], "rgb", 0)
    assert isinstance(cropped, np.ndarray)
    assert cropped.ctypes.data == tensor[3:, 5:60].data_ptr()
    grey = torch.from_numpy(np.repeat(PIXELS[..., 0], 1, axis=0))
    planes = (grey, grey[: len(grey) // 2])
    assert same(detector(planes, format="nv12"), detector(tuple(np.asarray(p) for p in planes), format="nv12"))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(48, 80, 3), "type float32; scale the pixels"),
        (torch.zeros(3, 48, 80, dtype=torch.uint8), r"put the channels last .* \.permute\(1, 2, 0\)"),
        (torch.zeros(1, 48, 80, 3, dtype=torch.uint8), "pass a batch as a list"),
        (torch.zeros(48, 80, 3, requires_grad=True), "image 0: expected an array that DLPack hands out"),
        (torch.zeros(4, 4, 3, dtype=torch.bfloat16), "image 0"),
    ],
)
def test_tensors_that_are_no_images(detector: Detector, image: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        detector(image)


def detections(count: int = 4) -> Detections:
    boxes = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
    scores = np.linspace(0.9, 0.1, count, dtype=np.float32)
    return Detections(boxes, scores, np.arange(count, dtype=np.int32), [f"n{i}" for i in range(count)])


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        (slice(9, 12), []),
        ([2, 0], [2, 0]),
        ([], []),
        ([True, False, False, True], [0, 3]),
        (np.array([False, True, False, True]), [1, 3]),
        (np.array([-1]), [3]),
    ],
)
def test_rows_of_detections(rows: Any, places: list[int]) -> None:
    found = detections()
    part = found[rows]
    assert part.names == [f"n{i}" for i in places]
    np.testing.assert_array_equal(part.boxes, found.boxes[places] if places else np.zeros((0, 4)))
    np.testing.assert_array_equal(part.labels, places)
    assert part.boxes.shape == (len(places), 4)


def test_one_row_of_detections() -> None:
    found = detections()
    assert found[1] == list(found)[1]
    assert found[np.int64(-1)] == list(found)[-1]  # type: ignore[call-overload]
    assert isinstance(found[0], Detection)
    for wrong in (4, [7], np.array([True]), [0.5]):
        with pytest.raises(IndexError):
            found[wrong]  # type: ignore[call-overload]
    for wrong in (True, np.zeros((2, 2), np.intp)):
        with pytest.raises(InvalidInputError, match="one-dimensional"):
            found[wrong]  # type: ignore[call-overload]


def test_plots_of_all_inputs(tmp_path: Path) -> None:
    boxes = np.array([[10, 8, 40, 30]], np.float32)
    found = Detections(boxes, np.ones(1, np.float32), np.zeros(1, np.int32), ["cat"])
    before = PIXELS.copy()
    drawn = np.asarray(found.plot(PIXELS))
    np.testing.assert_array_equal(PIXELS, before)
    assert drawn.shape == PIXELS.shape
    changed = (drawn != PIXELS).any(axis=2)
    assert changed[8, 10:40].all()
    assert changed[8:30, 10].all()
    assert not changed[33:, :].any()
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    inputs: list[tuple[Any, Any]] = [
        (Image.fromarray(PIXELS), "rgb"),
        (tmp_path / "a.png", "bgr"),
        (PIXELS[..., ::-1], "bgr"),
        (torch.from_numpy(PIXELS), "rgb"),
    ]
    for image, format in inputs:
        np.testing.assert_array_equal(np.asarray(found.plot(image, format=format)), drawn)
    grey = np.asarray(found.plot(PIXELS[..., 0], format="gray"))
    assert (grey[40] == np.repeat(PIXELS[40, :, :1], 3, axis=1)).all()
    assert np.asarray(found[:0].plot(PIXELS)).tolist() == PIXELS.tolist()
    with pytest.raises(InvalidInputError, match="convert it"):
        found.plot(np.zeros((48, 80), np.uint8), format="nv12")


def test_pillow_is_not_loaded_for_arrays() -> None:
    import subprocess
    import sys

    code = "import sys, numpy as np, edgedet.image_input as i; i.as_pixels(np.zeros((4, 4, 3), np.uint8), 'rgb', 0)"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'PIL' not in sys.modules"], check=True)

"""read_image: the pixels that Pillow gives, or an ImageError, in bounded time and memory."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import edgedet
from edgedet.images import find_images, read_image

# Runs in a process of its own: reads every file under a memory limit and reports, per file, a digest of the pixels or
# the error. One line each, so that a crash shows which file was next.
SWEEP = """
import hashlib, json, resource, sys, time
from pathlib import Path
import edgedet
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.perf_counter()
    try:
        image = edgedet.read_image(path)
        said = [image.shape, str(image.dtype), hashlib.sha256(image.tobytes()).hexdigest()]
    except edgedet.ImageError as error:
        said = str(error)
    print(json.dumps([path.name, said, time.perf_counter() - start]), flush=True)
"""
MEMORY = 2 << 30  # address space; the interpreter with OpenVINO's libraries takes most of the first GB
SECONDS_PER_FILE = 5.0
# One channel of 16 bits: Pillow's conversion saturates at 255, so edgedet refuses them (see edgedet.images).
REFUSED = {
    "image-rs__tests__images__png__16bpc__basi0g16.png",
    "libjpeg-turbo__testimages__monkey16.pgm",
    "python-pillow__Tests__images__i_trns.png",
}


def pillow_digest(path: Path) -> list[object] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # Pillow raises whatever its parsers trip over
        return None
    return [list(pixels.shape), str(pixels.dtype), hashlib.sha256(pixels.tobytes()).hexdigest()]


def test_every_odd_file_decodes_as_pillow_does_or_is_refused(shared: Path) -> None:
    folder = shared / "data" / "odd_images"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", SWEEP, str(folder), str(MEMORY)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:] + "\nafter " + result.stdout[-200:]
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == len(list(folder.iterdir())) >= 422
    refused = set()
    for name, said, seconds in lines:
        assert seconds < SECONDS_PER_FILE, name
        expected = pillow_digest(folder / name)
        if isinstance(said, str):
            assert said.startswith(str(folder / name)), said
            if expected is not None:
                refused.add(name)
        else:
            assert said == expected, name
    assert refused == REFUSED


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def gradient() -> Image.Image:
    ramp = np.arange(24 * 16 * 3, dtype=np.uint32).reshape(16, 24, 3)
    return Image.fromarray((ramp * 7 % 256).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_round_trip(gradient: Image.Image, kind: str) -> None:
    image = read_image(encoded(gradient, kind))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_array_equal(image, np.asarray(gradient))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(gradient: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # What the eight values mean, from the EXIF standard: where row 0 and column 0 of the file are on the screen.
    pixels = np.asarray(gradient)
    expected = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }[orientation]
    np.testing.assert_array_equal(read_image(encoded(gradient, "PNG", exif=exif)), expected)


def test_transparency_is_dropped_not_blended() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 0] = 200
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(pixels), "PNG")), pixels[..., :3])


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(data), np.full((4, 4, 3), (255, 0, 0), np.uint8))


def test_sixteen_bit_grey_is_refused_with_a_remedy() -> None:
    data = encoded(Image.fromarray(np.array([[0, 256, 65535]], np.uint16)), "PNG")
    with pytest.raises(edgedet.ImageError, match=r"16.*scale them to 0\.\.255"):
        read_image(data)


@pytest.mark.parametrize("keep", [1, 10, 40, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_truncated_files_are_an_error(gradient: Image.Image, kind: str, keep: int | float) -> None:
    data = encoded(gradient.resize((160, 120)), kind)
    with pytest.raises(edgedet.ImageError):
        read_image(data[: keep if isinstance(keep, int) else int(keep * len(data))])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_the_limit_holds_before_pixels_are_allocated(kind: str) -> None:
    data = encoded(Image.new("RGB", (300, 200)), kind)
    assert read_image(data, max_pixels=60_000).shape == (200, 300, 3)
    with pytest.raises(edgedet.ImageError, match="300x200 is 60000 pixels, the limit is 59999"):
        read_image(data, max_pixels=59_999)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_webp_limit_comes_from_the_header(monkeypatch: pytest.MonkeyPatch, lossless: bool, mode: str) -> None:
    data = encoded(Image.new(mode, (321, 123)), "WEBP", lossless=lossless)

    def opened(*_: object, **__: object) -> None:
        pytest.fail("Pillow allocates the canvas of a WebP file when it opens it")

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(edgedet.ImageError, match="321x123"):
        read_image(data, max_pixels=321 * 123 - 1)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"\x89PNG\r\n\x1a\n", b"not an image at all, only text" * 9])
def test_bytes_that_are_no_image(data: bytes) -> None:
    with pytest.raises(edgedet.ImageError):
        read_image(data)


def test_formats_outside_the_list_are_not_probed(gradient: Image.Image) -> None:
    with pytest.raises(edgedet.ImageError, match="not an image that can be read"):
        read_image(encoded(gradient, "ICO"))


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(edgedet.ImageError, match=r"missing\.png: no such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(edgedet.ImageError, match="got a folder"):
        read_image(tmp_path)
    with pytest.raises(edgedet.InvalidInputError, match="got ndarray"):
        read_image(np.zeros((2, 2, 3), np.uint8))  # type: ignore[arg-type]


def test_readers_in_threads_leave_the_warning_filters_alone(shared: Path) -> None:
    corrupt_exif = shared / "data" / "odd_images" / "python-pillow__Tests__images__hopper_bad_exif.jpg"
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [read_image(corrupt_exif) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    assert find_images(tmp_path) == [tmp_path / "a.PNG", tmp_path / "b.jpg"]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(edgedet.ImageError, match="no such file"):
        find_images(tmp_path / "nothing")
    with pytest.raises(edgedet.ImageError, match="no image in this folder"):
        find_images(tmp_path / "sub.png")

"""Preprocessing against the NumPy reference, OpenCV, Pillow and torch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import reference
from numpy.typing import NDArray

from edgedet import InvalidInputError
from edgedet import preprocess as run

Bytes = NDArray[np.uint8]

# (image width, image height, network width, network height)
SIZES = {
    "shrink": (640, 480, 416, 416),
    "shrink-tall": (120, 200, 96, 64),
    "shrink-much-taller": (70, 400, 64, 40),
    "shrink-by-two": (128, 96, 64, 48),
    "enlarge": (33, 57, 96, 80),
    "enlarge-one-axis": (40, 300, 100, 64),
    "same": (64, 48, 64, 48),
    "one-pixel": (1, 1, 4, 3),
    "to-one-pixel": (37, 23, 1, 1),
    "one-row": (50, 1, 20, 3),
    "one-column": (1, 50, 3, 20),
    "huge-ratio": (1501, 1103, 5, 3),
    "thin": (3, 700, 90, 31),
    "tiny-rows": (2, 2, 7, 9),
    "odd": (101, 67, 43, 29),
}
FILTERS = ("bilinear", "antialias")


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> Bytes:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def levels(image: Bytes, **options: Any) -> NDArray[np.float32]:
    """The network input in grey levels, (H, W, 3)."""
    out: NDArray[np.float32] = run(image, **options)
    return out.transpose(1, 2, 0) * np.float32(255)


def assert_matches_reference(image: Bytes, **options: Any) -> None:
    spec = {key: value for key, value in options.items() if key not in ("dtype", "threads")}
    expected = reference.preprocess(image, **spec)
    got = run(image, **options)
    assert got.shape == expected.shape
    if options.get("dtype") == "float16":
        assert got.dtype == np.float16
        # One rounding to 11 bits; the float32 before it is off by at most 2^-22 of the largest term.
        np.testing.assert_allclose(got, expected, rtol=2**-11, atol=2e-5)
    else:
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_matches_reference(size: tuple[int, int, int, int], filter: str, resize: str) -> None:
    image_width, image_height, width, height = size
    assert_matches_reference(noise(image_width, image_height), width=width, height=height, filter=filter, resize=resize)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize(
    ("image_format", "channels"), list(itertools.product(("rgb", "bgr", "gray", "nv12"), ("rgb", "bgr")))
)
@pytest.mark.parametrize("size", [(94, 62, 40, 52), (20, 90, 33, 17), (2, 2, 5, 4)])
def test_formats(size: tuple[int, int, int, int], image_format: str, channels: str, filter: str) -> None:
    image_width, image_height, width, height = size
    planes = 3 if image_format in ("rgb", "bgr") else 1
    rows = image_height * 3 // 2 if image_format == "nv12" else image_height
    image = noise(image_width, rows, planes)
    for resize in ("stretch", "letterbox"):
        assert_matches_reference(
            image,
            width=width,
            height=height,
            filter=filter,
            resize=resize,
            format=image_format,
            channels=channels,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            pad_value=7,
        )


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("image_format", ["rgb", "gray", "nv12"])
def test_rows_need_not_be_contiguous(image_format: str, filter: str) -> None:
    planes = 3 if image_format == "rgb" else 1
    whole = noise(77, 96, planes)
    image = whole[3:63, 5:67]  # an odd stride, and memory of others behind each row and the last one
    assert not image.flags.c_contiguous
    options = {"width": 48, "height": 40, "filter": filter, "format": image_format}
    np.testing.assert_array_equal(run(image, **options), run(np.ascontiguousarray(image), **options))


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("size", [(62, 60), (2, 2), (64, 34)])
def test_nv12_planes_lie_anywhere(size: tuple[int, int], filter: str) -> None:
    """As a decoder leaves them: chroma before luma here, each with a pitch of its own."""
    width, height = size
    memory = noise(400, 200, 1)
    chroma = memory[1 : 1 + height // 2, 9 : 9 + width]
    luma = memory[80::2][:height, 150 : 150 + width]
    options = {"width": 48, "height": 40, "filter": filter, "format": "nv12"}
    np.testing.assert_array_equal(run((luma, chroma), **options), run(np.vstack((luma, chroma)), **options))


@pytest.mark.parametrize(
    ("luma", "chroma", "message"),
    [
        ((4, 6), (2, 4), r"planes \(4, 6\) and \(2, 4\)"),
        ((4, 6), (4, 6), r"planes \(4, 6\) and \(4, 6\)"),
        ((4, 6), (2, 3, 2), r"got uint8 of shape \(2, 3, 2\)"),
        ((4, 5), (2, 5), "even"),
    ],
)
def test_planes_that_do_not_fit(luma: tuple[int, ...], chroma: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        run((np.zeros(luma, np.uint8), np.zeros(chroma, np.uint8)), width=8, height=8, format="nv12")


@pytest.mark.parametrize("filter", FILTERS)
def test_nothing_behind_the_last_pixel_is_read_into_the_result(filter: str) -> None:
    pixels = noise(41, 31)
    framed = np.full((31, 60, 3), 255, dtype=np.uint8)
    framed[:, :41] = pixels
    options = {"width": 19, "height": 25, "filter": filter}
    np.testing.assert_array_equal(run(framed[:, :41], **options), run(pixels, **options))


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_float16(resize: str, filter: str) -> None:
    options = {
        "width": 61,
        "height": 35,
        "resize": resize,
        "filter": filter,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 4.0),
    }
    image = noise(83, 57)
    assert_matches_reference(image, dtype="float16", **options)
    np.testing.assert_array_equal(run(image, dtype="float16", **options), run(image, **options).astype(np.float16))


@pytest.mark.parametrize("std", [1e-9, 3e-6, 1.0, 300.0, 1e4, 1e8])
def test_float16_rounds_like_numpy_over_its_whole_range(std: float) -> None:
    image = np.arange(256, dtype=np.uint8).reshape(1, 256)
    options = {"width": 256, "height": 1, "format": "gray", "mean": (0.3, 0.5, 0.0), "std": (std, std, std)}
    with np.errstate(over="ignore"):
        expected = run(image, **options).astype(np.float16)
    np.testing.assert_array_equal(run(image, dtype="float16", **options), expected)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_do_not_change_a_bit(threads: int, filter: str) -> None:
    image = noise(200, 151)
    for resize, height in (("stretch", 97), ("letterbox", 160), ("stretch", 1)):
        options = {"width": 64, "height": height, "filter": filter, "resize": resize}
        np.testing.assert_array_equal(run(image, threads=threads, **options), run(image, **options))


def test_letterbox_puts_the_odd_pixel_last() -> None:
    wide = levels(np.zeros((50, 100, 3), np.uint8), width=31, height=31, resize="letterbox", pad_value=200)
    rows = np.flatnonzero((wide == 0).all(axis=(1, 2)))
    assert (rows[0], rows[-1]) == (7, 22)  # 15.5 rows round up to 16: 7 above, 8 below
    tall = levels(np.zeros((100, 50, 3), np.uint8), width=31, height=31, resize="letterbox", pad_value=200)
    columns = np.flatnonzero((tall == 0).all(axis=(0, 2)))
    assert (columns[0], columns[-1]) == (7, 22)
    thin = levels(np.zeros((2, 1000, 3), np.uint8), width=16, height=9, resize="letterbox", pad_value=200)
    assert ((thin == 0).all(axis=(1, 2))).sum() == 1  # never thinner than a pixel


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_bilinear_is_opencv_linear(size: tuple[int, int, int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    image_width, image_height, width, height = size
    image = noise(image_width, image_height, seed=1)
    expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, 3)
    got = np.rint(levels(image, width=width, height=height))
    assert np.abs(got - expected).max() <= 1
    assert (got == expected).mean() >= 0.999


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_antialias_is_pillow_bilinear(size: tuple[int, int, int, int]) -> None:
    pillow = pytest.importorskip("PIL.Image")
    image_width, image_height, width, height = size
    image = noise(image_width, image_height, seed=2)
    source = pillow.fromarray(image)
    shrinks_down = image_height - height
    # Pillows before 13 always resize horizontally first; two calls fix the order for every version.
    if shrinks_down > 0 and shrinks_down > 2 * (image_width - width):
        between = source.resize((image_width, height), pillow.Resampling.BILINEAR)
    else:
        between = source.resize((width, image_height), pillow.Resampling.BILINEAR)
    expected = np.asarray(between.resize((width, height), pillow.Resampling.BILINEAR))
    np.testing.assert_array_equal(np.rint(levels(image, width=width, height=height, filter="antialias")), expected)


def scene(width: int, height: int) -> Bytes:
    """What photographs are made of: gradients, edges, some grain."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 31 + c) + np.cos(y / 17 - c) for c in range(3)], axis=-1)
    edges = 40 * ((x // 23 + y // 29) % 2)[..., None]
    grain = np.random.default_rng(3).normal(0, 4, (height, width, 3))
    return np.clip(110 + 35 * waves + edges + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "size",
    [(640, 480, 416, 416), (500, 480, 320, 320), (1280, 720, 416, 416), (330, 257, 416, 416), (301, 200, 64, 64)],
)
def test_antialias_is_torch_antialias(size: tuple[int, int, int, int]) -> None:
    torch = pytest.importorskip("torch")
    image_width, image_height, width, height = size
    image = scene(image_width, image_height)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(tensor, (height, width), mode="bilinear", antialias=True)
    expected = resized[0].permute(1, 2, 0).numpy().astype(np.int64)
    got = np.rint(levels(image, width=width, height=height, filter="antialias"))
    assert np.abs(got - expected).max() <= 1
    assert (got == expected).mean() >= 0.995  # torch has 16-bit weights, not 22


@pytest.mark.parametrize("filter", FILTERS)
def test_nv12_is_opencv_nv12(filter: str) -> None:
    cv2 = pytest.importorskip("cv2")
    image = noise(128, 96 * 3 // 2, 1, seed=4)
    rgb = cv2.cvtColor(image, cv2.COLOR_YUV2RGB_NV12)
    options = {"width": 100, "height": 60, "filter": filter}
    np.testing.assert_array_equal(run(image, format="nv12", **options), run(rgb, **options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((0, 5, 3), np.uint8)}, "image"),
        ({"image": np.zeros((5, 0, 3), np.uint8)}, "image"),
        ({"image": np.zeros((5, 5, 4), np.uint8)}, "image"),
        ({"image": np.zeros((5, 5, 3), np.float32)}, "uint8"),
        ({"image": np.zeros((5, 10, 3), np.uint8)[:, ::2]}, "strides"),
        ({"image": np.zeros((9, 5), np.uint8), "format": "nv12"}, "NV12"),
        ({"image": np.zeros((7, 4), np.uint8), "format": "nv12"}, "nv12"),
        ({"image": np.zeros((1, 40000), np.uint8), "format": "gray"}, "32768"),
        ({"width": 0}, "sides"),
        ({"height": 40000}, "sides"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
        ({"std": (1.0, float("nan"), 1.0)}, "std"),
        ({"mean": (float("inf"), 0.0, 0.0)}, "mean"),
        ({"pad_value": 256}, "pad_value"),
        ({"filter": "cubic"}, "filter"),
        ({"resize": "crop"}, "resize"),
        ({"threads": 0}, "threads"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"image": np.zeros((5, 5, 3), np.uint8), "width": 4, "height": 4} | change
    with pytest.raises(InvalidInputError, match=message):
        run(arguments.pop("image"), **arguments)

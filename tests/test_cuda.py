"""The frame path on a CUDA device against the CPU's preprocessing and decoding; and without one, what is refused."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from typing import Any, Literal

import numpy as np
import pytest
from conftest import ROOT, skip_or_fail

import edgedet
from edgedet import BackendError, InvalidInputError, ModelError, _core, cuda

Format = Literal["rgb", "bgr", "gray", "nv12"]
WIDTH, HEIGHT = 64, 48
ROWS, CLASSES = 30, 7


def frame(width: int, height: int, format: Format, seed: int = 0) -> Any:
    shape = {"gray": (height, width), "nv12": (height * 3 // 2, width)}.get(format, (height, width, 3))
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def has_device() -> bool:
    return bool(_core.cuda_devices()[0])


@pytest.mark.skipif(has_device(), reason="for machines without a CUDA device")
def test_without_a_device_every_entry_says_so() -> None:
    with pytest.raises(BackendError, match=r"expected a CUDA device, got none: .+"):
        cuda.devices()
    assert cuda.versions()["driver"] == 0
    for make in (
        lambda: cuda.FramePool(None, width=WIDTH, height=HEIGHT),
        lambda: cuda.Preprocessor(width=WIDTH, height=HEIGHT),
        lambda: cuda.Decoder(width=WIDTH, height=HEIGHT),
    ):
        with pytest.raises(BackendError):
            make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "network input sides"),
        ({"resize": "crop"}, "resize: expected one of stretch, letterbox"),
        ({"input_dtype": "int4"}, "dtype: expected one of float32, float16, int8"),
        ({"input_dtype": "int8", "input_scale": 0.0}, "scale of an int8 input"),
        ({"head": "yolo"}, "head: expected one of logits, scored"),
        ({"output_dtype": "int8"}, "output_dtype"),
        ({"label_dtype": "uint8"}, "label_dtype"),
        ({"rows": 0}, "rows, classes"),
        ({"score_threshold": 2.0}, "score_threshold"),
        ({"top_k": 0}, "top_k"),
        ({"paths": 0}, "paths"),
    ],
)
def test_options_are_checked_before_the_device(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        cuda.FramePool(None, **{"width": WIDTH, "height": HEIGHT, **options})


def test_on_the_simulated_runtime() -> None:
    """DLPack, __cuda_array_interface__, lifetimes and threads, in a process with a CUDA runtime of its own."""
    built = sorted(ROOT.glob("build/*/tests/cpp/host_cuda_module/_core*.so"), key=lambda path: path.stat().st_mtime)
    if not built:
        pytest.skip("edgedet was built without its C++ tests, or without CUDA's headers")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "host_cuda_frames.py")],
        env={**os.environ, "EDGEDET_HOST_CUDA_CORE": str(built[-1])},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def torch() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        skip_or_fail("cuda", "this torch has no CUDA")
    return torch


@pytest.mark.cuda
def test_the_kernels_and_frames_of_the_cpp_tests() -> None:
    built = sorted(ROOT.glob("build/*/tests/cpp/edgedet_cuda_tests"), key=lambda path: path.stat().st_mtime)
    if not built:
        skip_or_fail("cuda", "edgedet was built without its C++ tests of CUDA")
    run = subprocess.run([built[-1]], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def to_device(torch: Any, array: Any) -> Any:
    return torch.from_numpy(array).to("cuda")


def spec(**changes: Any) -> dict[str, Any]:
    base = {"width": WIDTH, "height": HEIGHT, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return {**base, **changes}


@pytest.mark.cuda
@pytest.mark.parametrize("filter", ["bilinear", "antialias"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("format", ["rgb", "bgr", "gray", "nv12"])
def test_preprocess_is_the_cpus(torch: Any, filter: str, resize: str, format: Format) -> None:
    """float32, float16 and int8 agree bit for bit: levels are integers, and one multiplication and addition follow."""
    for (width, height), (dtype, scale) in itertools.product(
        [(640, 480), (200, 150), (50, 300), (64, 48), (1920, 1080), (34, 22)],
        [("float32", 1.0), ("float16", 1.0), ("int8", 0.0186)],
    ):
        options = spec(resize=resize, filter=filter, dtype=dtype, scale=scale)
        image = frame(width, height, format)
        right = edgedet.preprocess(image, format=format, **options)
        out = torch.zeros((2, 3, HEIGHT, WIDTH), dtype=getattr(torch, dtype), device="cuda")
        operation = cuda.Preprocessor(**options, max_batch=2)
        stream = torch.cuda.current_stream().cuda_stream
        operation.run([to_device(torch, image)] * 2, out, format=format, stream=stream)
        found = out.cpu().numpy()
        assert np.array_equal(found[0], right), (width, height, dtype)
        assert np.array_equal(found[1], right), (width, height, dtype)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("rows", "classes", "top_k"), [(300, 80, 300), (17, 3, 300), (1000, 1203, 300), (900, 91, 2048)]
)
def test_decode_is_the_cpus(torch: Any, dtype: str, rows: int, classes: int, top_k: int) -> None:
    random = np.random.default_rng(rows)
    logits = random.normal(-4, 2, (2, rows, classes)).astype(dtype)
    logits[:, ::3] = np.round(logits[:, ::3])  # ties
    boxes = random.uniform(0, 1, (2, rows, 4)).astype(dtype)
    options: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "top_k": top_k}
    decoder = cuda.Decoder(**options, rows=rows, classes=classes, dtype=dtype, max_batch=2)
    results = torch.zeros((2, decoder.result_bytes), dtype=torch.uint8, device="cuda")
    outputs = {"logits": to_device(torch, logits), "boxes": to_device(torch, boxes)}
    decoder.run(outputs, [(640, 480), (99, 33)], results, stream=torch.cuda.current_stream().cuda_stream)
    for found, own_logits, own_boxes, (width, height) in zip(
        decoder.read(results.cpu().numpy()), logits, boxes, [(640, 480), (99, 33)], strict=True
    ):
        right = edgedet.decode_logits(
            own_logits.astype(np.float32),
            own_boxes.astype(np.float32),
            image_width=width,
            image_height=height,
            **options,
        )
        assert np.array_equal(found[2], right[2])
        assert np.array_equal(found[0], right[0])
        np.testing.assert_array_max_ulp(found[1], right[1], maxulp=1)


class Toy:
    """A network of torch operations whose outputs depend on every part of its input."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        generator = torch.Generator().manual_seed(0)
        pixels = 3 * HEIGHT * WIDTH
        self.index = torch.randint(0, pixels, (ROWS * (CLASSES + 4),), generator=generator).cuda()

    def __call__(self, buffers: dict[str, Any], batch: int, stream: int) -> None:
        torch = self.torch
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            picked = torch.as_tensor(buffers["input"], device="cuda").reshape(batch, -1)[:, self.index]
            torch.as_tensor(buffers["logits"], device="cuda").copy_(
                picked[:, : ROWS * CLASSES].reshape(batch, ROWS, CLASSES)
            )
            torch.as_tensor(buffers["boxes"], device="cuda").copy_(
                picked[:, ROWS * CLASSES :].reshape(batch, ROWS, 4).sigmoid()
            )

    def right(self, image: Any, format: Format, options: dict[str, Any], top_k: int) -> Any:
        """The same from the CPU's preprocessing, network on the GPU, and the CPU's decoding."""
        network_input = edgedet.preprocess(image, format=format, **options)
        picked = self.torch.from_numpy(network_input).cuda().reshape(-1)[self.index]
        height = image.shape[0] * 2 // 3 if format == "nv12" else image.shape[0]
        return edgedet.decode_logits(
            picked[: ROWS * CLASSES].reshape(ROWS, CLASSES).cpu().numpy(),
            picked[ROWS * CLASSES :].reshape(ROWS, 4).sigmoid().cpu().numpy(),
            width=WIDTH,
            height=HEIGHT,
            image_width=image.shape[1],
            image_height=height,
            top_k=top_k,
        )


def assert_same(found: Any, right: Any) -> None:
    assert np.array_equal(found[2], right[2])
    assert np.array_equal(found[0], right[0])
    np.testing.assert_array_max_ulp(found[1], right[1], maxulp=1)


def make_pool(torch: Any, **changes: Any) -> tuple[Toy, cuda.FramePool]:
    toy = Toy(torch)
    options = {"rows": ROWS, "classes": CLASSES, "top_k": 20, "max_width": 400, "max_height": 400, **changes}
    return toy, cuda.FramePool(toy, **spec(filter="antialias"), **options)


@pytest.mark.cuda
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("where", ["host", "device"])
def test_frames_of_any_size_and_format(torch: Any, graph: bool, where: str) -> None:
    toy, pool = make_pool(torch, max_batch=3, graph=graph)
    formats: tuple[Format, ...] = ("rgb", "bgr", "gray", "nv12")
    for turn in range(12):
        format = formats[turn % 4]
        images = [frame(100 + 22 * (turn % 5), 380 - 20 * i, format, turn + i) for i in range(1 + turn % 3)]
        given = [to_device(torch, image) for image in images] if where == "device" else images
        for found, image in zip(pool.detect(given, format), images, strict=True):
            assert_same(found, toy.right(image, format, spec(filter="antialias"), 20))


@pytest.mark.cuda
def test_a_frame_waits_for_its_producer(torch: Any) -> None:
    """The image is written late on the producer's stream: DLPack makes ours wait."""
    toy, pool = make_pool(torch)
    image = frame(200, 100, "rgb")
    uploaded = to_device(torch, image)
    for _ in range(5):
        late = torch.zeros_like(uploaded)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            late.copy_(uploaded)
            ticket = pool.submit([late])
        assert_same(ticket.result()[0], toy.right(image, "rgb", spec(filter="antialias"), 20))


@pytest.mark.cuda
def test_an_image_that_its_producer_frees_early(torch: Any) -> None:
    toy, pool = make_pool(torch, paths=2)
    image = frame(300, 200, "rgb")
    for _ in range(5):
        given = to_device(torch, image)
        ticket = pool.submit([given])
        pointer = given.data_ptr()
        del given
        other = torch.zeros((200, 300, 3), dtype=torch.uint8, device="cuda")
        assert other.data_ptr() != pointer  # the ticket keeps it
        assert_same(ticket.result()[0], toy.right(image, "rgb", spec(filter="antialias"), 20))


class Interface:
    """An array that has nothing but ``__cuda_array_interface__``."""

    def __init__(self, tensor: Any, **changes: Any) -> None:
        self.tensor = tensor
        self.__cuda_array_interface__ = {**tensor.__cuda_array_interface__, "version": 3, **changes}


@pytest.mark.cuda
def test_cuda_array_interface(torch: Any) -> None:
    toy, pool = make_pool(torch)
    image = frame(120, 90, "rgb")
    tensor = to_device(torch, image)
    right = toy.right(image, "rgb", spec(filter="antialias"), 20)
    torch.cuda.synchronize()
    for stream in (None, 1, 2, torch.cuda.Stream().cuda_stream):
        assert_same(pool.detect([Interface(tensor, stream=stream)])[0], right)
    wide = torch.zeros((90, 200, 3), dtype=torch.uint8, device="cuda")
    wide[:, :120] = tensor
    torch.cuda.synchronize()
    assert_same(pool.detect([Interface(wide[:, :120])])[0], right)  # rows apart
    for changes, message in [
        ({"stream": 0}, "stream 1 .legacy."),
        ({"typestr": "<f4"}, "uint8"),
        ({"shape": (90, 120)}, "as many strides|of shape"),
        ({"strides": (1, 1, 1)}, "strides"),
        ({"data": (image.ctypes.data, False)}, "host memory"),
        ({"mask": 3}, "mask"),
        ({"shape": None}, "__cuda_array_interface__"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            pool.detect([Interface(tensor, **changes)])


@pytest.mark.cuda
def test_images_refused(torch: Any) -> None:
    _, pool = make_pool(torch)
    image = frame(120, 90, "rgb")
    tensor = to_device(torch, image)
    for images, message in [
        ([tensor.permute(2, 0, 1)], "of shape"),
        ([tensor.float()], "uint8"),
        ([tensor[:, ::2]], "strides"),
        ([tensor[:, :, :2]], "of shape"),
        ([tensor, image], "1 to 1 images|all in host"),
        ([frame(401, 90, "rgb")], "at most 400x400"),
        ([to_device(torch, frame(401, 90, "rgb"))], "at most 400x400"),
        ([torch.from_numpy(image)], "NumPy|uint8 array"),
        (["image"], "uint8 array"),
        ([], "1 to 1 images"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            pool.detect(images)
    assert pool.detect([image])


@pytest.mark.cuda
def test_tickets(torch: Any) -> None:
    toy, pool = make_pool(torch, paths=2)
    image = frame(120, 90, "rgb")
    first, second = pool.submit([image]), pool.submit([image])
    with pytest.raises(BackendError, match="2 in flight"):
        pool.submit([image], timeout=0.01)
    right = toy.right(image, "rgb", spec(filter="antialias"), 20)
    assert_same(first.result()[0], right)
    with pytest.raises(InvalidInputError, match="waited for already"):
        first.result()
    del second  # frees its path
    third, fourth = pool.submit([image]), pool.submit([image])
    del pool
    assert_same(third.result()[0], right)
    assert_same(fourth.result()[0], right)


@pytest.mark.cuda
def test_threads_share_a_pool(torch: Any) -> None:
    toy, pool = make_pool(torch, paths=3)
    images = [frame(100 + 10 * i, 300 - 10 * i, "rgb", i) for i in range(6)]
    right = [toy.right(image, "rgb", spec(filter="antialias"), 20) for image in images]
    for image in images[:3]:
        pool.detect([image])
    failures: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for turn in range(20):
                at = (start + turn) % len(images)
                assert_same(pool.detect([images[at]])[0], right[at])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.cuda
def test_waiting_sleeps(torch: Any) -> None:
    def slow(buffers: dict[str, Any], batch: int, stream: int) -> None:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            torch.cuda._sleep(200_000_000)

    pool = cuda.FramePool(slow, **spec(), max_width=100, max_height=100)
    image = frame(100, 100, "rgb")
    pool.detect([image])
    wall, spent = time.perf_counter(), time.thread_time()
    pool.detect([image])
    assert time.thread_time() - spent < 0.25 * (time.perf_counter() - wall)


@pytest.mark.cuda
def test_memory_is_what_the_device_loses(torch: Any) -> None:
    torch.cuda.synchronize()
    free = cuda.devices()[0].free_bytes
    pool = cuda.FramePool(None, **spec(), max_batch=8, paths=2)
    lost = free - cuda.devices()[0].free_bytes
    held = pool.memory["device"]
    assert held > 8 * 3 * 3840 * 2160
    assert held <= lost <= held + 64 * 2**20  # allocations are rounded up, streams and graphs take some
    with pytest.raises(InvalidInputError, match=rf"memory_limit: .* got {held // 2} "):
        cuda.FramePool(None, **spec(), max_batch=8, memory_limit=held // 2 - 1)


@pytest.mark.cuda
def test_failures_of_the_network(torch: Any) -> None:
    def waits(buffers: dict[str, Any], batch: int, stream: int) -> None:
        torch.cuda.ExternalStream(stream).synchronize()

    def raises(buffers: dict[str, Any], batch: int, stream: int) -> None:
        raise KeyError("weights")

    def nan(buffers: dict[str, Any], batch: int, stream: int) -> None:
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            torch.as_tensor(buffers["logits"], device="cuda").fill_(float("nan"))

    image = frame(100, 100, "rgb")
    sizes = {"max_width": 100, "max_height": 100}
    with pytest.raises((BackendError, RuntimeError)):
        cuda.FramePool(waits, **spec(), **sizes).detect([image])
    assert cuda.FramePool(waits, **spec(), **sizes, graph=False).detect([image])
    with pytest.raises(KeyError, match="weights"):
        cuda.FramePool(raises, **spec(), **sizes).detect([image])
    pool = cuda.FramePool(nan, **spec(), **sizes)
    for _ in range(2):
        with pytest.raises(ModelError, match="NaN"):
            pool.detect([image])

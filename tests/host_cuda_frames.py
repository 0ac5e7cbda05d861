"""The Python side of the frame path on a simulated CUDA runtime; run by test_cuda.py in a process of its own.

The module under test is edgedet._core built with tests/cpp/host_cuda: device memory faults on the host, and streams run
as late as they may.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

_path = os.environ["EDGEDET_HOST_CUDA_CORE"]
_spec = importlib.util.spec_from_file_location("edgedet._core", _path)
assert _spec is not None
assert _spec.loader is not None
sys.modules["edgedet._core"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["edgedet._core"])

import edgedet  # noqa: E402
from edgedet import BackendError, InvalidInputError, ModelError, cuda  # noqa: E402

runtime = ctypes.CDLL(_path)
runtime.test_upload.restype = ctypes.c_void_p
runtime.test_upload.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
runtime.test_download.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
runtime.test_free.argtypes = [ctypes.c_void_p, ctypes.c_int]
runtime.test_copy_async.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
runtime.test_make_stream.restype = ctypes.c_size_t
runtime.test_wait.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
runtime.test_synchronize.argtypes = [ctypes.c_size_t]
runtime.test_set_seed.argtypes = [ctypes.c_uint64]
runtime.test_device_bytes.restype = ctypes.c_size_t

WIDTH, HEIGHT, ROWS, CLASSES = 32, 24, 20, 5
CUDA, CUDA_HOST = 2, 3


class Memory:
    """Bytes on the device, or pinned; freed with the object."""

    def __init__(self, array: Any, pinned: bool = False) -> None:
        self.pinned, self.bytes = pinned, array.nbytes
        self.pointer: int = runtime.test_upload(np.ascontiguousarray(array).ctypes.data, array.nbytes, pinned)
        assert self.pointer

    def __del__(self) -> None:
        assert runtime.test_free(self.pointer, self.pinned) == 0


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("index", ctypes.c_int32))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_alive: dict[int, Any] = {}  # what a capsule owns, until its deleter is called


class DLPackArray:
    """An array of a library that knows DLPack only. `producer`: the stream that writes it."""

    def __init__(
        self,
        memory: Memory,
        shape: Sequence[int],
        *,
        strides: Sequence[int] | None = None,
        device: tuple[int, int] = (CUDA, 0),
        dtype: tuple[int, int] = (1, 8),
        offset: int = 0,
        producer: int = 0,
    ) -> None:
        self.memory, self.shape, self.strides, self.device = memory, tuple(shape), strides, device
        self.dtype, self.offset, self.producer = dtype, offset, producer
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: int | None = None) -> Any:
        self.streams.append(stream)
        if self.producer and stream is not None:
            assert runtime.test_wait(stream, self.producer) == 0
        managed = _Managed()
        tensor = managed.tensor
        tensor.data, tensor.device, tensor.ndim = self.memory.pointer, _Device(*self.device), len(self.shape)
        tensor.code, tensor.bits, tensor.lanes = *self.dtype, 1
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
        strides = None
        if self.strides is not None:
            strides = (ctypes.c_int64 * len(self.strides))(*self.strides)
            tensor.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
        tensor.byte_offset = self.offset
        address = ctypes.addressof(managed)
        managed.deleter = _Deleter(lambda pointer: _alive.pop(pointer, None))
        _alive[address] = (managed, shape, strides, self.memory)
        return _new_capsule(address, b"dltensor", None)


class InterfaceArray:
    """An array of a library that knows ``__cuda_array_interface__`` only."""

    def __init__(self, memory: Memory, shape: Any, typestr: str = "|u1", **changes: Any) -> None:
        self.memory = memory
        self.__cuda_array_interface__ = {
            "data": (memory.pointer, False),
            "shape": shape,
            "typestr": typestr,
            "version": 3,
            **changes,
        }

    def numpy(self) -> Any:
        interface = self.__cuda_array_interface__
        out = np.empty(interface["shape"], np.dtype(interface["typestr"]))
        assert runtime.test_download(out.ctypes.data, self.memory.pointer, out.nbytes) == 0
        return out


def frame(width: int, height: int, seed: int = 0, channels: int = 3) -> Any:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def spec(**changes: Any) -> dict[str, Any]:
    return {"width": WIDTH, "height": HEIGHT, "resize": "letterbox", "filter": "antialias", **changes}


class Toy:
    """A network whose logits and boxes are given, and which notes how it was called."""

    def __init__(self, batch: int = 2) -> None:
        random = np.random.default_rng(5)
        self.logits = random.normal(0, 2, (batch, ROWS, CLASSES)).astype(np.float32)
        self.boxes = random.uniform(0, 1, (batch, ROWS, 4)).astype(np.float32)
        self.memory = [Memory(self.logits, pinned=True), Memory(self.boxes, pinned=True)]
        self.calls: list[tuple[int, dict[str, tuple[int, ...]]]] = []

    def __call__(self, buffers: dict[str, cuda.DeviceView], batch: int, stream: int) -> None:
        self.calls.append((batch, {name: view.shape for name, view in buffers.items()}))
        for name, memory, size in zip(("logits", "boxes"), self.memory, (ROWS * CLASSES, ROWS * 4), strict=True):
            assert runtime.test_copy_async(buffers[name].pointer, memory.pointer, 4 * batch * size, stream) == 0

    def right(self, index: int, width: int, height: int) -> Any:
        return edgedet.decode_logits(
            self.logits[index],
            self.boxes[index],
            width=WIDTH,
            height=HEIGHT,
            image_width=width,
            image_height=height,
            resize="letterbox",
            top_k=10,
        )


def make_pool(network: Any, **changes: Any) -> cuda.FramePool:
    options = {"rows": ROWS, "classes": CLASSES, "top_k": 10, "max_width": 128, "max_height": 128, **changes}
    return cuda.FramePool(network, **spec(), **options)


def assert_same(found: Any, right: Any) -> None:
    for one, other in zip(found, right, strict=True):
        assert np.array_equal(one, other)


@pytest.fixture(autouse=True)
def _no_capsule_is_left() -> Any:
    yield
    gc.collect()
    assert not _alive


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("where", ["host", "dlpack", "interface"])
def test_detect(graph: bool, where: str) -> None:
    toy = Toy()
    pool = make_pool(toy, max_batch=2, graph=graph)
    for turn in range(6):
        runtime.test_set_seed(turn)
        images = [frame(60 + 10 * turn, 100 - 7 * turn, turn), frame(128, 30 + turn, turn)][: 1 + turn % 2]
        given: list[Any] = images
        if where == "dlpack":
            given = [DLPackArray(Memory(image), image.shape) for image in images]
        elif where == "interface":
            given = [InterfaceArray(Memory(image), image.shape) for image in images]
        results = pool.detect(given)
        assert len(results) == len(images)
        for index, (found, image) in enumerate(zip(results, images, strict=True)):
            assert_same(found, toy.right(index, image.shape[1], image.shape[0]))
    assert toy.calls[0] == (
        1,
        {"input": (1, 3, HEIGHT, WIDTH), "logits": (1, ROWS, CLASSES), "boxes": (1, ROWS, 4)},
    )
    assert len(toy.calls) == (4 if graph else 6)  # once to warm up and once to be captured, for each batch size


def test_scored_heads_are_given_their_buffers() -> None:
    seen: list[dict[str, Any]] = []

    def network(buffers: dict[str, cuda.DeviceView], batch: int, stream: int) -> None:
        seen.append({name: view.__cuda_array_interface__ for name, view in buffers.items()})

    pool = make_pool(network, head="scored", label_dtype="int32", output_dtype="float16", input_dtype="int8")
    [(boxes, scores, labels)] = pool.detect([frame(30, 40)])
    assert boxes.shape == (10, 4)
    assert not scores.any()
    assert not labels.any()
    assert {name: (view["typestr"], view["shape"]) for name, view in seen[0].items()} == {
        "input": ("|i1", (1, 3, HEIGHT, WIDTH)),
        "labels": ("<i4", (1, ROWS)),
        "boxes": ("<f2", (1, ROWS, 4)),
        "scores": ("<f2", (1, ROWS)),
    }


@pytest.mark.parametrize("kind", [DLPackArray, InterfaceArray])
def test_a_producer_that_is_late(kind: Any) -> None:
    """The image is written on the producer's stream when the frame is queued; the frame must wait for it."""
    image = frame(50, 40)
    source = Memory(image, pinned=True)
    preprocessor_right = edgedet.preprocess(image, **spec())
    stream = runtime.test_make_stream()
    seen: list[Any] = []

    def network(buffers: dict[str, cuda.DeviceView], batch: int, stream: int) -> None:
        assert runtime.test_copy_async(keep.pointer, buffers["input"].pointer, keep.bytes, stream) == 0

    keep = Memory(np.zeros((1, 3, HEIGHT, WIDTH), np.float32))
    pool = make_pool(network)
    for seed in range(12):
        runtime.test_set_seed(seed)
        target = Memory(np.zeros_like(image))
        assert runtime.test_copy_async(target.pointer, source.pointer, source.bytes, stream) == 0
        given = (
            kind(target, image.shape, producer=stream)
            if kind is DLPackArray
            else kind(target, image.shape, stream=stream)
        )
        pool.detect([given])
        found = np.empty((1, 3, HEIGHT, WIDTH), np.float32)
        assert runtime.test_download(found.ctypes.data, keep.pointer, found.nbytes) == 0
        seen.append(np.array_equal(found[0], preprocessor_right))
    assert all(seen)


def test_an_image_lives_as_long_as_its_frame() -> None:
    toy = Toy()
    pool = make_pool(toy, paths=2)
    image = frame(50, 40)
    pool.detect([image])
    for wait in (True, False):
        before = runtime.test_device_bytes()
        ticket = pool.submit([DLPackArray(Memory(image), image.shape)])
        gc.collect()
        assert len(_alive) == 1
        assert runtime.test_device_bytes() == before + image.nbytes
        if wait:
            assert_same(ticket.result()[0], toy.right(0, 50, 40))
        del ticket
        assert not _alive
        assert runtime.test_device_bytes() == before


def test_pinned_images_are_read_in_place() -> None:
    toy = Toy()
    pool = make_pool(toy)
    image = frame(50, 40)
    given = DLPackArray(Memory(image, pinned=True), image.shape, device=(CUDA_HOST, 0))
    assert_same(pool.detect([given])[0], toy.right(0, 50, 40))
    assert given.streams == [None]


def test_strides_and_offsets() -> None:
    image = frame(50, 40)
    wide = np.zeros((40, 64, 3), np.uint8)
    wide[:, 4:54] = image
    right = edgedet.preprocess(image, **spec())
    preprocessor = cuda.Preprocessor(**spec(), max_width=64, max_height=64)
    memory = Memory(wide)
    for given in (
        DLPackArray(memory, image.shape, strides=(192, 3, 1), offset=12),
        InterfaceArray(memory, image.shape, strides=(192, 3, 1), data=(memory.pointer + 12, True)),
    ):
        out = InterfaceArray(Memory(np.zeros((1, 3, HEIGHT, WIDTH), np.float32)), (1, 3, HEIGHT, WIDTH), "<f4")
        preprocessor.run([given], out)
        assert np.array_equal(out.numpy()[0], right)


DLPACK_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another device": ({"device": (CUDA, 1)}, "device 0, got memory of device 1"),
    "a device of another make": ({"device": (10, 0)}, "DLPack device type 10"),
    "float32": ({"dtype": (2, 32)}, "uint8 array"),
    "16 bits": ({"dtype": (1, 16)}, "uint8 array"),
    "every other pixel": ({"strides": (150, 6, 1)}, "strides"),
    "rows that overlap": ({"strides": (100, 3, 1)}, "strides"),
    "planes": ({"strides": (50, 1, 2000)}, "strides"),
    "upside down": ({"strides": (-150, 3, 1), "offset": 39 * 150}, "strides"),
}


@pytest.mark.parametrize("fault", DLPACK_FAULTS)
def test_dlpack_refused(fault: str) -> None:
    changes, message = DLPACK_FAULTS[fault]
    pool = make_pool(None)
    with pytest.raises(InvalidInputError, match=message):
        pool.detect([DLPackArray(Memory(frame(50, 40)), (40, 50, 3), **changes)])
    assert pool.detect([frame(50, 40)])  # the path is free again


INTERFACE_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "stream 0": ({"stream": 0}, "stream 1 .legacy."),
    "float32": ({"typestr": "<f4"}, "uint8 array"),
    "a type that is none": ({"typestr": "?"}, "__cuda_array_interface__"),
    "strides of another rank": ({"strides": (1, 1)}, "as many strides"),
    "no shape": ({"shape": None}, "__cuda_array_interface__"),
    "no data": ({"data": None}, "__cuda_array_interface__"),
    "a mask": ({"mask": object()}, "mask"),
    "host memory": ({"data": (frame(50, 40).ctypes.data, False)}, "ordinary host memory"),
    "no memory": ({"data": (0, False)}, "host memory|null"),
    "a side that is negative": ({"shape": (40, -50, 3)}, "image"),
}


@pytest.mark.parametrize("fault", INTERFACE_FAULTS)
def test_interface_refused(fault: str) -> None:
    changes, message = INTERFACE_FAULTS[fault]
    pool = make_pool(None)
    memory = Memory(frame(50, 40))
    with pytest.raises(InvalidInputError, match=message):
        pool.detect([InterfaceArray(memory, **{"shape": (40, 50, 3), **changes})])
    assert pool.detect([frame(50, 40)])


def test_images_of_two_streams_refused() -> None:
    """An array with DLPack is written on a stream of the pool's, one with the other interface on its own."""
    pool = make_pool(None, max_batch=2)
    image = frame(50, 40)
    by_dlpack = DLPackArray(Memory(image), image.shape)
    producer = runtime.test_make_stream()
    for images in (
        [by_dlpack, InterfaceArray(Memory(image), image.shape, stream=producer)],
        [InterfaceArray(Memory(image), image.shape, stream=producer), by_dlpack],
        [InterfaceArray(Memory(image), image.shape, stream=s) for s in (producer, runtime.test_make_stream())],
    ):
        with pytest.raises(InvalidInputError, match="one stream that writes them all"):
            pool.detect(images)
    assert len(pool.detect([by_dlpack, InterfaceArray(Memory(image), image.shape)])) == 2


def test_other_images_refused() -> None:
    pool = make_pool(None, max_batch=2)
    image = frame(50, 40)
    on_device = DLPackArray(Memory(image), image.shape)

    class OwnCapsule(DLPackArray):
        def __dlpack__(self, stream: int | None = None) -> Any:
            return _new_capsule(1, b"used_dltensor", None)

    for images, message in (
        ([on_device, image], "all in host memory or all in device memory"),
        ([image, on_device], "all in host memory or all in device memory"),
        ([OwnCapsule(Memory(image), image.shape)], "another capsule"),
        ([DLPackArray(Memory(image), image.shape, device=(1, 0))], "uint8 array"),
        ([None], "uint8 array"),
        ([], "1 to 2 images"),
        ([image] * 3, "1 to 2 images"),
        ([frame(129, 10)], "at most 128x128"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            pool.detect(images)


def test_networks_that_fail() -> None:
    image = frame(50, 40)

    def raises(buffers: Any, batch: int, stream: int) -> None:
        raise KeyError("weights")

    def waits(buffers: Any, batch: int, stream: int) -> None:
        runtime.test_synchronize(stream)

    pool = make_pool(raises)
    for _ in range(2):
        with pytest.raises(KeyError, match="weights"):
            pool.detect([image])
    with pytest.raises(BackendError, match="set graph to false"):
        make_pool(waits).detect([image])
    assert make_pool(waits, graph=False).detect([image])
    toy = Toy()
    toy.memory[0] = Memory(np.full_like(toy.logits, np.nan), pinned=True)
    with pytest.raises(ModelError, match="NaN"):
        make_pool(toy).detect([image])


def test_tickets_and_paths() -> None:
    toy = Toy()
    pool = make_pool(toy, paths=2)
    image = frame(50, 40)
    right = toy.right(0, 50, 40)
    first, second = pool.submit([image]), pool.submit([image])
    with pytest.raises(BackendError, match="2 in flight"):
        pool.submit([image], timeout=0.01)
    assert_same(second.result()[0], right)
    assert second.done()
    with pytest.raises(InvalidInputError, match="waited for already"):
        second.result()
    del first
    last = pool.submit([image])
    del pool, toy
    gc.collect()
    assert_same(last.result()[0], right)
    del last


def test_threads_share_a_pool() -> None:
    toy = Toy()
    pool = make_pool(toy, paths=2)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for turn in range(10):
                image = frame(40 + turn, 50 + seed, seed)
                given = image if turn % 2 else DLPackArray(Memory(image), image.shape)
                assert_same(pool.detect([given])[0], toy.right(0, image.shape[1], image.shape[0]))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_memory() -> None:
    before = runtime.test_device_bytes()
    pool = make_pool(None, max_batch=3, paths=2)
    assert runtime.test_device_bytes() - before == pool.memory["device"]
    needed = pool.memory["device"]
    del pool
    assert runtime.test_device_bytes() == before
    assert make_pool(None, max_batch=3, paths=2, memory_limit=needed)
    with pytest.raises(
        InvalidInputError, match=rf"at most {needed // 2 - 1} bytes of device memory, got {needed // 2} "
    ):
        make_pool(None, max_batch=3, paths=2, memory_limit=needed - 2)


def on_device(array: Any) -> InterfaceArray:
    return InterfaceArray(Memory(array), array.shape, array.dtype.str)


def refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_preprocessor(dtype: str) -> None:
    options = spec(dtype=dtype, scale=0.01, mean=(0.5, 0.4, 0.3))
    images = [frame(50, 40), frame(33, 90, 1)]
    preprocessor = cuda.Preprocessor(**options, max_batch=2, max_width=128, max_height=128)
    out = on_device(np.zeros((2, 3, HEIGHT, WIDTH), dtype))
    preprocessor.run([on_device(image) for image in images], out, format="bgr")
    for found, image in zip(out.numpy(), images, strict=True):
        assert np.array_equal(found, edgedet.preprocess(image, format="bgr", **options))
    given = on_device(images[0])
    small = on_device(np.zeros((1, 3, HEIGHT, WIDTH + 1), dtype))
    refused(lambda: preprocessor.run([given], out), r"out: .* shape \(1, 3")
    refused(lambda: preprocessor.run([given], small), "out: ")
    refused(lambda: preprocessor.run([given], np.zeros((1, 3, HEIGHT, WIDTH), dtype)), "out: .*interface")
    refused(lambda: preprocessor.run([images[0]], on_device(np.zeros((1, 3, HEIGHT, WIDTH), dtype))), "host memory")
    refused(lambda: preprocessor.run([], out), r"out: .* shape \(0, 3")


def test_preprocessor_waits_for_producers() -> None:
    image = frame(50, 40)
    source = Memory(image, pinned=True)
    right = edgedet.preprocess(image, **spec())
    preprocessor = cuda.Preprocessor(**spec(), max_width=64, max_height=64)
    producer = runtime.test_make_stream()
    for seed in range(8):
        runtime.test_set_seed(seed)
        target = Memory(np.zeros_like(image))
        out = on_device(np.zeros((1, 3, HEIGHT, WIDTH), np.float32))
        assert runtime.test_copy_async(target.pointer, source.pointer, source.bytes, producer) == 0
        preprocessor.run([InterfaceArray(target, image.shape, stream=producer)], out)
        assert np.array_equal(out.numpy()[0], right)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_decoder(dtype: str) -> None:
    toy = Toy()
    logits, boxes = toy.logits.astype(dtype), toy.boxes.astype(dtype)
    options: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "resize": "letterbox", "top_k": 10}
    decoder = cuda.Decoder(**options, rows=ROWS, classes=CLASSES, dtype=dtype, max_batch=2)
    outputs = {"logits": on_device(logits), "boxes": on_device(boxes)}
    sizes = [(50, 40), (31, 99)]
    results = on_device(np.zeros((2, decoder.result_bytes), np.uint8))
    decoder.run(outputs, sizes, results)
    for index, found in enumerate(decoder.read(results.numpy())):
        width, height = sizes[index]
        right = edgedet.decode_logits(
            logits[index].astype(np.float32),
            boxes[index].astype(np.float32),
            image_width=width,
            image_height=height,
            **options,
        )
        assert_same(found, right)
    refused(lambda: decoder.run({"logits": outputs["logits"]}, sizes, results), 'expected "boxes"')
    refused(lambda: decoder.run(outputs, sizes[:1], results), r"boxes: .* shape \(1, ")
    refused(lambda: decoder.run(outputs, [(0, 1), (1, 1)], results), "sizes")
    refused(lambda: decoder.run(outputs, sizes, on_device(np.zeros((2, 8), np.uint8))), "results")
    refused(lambda: decoder.read(np.zeros((2, 8), np.uint8)), "results")
    refused(lambda: decoder.read(np.full((1, decoder.result_bytes), 255, np.uint8)), "count of -1")


def test_devices() -> None:
    [device] = cuda.devices()
    assert device.compute_capability == (9, 0)
    assert (device.index, device.name) == (0, "simulated")
    assert not device.integrated
    assert 0 < device.free_bytes <= device.total_bytes
    assert cuda.versions()["runtime"] >= 11000

"""`copy`, `preprocess` and `decode`: one operation at a time, on the device's clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

import edgedet
from benchmarks.cuda_frames import figures, timing, torch_peer
from benchmarks.cuda_frames.figures import Row, gigabytes_a_second, summary
from benchmarks.cuda_frames.record import Scale, measure_rows
from benchmarks.cuda_frames.timing import InPlace, current_stream, gpu_times, need_torch
from edgedet import cuda

Format = Literal["bgr", "nv12"]
Filter = Literal["bilinear", "antialias"]
DType = Literal["float32", "float16"]

SIZES = ((3840, 2160), (1920, 1080))
_COPY_BYTES = 2**30
_LEAST_CALLS = 32  # a sample: what a graph needs to start is spread over them
_DECODE_CALLS = 64
_TOP_K = 300


@dataclass(frozen=True)
class PreprocessCase:
    width: int
    height: int
    format: Format
    filter: Filter
    side: int
    batch: int
    dtype: DType

    def name(self) -> Row:
        named = asdict(self)
        return {"source": f"{named.pop('width')}x{named.pop('height')}", **named}


@dataclass(frozen=True)
class DecodeCase:
    rows: int
    classes: int
    batch: int
    dtype: DType


def preprocess_cases() -> list[PreprocessCase]:
    formats: tuple[Format, ...] = ("bgr", "nv12")
    filters: tuple[Filter, ...] = ("antialias", "bilinear")
    cases = [
        PreprocessCase(width, height, format, filter, side, batch, "float16")
        for (width, height), format, filter, side, batch in itertools.product(
            SIZES, formats, filters, (640, 416), (1, 8)
        )
    ]
    return [*cases, PreprocessCase(3840, 2160, "bgr", "antialias", 640, 8, "float32")]


def decode_cases() -> list[DecodeCase]:
    dtypes: tuple[DType, ...] = ("float32", "float16")
    shapes = ((300, 80, 1), (300, 80, 8), (1000, 1203, 1))
    return [DecodeCase(*shape, dtype) for shape, dtype in itertools.product(shapes, dtypes)]


def copy(scale: Scale) -> dict[str, Any]:
    """Copying device memory to device memory, bytes read and bytes written counted: what others are measured by."""
    need_torch()
    free, _ = torch.cuda.mem_get_info()
    count = min(_COPY_BYTES, free // 4)
    source = torch.randint(0, 256, (count,), dtype=torch.uint8, device=timing.DEVICE)
    target = torch.empty_like(source)
    times = gpu_times(lambda index: target.copy_(source), calls=2, samples=scale.samples)
    taken = summary(times.microseconds)
    return {
        "bytes_read_and_written": 2 * count,
        "timed": times.timed,
        "microseconds": taken,
        "gigabytes_a_second": gigabytes_a_second(2 * count, taken["p50"]),
    }


def copy_bandwidth(scale: Scale, done: Mapping[str, Any]) -> float:
    """GB/s that the section `copy` found; found now if that did not run."""
    found = done.get("copy", {}).get("result") or copy(scale)
    return float(found["gigabytes_a_second"])


def preprocess(scale: Scale, done: Mapping[str, Any]) -> dict[str, Any]:
    """The network input of images whose bytes no cache holds, as a share of what copying reaches."""
    need_torch()
    bandwidth = copy_bandwidth(scale, done)
    images = Images()
    return {
        "copy_gigabytes_a_second": bandwidth,
        "rows": measure_rows(
            preprocess_cases(), PreprocessCase.name, lambda case: _preprocess_row(case, images, bandwidth, scale)
        ),
    }


class Images:
    """Random images in device memory, kept from one case to the next of the same size and format."""

    def __init__(self) -> None:
        self._key: tuple[int, int, str] = (0, 0, "")
        self._held: list[torch.Tensor] = []

    def take(self, width: int, height: int, format: Format, count: int) -> list[torch.Tensor]:
        """`count` images, each in memory of its own."""
        if self._key != (width, height, format):
            self._held = []
            self._key = (width, height, format)
        shape = (height * 3 // 2, width) if format == "nv12" else (height, width, 3)
        while len(self._held) < count:
            self._held.append(torch.randint(0, 256, shape, dtype=torch.uint8, device=timing.DEVICE))
        return self._held[:count]


def _preprocess_row(case: PreprocessCase, images: Images, bandwidth: float, scale: Scale) -> Row:
    size = (case.width, case.height, case.format)
    whole = figures.image_bytes(*size)
    needed = figures.linear_bytes(*size, case.side) if case.filter == "bilinear" else whole
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    count = figures.distinct_images(needed, cache, case.batch)
    batches = count // case.batch
    calls = batches * -(-_LEAST_CALLS // batches)
    taken = images.take(*size, count)
    given = [[InPlace(image) for image in taken[i : i + case.batch]] for i in range(0, count, case.batch)]
    shape = (case.batch, 3, case.side, case.side)
    outputs = [torch.empty(shape, dtype=getattr(torch, case.dtype), device=timing.DEVICE) for _ in given]
    operation = _preprocessor(case)

    def call(index: int) -> None:
        at = index % batches
        operation.run(given[at], outputs[at], format=case.format, stream=current_stream())

    times = gpu_times(call, calls=calls, samples=scale.samples)
    written = figures.output_bytes(case.side, case.dtype)
    touched = case.batch * (whole + written)
    microseconds = summary(times.microseconds)
    row: Row = {
        "images": count,
        "calls_a_sample": times.calls,
        "timed": times.timed,
        "microseconds": microseconds,
        "touched_bytes": touched,
        "gigabytes_a_second": gigabytes_a_second(touched, microseconds["p50"]),
        "of_copy": gigabytes_a_second(touched, microseconds["p50"]) / bandwidth,
        "equal_to_cpu": np.array_equal(outputs[-1][-1].cpu().numpy(), _on_cpu(case, taken[-1].cpu().numpy())),
    }
    if case.filter == "bilinear":
        least = gigabytes_a_second(case.batch * (needed + written), microseconds["p50"])
        row |= {"needed_bytes": case.batch * (needed + written), "needed_of_copy": least / bandwidth}
    return row


def _preprocessor(case: PreprocessCase) -> cuda.Preprocessor:
    return cuda.Preprocessor(
        width=case.side,
        height=case.side,
        filter=case.filter,
        mean=torch_peer.MEAN,
        std=torch_peer.STD,
        dtype=case.dtype,
        max_batch=case.batch,
        max_width=case.width,
        max_height=case.height,
    )


def _on_cpu(case: PreprocessCase, image: NDArray[np.uint8]) -> NDArray[Any]:
    return edgedet.preprocess(
        image,
        width=case.side,
        height=case.side,
        filter=case.filter,
        mean=torch_peer.MEAN,
        std=torch_peer.STD,
        dtype=case.dtype,
        format=case.format,
    )


def decode(scale: Scale) -> dict[str, Any]:
    """Decoding of logits that lie in the cache, as they do after a network, and torch's way with the same tensors."""
    need_torch()
    return {"top_k": _TOP_K, "rows": measure_rows(decode_cases(), asdict, lambda case: _decode_row(case, scale))}


def random_head(batch: int, rows: int, classes: int, dtype: DType) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits as trained networks have them (mean -4, deviation 2) and boxes."""
    generator = torch.Generator(timing.DEVICE).manual_seed(0)
    logits = torch.randn((batch, rows, classes), generator=generator, device=timing.DEVICE) * 2 - 4
    boxes = torch.rand((batch, rows, 4), generator=generator, device=timing.DEVICE)
    kind: torch.dtype = getattr(torch, dtype)
    return logits.to(kind), boxes.to(kind)


def _decode_row(case: DecodeCase, scale: Scale) -> Row:
    logits, boxes = random_head(case.batch, case.rows, case.classes, case.dtype)
    decoder = _decoder(case)
    results = torch.zeros((case.batch, decoder.result_bytes), dtype=torch.uint8, device=timing.DEVICE)
    outputs = {"logits": logits, "boxes": boxes}
    sizes = [(1920, 1080)] * case.batch
    size = torch.tensor([1920.0, 1080.0, 1920.0, 1080.0], device=timing.DEVICE)
    times = gpu_times(
        lambda index: decoder.run(outputs, sizes, results, stream=current_stream()),
        calls=_DECODE_CALLS,
        samples=scale.samples,
    )
    peer = gpu_times(
        lambda index: torch_peer.decode(logits, boxes, size, _TOP_K), calls=_DECODE_CALLS, samples=scale.samples
    )
    right = edgedet.decode_logits(
        logits[-1].float().cpu().numpy(),
        boxes[-1].float().cpu().numpy(),
        width=640,
        height=640,
        image_width=1920,
        image_height=1080,
        top_k=_TOP_K,
    )
    ours = decoder.read(results.cpu().numpy())[-1]
    theirs = torch_peer.decode(logits, boxes, size, _TOP_K)[-1].cpu().numpy()
    microseconds, peer_microseconds = summary(times.microseconds), summary(peer.microseconds)
    return {
        "calls_a_sample": times.calls,
        "timed": times.timed,
        "microseconds": microseconds,
        "torch_timed": peer.timed,
        "torch_microseconds": peer_microseconds,
        "torch_ratio_of_medians": peer_microseconds["p50"] / microseconds["p50"],
        "agreement": torch_peer.detection_agreement(torch_peer.as_rows(ours), right),
        "torch_agreement": torch_peer.detection_agreement(theirs, right),
    }


def _decoder(case: DecodeCase) -> cuda.Decoder:
    return cuda.Decoder(
        width=640,
        height=640,
        rows=case.rows,
        classes=case.classes,
        dtype=case.dtype,
        top_k=_TOP_K,
        max_batch=case.batch,
    )


# What `--child` launches, in order.
CHILD_PREPROCESS = (
    PreprocessCase(3840, 2160, "bgr", "antialias", 640, 8, "float16"),
    PreprocessCase(3840, 2160, "bgr", "antialias", 640, 1, "float16"),
    PreprocessCase(3840, 2160, "nv12", "antialias", 640, 8, "float16"),
    PreprocessCase(1920, 1080, "bgr", "antialias", 640, 1, "float16"),
    PreprocessCase(1920, 1080, "bgr", "bilinear", 640, 1, "float16"),
)
CHILD_DECODE = (
    DecodeCase(300, 80, 1, "float32"),
    DecodeCase(300, 80, 8, "float32"),
    DecodeCase(1000, 1203, 1, "float32"),
)


def child_names() -> dict[str, Sequence[str]]:
    """What the launches of each kind of child are."""
    return {
        "preprocess": [
            f"{case.width}x{case.height} {case.format} {case.filter} {case.side} {case.dtype} batch {case.batch}"
            for case in CHILD_PREPROCESS
        ],
        "decode": [f"{case.rows}x{case.classes} {case.dtype} batch {case.batch}" for case in CHILD_DECODE],
    }


def child(kind: str) -> None:
    """Launches each kernel once between cudaProfilerStart and cudaProfilerStop, after a run that is not profiled."""
    need_torch()
    launches = {"preprocess": _preprocess_launches, "decode": _decode_launches}[kind]()
    for launch in launches:
        launch()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    for launch in launches:
        launch()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def _preprocess_launches() -> list[Callable[[], None]]:
    def prepared(case: PreprocessCase) -> Callable[[], None]:
        images = [InPlace(image) for image in Images().take(case.width, case.height, case.format, case.batch)]
        shape = (case.batch, 3, case.side, case.side)
        out = torch.empty(shape, dtype=getattr(torch, case.dtype), device=timing.DEVICE)
        operation = _preprocessor(case)
        return lambda: operation.run(images, out, format=case.format, stream=current_stream())

    return [prepared(case) for case in CHILD_PREPROCESS]


def _decode_launches() -> list[Callable[[], None]]:
    def prepared(case: DecodeCase) -> Callable[[], None]:
        logits, boxes = random_head(case.batch, case.rows, case.classes, case.dtype)
        decoder = _decoder(case)
        results = torch.zeros((case.batch, decoder.result_bytes), dtype=torch.uint8, device=timing.DEVICE)
        outputs = {"logits": logits, "boxes": boxes}
        sizes = [(1920, 1080)] * case.batch
        return lambda: decoder.run(outputs, sizes, results, stream=current_stream())

    return [prepared(case) for case in CHILD_DECODE]

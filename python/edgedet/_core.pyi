"""The compiled module: kernels, bundle checks and the detector. `edgedet` wraps it; use that."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__version__: str

_Image = NDArray[np.uint8] | tuple[NDArray[np.uint8], NDArray[np.uint8]]

_PixelFormat = Literal["rgb", "bgr", "gray", "nv12"]
_ResizeMode = Literal["stretch", "letterbox"]
_Filter = Literal["bilinear", "antialias"]
_ChannelOrder = Literal["rgb", "bgr"]

#: Boxes (N, 4) float32 xyxy, scores (N,) float32, labels (N,) int32, best first.
_RawDetections = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]

class Error(RuntimeError):
    """Base of everything edgedet raises."""

class InvalidInputError(Error, ValueError):
    """An argument or an image that the caller passed."""

class BundleError(Error):
    """model.json, a file of the bundle, its sha256, its version."""

class ModelError(Error):
    """The network: shapes, names, NaN in its output."""

class BackendError(Error):
    """A backend that is unavailable or failed."""

class ImageError(Error):
    """An image file that cannot be decoded."""

class EngineOptions:
    """How engines are built; 0, -1 and "none" stand for what `edgedet.EngineOptions` calls None."""

    def __init__(
        self,
        *,
        device: int = 0,
        workspace_mb: int = 1024,
        batch: tuple[int, int, int] = (0, 0, 0),
        dla_core: int = -1,
        memory_limit_mb: int = 0,
        calibrator: Literal["none", "entropy", "minmax"] = "none",
        calibration_digest: str = "",
        next_images: Callable[[int], NDArray[np.float32] | None] | None = None,
    ) -> None:
        """`next_images(values)`: the next calibration images (N, 3, H, W), `values` numbers, None at the end."""

def prepare(
    bundle: str,
    *,
    backend: str = "auto",
    precision: str = "auto",
    mode: str = "latency",
    cache_dir: str = "",
    engine: EngineOptions = ...,
    progress: Callable[[str, int, int], bool] | None = None,
) -> dict[str, Any]:
    """Builds and keeps the engine that a detector with these options would build.

    Returns what `Detector.engine` does, and the "backend", "precision" and "device" that were chosen.

    `progress(phase, step, of)` is called from any thread; False stops the build. The GIL is released meanwhile.
    """

def is_prepared(
    bundle: str,
    *,
    backend: str = "auto",
    precision: str = "auto",
    mode: str = "latency",
    cache_dir: str = "",
    engine: EngineOptions = ...,
) -> bool:
    """Whether `prepare` would find everything built."""

def set_library_folders(folders: Sequence[str]) -> None:
    """Where TensorRT's libraries are looked for, in this order; an empty name is where the system's loader looks."""

class Detector:
    """A bundle on a backend. Thread-safe; the GIL is released while it works."""

    def __init__(
        self,
        bundle: str,
        *,
        backend: str = "auto",
        precision: str = "auto",
        mode: str = "latency",
        threads: int = 0,
        requests: int = 0,
        score_threshold: float = 0.0,
        max_detections: int = 0,
        cache_dir: str = "",
        engine: EngineOptions = ...,
    ) -> None:
        """Loads and checks the bundle and prepares the backend. Raises `Error` subclasses."""

    @property
    def backend(self) -> str:
        """Name of the backend that runs, as in `backends()`."""

    @property
    def precision(self) -> str:
        """The one that runs: "fp32", "bf16", "fp16" or "int8"."""

    @property
    def device(self) -> str:
        """The device and the version of the library that runs there, for people and reports."""

    @property
    def threads(self) -> int:
        """CPU threads in use."""

    @property
    def requests(self) -> int:
        """Parallel inference requests in use."""

    @property
    def engine(self) -> dict[str, Any]:
        """The engine that runs.

        "path" (empty if it is kept nowhere), "built" (now), "bytes" (0 if the backend builds none), "seconds" and
        "workspace_mb" of the build.
        """

    @property
    def gpu(self) -> str:
        """PCI address of the GPU that runs it; empty on a CPU."""

    @property
    def spec(self) -> dict[str, Any]:
        """What `load_spec` gave when the detector was made."""

    def detect(
        self, images: Sequence[_Image], format: _PixelFormat = "rgb"
    ) -> tuple[
        list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]],
        tuple[float, float, float],
    ]:
        """Detects on each image; no image is copied.

        Images: (H, W, 3) uint8 for "rgb" and "bgr", (H, W) for "gray", (H * 3 / 2, W) for "nv12" (Y rows, then
        interleaved UV rows) or a tuple of its planes (H, W) and (H / 2, W). Rows must be contiguous; the stride between
        rows is free. Anything else raises `InvalidInputError`.

        Returns per image (boxes (N, 4) float32 xyxy pixels of the image, scores (N,) float32, labels (N,) int32), best
        first, and the milliseconds of the call as (preprocess, inference, decode).
        """

    def detect_tiled(
        self, image: _Image, format: _PixelFormat, tiles: TileOptions
    ) -> tuple[_RawDetections, tuple[float, float, float]]:
        """As `detect` for one image, in tiles; the merging is part of the decoding."""

    def infer(self, tensor: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Runs the network alone, for comparing engines.

        tensor: (N, 3, H, W) float32, C-contiguous, as `preprocess` gives. Returns the outputs that model.json names,
        each (N, ...) float32 (integers converted).
        """

    def time_parts(self, images: Sequence[NDArray[np.uint8]], format: _PixelFormat, calls: int) -> PartTimes:
        """Times the network alone and, on a GPU, the stages of a frame, `calls` times each, for `bench_report`."""

    def bench_report(self, measured: BenchRun) -> tuple[str, str]:
        """JSON with the same keys on every machine, and text for people."""

    def execution_graph(self) -> list[dict[str, str]]:
        """What the backend really executes, in execution order.

        Each node: "name", "type" (layer type), "primitive" (implementation, e.g. "brgconv_avx512_amx_I8"), "precision"
        (runtime precision, e.g. "u8", "f32"), "original" (names of the layers of the model fused in it).
        """

class TileOptions:
    """See `edgedet.Detector.detect_tiled`. Width and height 0 are those of the network."""

    def __init__(
        self, *, width: int = 0, height: int = 0, overlap: float = 0.2, whole: bool = True, match: float = 0.5
    ) -> None: ...

def plan_tiles(width: int, height: int, format: _PixelFormat, options: TileOptions) -> list[tuple[int, int, int, int]]:
    """The tiles (x, y, width, height) of an image."""

def merge_tiles(
    tiles: Sequence[tuple[int, int, int, int]],
    width: int,
    height: int,
    found: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]],
    match: float = 0.5,
) -> _RawDetections:
    """One list of detections, in pixels of the image, out of those of its tiles, in pixels of each tile."""

class PartTimes:
    """What `Detector.time_parts` measured, milliseconds of each call."""

    @property
    def network(self) -> list[float]:
        """The network alone, by the clock on the wall."""

    @property
    def network_device(self) -> list[float]:
        """The same by the device's clock; empty on a CPU."""

    @property
    def resident(self) -> list[float]:
        """Frames that are on the device to detections; empty on a CPU."""

class TelemetryRecord:
    """What a `Sampler` saw."""

    @property
    def seconds(self) -> float:
        """From the first sample to the last."""

    @property
    def samples(self) -> int:
        """How many there were."""

class Sampler:
    """Reads clocks, load, memory, power and energy in a thread of its own, a few files and calls every period."""

    def __init__(self, *, root: str = "", nvml: str = "libnvidia-ml.so.1", gpu: str = "", period: float = 0.05) -> None:
        """root: folder in front of /proc, /sys, /etc and /var, for recorded trees; gpu: `Detector.gpu`; period: s."""

    def start(self) -> None:
        """Takes the first sample and begins. Raises `InvalidInputError` if it has begun."""

    def stop(self) -> TelemetryRecord:
        """Takes the last sample and ends. Raises `InvalidInputError` if it has not begun."""

class BenchRun:
    """What a benchmark measured."""

    def __init__(
        self,
        *,
        latency: Sequence[float],
        stages: Sequence[tuple[float, float, float]],
        parts: PartTimes,
        telemetry: TelemetryRecord,
        frames_per_call: int,
        frame_size: str,
        mode: str,
        bundle: str,
        command: str,
        root: str = "",
    ) -> None:
        """latency: ms of each call; stages: of the same calls, as of `Detector.detect`; telemetry: of those calls."""

def peak_memory_mb() -> float:
    """Peak resident memory of this program, MB (10^6 bytes)."""

def read_tegrastats(log: str, interval: float) -> dict[str, Any]:
    """Energy from the text of a log of tegrastats whose lines are `interval` seconds apart (JetPack 4 to 7).

    "samples", "seconds" from the first to the last, "board" (joules, or None) and "board_is" (its rails, or why there
    is no total), "rails" (joules of each). Raises `InvalidInputError` unless two lines or more tell of power.
    """

def preprocess(
    image: _Image,
    *,
    width: int,
    height: int,
    resize: _ResizeMode = "stretch",
    filter: _Filter = "bilinear",
    channels: _ChannelOrder = "rgb",
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    pad_value: int = 114,
    dtype: Literal["float32", "float16", "int8"] = "float32",
    scale: float = 1.0,
    format: _PixelFormat = "rgb",
    threads: int = 1,
) -> NDArray[Any]:
    """Image to network input (3, height, width): (pixel / 255 - mean) / std. Images as in `Detector.detect`.

    With int8, a stored q stands for q * scale: rounded to the nearest (ties to even) and saturated.
    """

def decode_logits(
    logits: NDArray[np.float32],
    boxes: NDArray[np.float32],
    *,
    width: int,
    height: int,
    image_width: int,
    image_height: int,
    resize: _ResizeMode = "stretch",
    top_k: int = 300,
    score_threshold: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Raw head to detections in pixels of the source image.

    logits: (Q, C) float32; boxes: (Q, 4) float32 cxcywh in [0, 1] of the network input (width x height). Returns
    (boxes (N, 4) xyxy, scores (N,), labels (N,)), best first. NaN raises `ModelError`.
    """

def decode_scored(
    labels: NDArray[np.int64],
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    classes: int,
    width: int,
    height: int,
    image_width: int,
    image_height: int,
    resize: _ResizeMode = "stretch",
    top_k: int = 300,
    score_threshold: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Post-processed head to detections in pixels of the source image.

    labels: (R,) int64 in [0, classes); boxes: (R, 4) float32 xyxy pixels of the network input; scores: (R,) float32.
    """

def load_spec(bundle: str) -> dict[str, Any]:
    """Reads and checks a bundle folder: version, keys, sha256 of every file. Raises `BundleError`.

    Returns model.json as a dict with the keys of its documented form ("name", "input", "output", "classes",
    "category_ids", "models", "best", "files", "licence"); defaults are filled in, unknown keys left out.
    """

def inspect_onnx(path: str) -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs of an ONNX file, without the onnx package.

    Returns {"inputs": [...], "outputs": [...]}; each port has "name" (str), "shape" (list of int, None where dynamic;
    or None for a dynamic rank) and "dtype" (NumPy name such as "float32", "int64"). Raises `ModelError` for a file that
    is not a readable ONNX model and `BackendError` in a build without OpenVINO.
    """

def backends() -> list[dict[str, Any]]:
    """Every backend this build knows, in the order "auto" tries them.

    Each has "name" (str), "available" (bool), "detail" (str: version and device, or the reason and the remedy) and
    "precisions" (list of str: what it computes in here; "bf16" and "fp16" where the device has them).
    """

def build_info() -> dict[str, str]:
    """What this build has in: "version", "compiler", "build_type", "openvino", "cuda", "tensorrt", "jpeg", "png".

    The last five say either what was used or why it is absent and how to get it.
    """

class DeviceView:
    """Device memory of a `FramePool`, for torch, CuPy and others to read and write in place."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. Names no stream: the network queues on the one that it is given."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The batch size first."""

    @property
    def pointer(self) -> int:
        """Address on the device."""

class FrameTicket:
    """A frame in flight."""

    def done(self) -> bool:
        """Whether `result` would return at once."""

    def result(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]]:
        """Boxes, scores and labels of each image, as of `decode_logits`. Sleeps until they are there; once.

        Raises `ModelError` on NaN and the like in what the network wrote, `BackendError` where CUDA failed.
        """

class FramePool:
    """See `edgedet.cuda.FramePool`."""

    def __init__(
        self,
        network: Callable[[dict[str, DeviceView], int, int], object] | None,
        *,
        width: int,
        height: int,
        resize: _ResizeMode = "stretch",
        filter: _Filter = "bilinear",
        channels: _ChannelOrder = "rgb",
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        pad_value: int = 114,
        input_dtype: Literal["float32", "float16", "int8"] = "float32",
        input_scale: float = 1.0,
        head: Literal["logits", "scored"] = "logits",
        rows: int = 300,
        classes: int = 80,
        output_dtype: Literal["float32", "float16"] = "float32",
        label_dtype: Literal["int64", "int32"] = "int64",
        top_k: int = 300,
        score_threshold: float = 0.0,
        paths: int = 1,
        max_batch: int = 1,
        max_width: int = 3840,
        max_height: int = 2160,
        graph: bool = True,
        memory_limit: int = 0,
        device: int = 0,
    ) -> None:
        """Allocates everything."""

    def submit(self, images: Sequence[Any], format: _PixelFormat = "rgb", timeout: float = 0.0) -> FrameTicket:
        """Starts a frame of 1 to max_batch images, all on the host or all in memory that the device can read.

        Images as in `Detector.detect`. The ticket keeps device images alive; they must not change until `result`.
        Raises `BackendError` if no path is free for `timeout` seconds, `InvalidInputError` on an image that is too
        large, of another layout, on another device, or on the host where it says that it is not.
        """

    @property
    def memory(self) -> dict[str, int]:
        """Bytes that the pool holds: "device" and "pinned"."""

class CudaPreprocessor:
    """See `edgedet.cuda.Preprocessor`."""

    def __init__(
        self,
        *,
        width: int,
        height: int,
        resize: _ResizeMode = "stretch",
        filter: _Filter = "bilinear",
        channels: _ChannelOrder = "rgb",
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        pad_value: int = 114,
        dtype: Literal["float32", "float16", "int8"] = "float32",
        scale: float = 1.0,
        max_batch: int = 1,
        max_width: int = 3840,
        max_height: int = 2160,
        device: int = 0,
    ) -> None:
        """Allocates the resize tables."""

    def run(self, images: Sequence[Any], out: Any, *, format: _PixelFormat = "rgb", stream: int = 0) -> None:
        """Queues the network input of device images at `out` (N, 3, height, width) on `stream`, and returns.

        Images as in `FramePool.submit`, all on the device; what their producers have queued is waited for. Images and
        `out` must stay alive until the stream is through: a library that reuses memory has to know of the stream
        (torch: ``tensor.record_stream``).
        """

class CudaDecoder:
    """See `edgedet.cuda.Decoder`."""

    def __init__(
        self,
        *,
        width: int,
        height: int,
        resize: _ResizeMode = "stretch",
        head: Literal["logits", "scored"] = "logits",
        rows: int = 300,
        classes: int = 80,
        dtype: Literal["float32", "float16"] = "float32",
        label_dtype: Literal["int64", "int32"] = "int64",
        top_k: int = 300,
        score_threshold: float = 0.0,
        max_batch: int = 1,
        device: int = 0,
    ) -> None:
        """Allocates the scratch memory."""

    @property
    def result_bytes(self) -> int:
        """Bytes of a result of one image."""

    def run(self, outputs: dict[str, Any], sizes: Sequence[tuple[int, int]], results: Any, *, stream: int = 0) -> None:
        """Queues the results (N, result_bytes) uint8 of a network's outputs on `stream`, and returns.

        `outputs`: "logits" and "boxes", or "labels", "boxes" and "scores", as of `FramePool`, written on `stream` or
        before. `sizes`: (width, height) of each source image. All must stay alive until the stream is through.
        """

    def read(
        self, results: NDArray[np.uint8]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]]:
        """Boxes, scores and labels of each image from results that were copied to the host."""

def cuda_devices() -> tuple[list[dict[str, Any]], str]:
    """The CUDA devices, and why there are none."""

def cuda_versions() -> tuple[int, int]:
    """Versions of driver and runtime as CUDA counts them (12040 is 12.4), 0 if there is none."""

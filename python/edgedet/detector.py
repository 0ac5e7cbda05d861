"""The detector: a bundle on a backend, images in, :class:`Detections` out."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Tuple, Union, cast, overload

import numpy as np
from numpy.typing import NDArray

from edgedet import _core
from edgedet._core import InvalidInputError
from edgedet.detections import Detections, StageTimes
from edgedet.engine_options import EngineInfo, EngineOptions, engine_info
from edgedet.engines import ensure_engine, user_cache
from edgedet.images import read_image
from edgedet.known_bad.check import check_before_building
from edgedet.verdict import Verdict, read_verdict

PixelFormat = Literal["rgb", "bgr", "gray", "nv12"]
_Pixels = Union[NDArray[np.uint8], Tuple[NDArray[np.uint8], NDArray[np.uint8]]]
#: An array in the call's pixel format, the two planes (Y, UV) of an NV12 frame, or the path of an image file.
ImageInput = Union[_Pixels, str, "os.PathLike[str]"]

_DIMENSIONS = {"rgb": 3, "bgr": 3, "gray": 2, "nv12": 2}
_SHAPES = {
    "rgb": "(H, W, 3) uint8 array",
    "bgr": "(H, W, 3) uint8 array",
    "gray": "(H, W) uint8 array",
    "nv12": "(H * 3 / 2, W) uint8 array or a tuple of planes Y (H, W) and UV (H / 2, W)",
}


@dataclass(frozen=True)
class DetectorInfo:
    """What a detector runs and how.

    Attributes:
        name: Name of the model.
        classes: Name of each class, by label.
        category_ids: The dataset's id of each class, for COCO results.
        width: Of the network input, pixels.
        height: Of the network input, pixels.
        backend: Name of the backend that runs.
        precision: "fp32", "bf16", "fp16" or "int8": the one that runs.
        device: Device and library version.
        threads: CPU threads in use.
        requests: Parallel inference requests in use.
        engine: The engine that was built for this device; None where the backend builds none.
        verified: What verification found on this backend, and whether that still holds; ``str()`` of it is a line.
        spec: The whole model.json, checked and with defaults filled in.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    width: int
    height: int
    backend: str
    precision: str
    device: str
    threads: int
    requests: int
    engine: EngineInfo | None
    verified: Verdict
    spec: dict[str, Any]


class Detector:
    """Runs a bundle. Any number of threads may share one detector; the GIL is released while it works.

    Args:
        bundle: The bundle folder.
        backend: "auto" (the first available one, see ``edgedet doctor``) or a backend's name.
        precision: "fp32", "bf16", "fp16", "int8", or "auto": what verification recorded as best for the backend, where
            this device computes in it, else "fp32".
        mode: "latency" answers each frame as soon as possible, "throughput" runs several requests side by side.
        threads: CPU threads, 0 for all that this process may use.
        requests: Parallel inference requests, 0 for one (latency) or the backend's choice (throughput).
        score_threshold: Detections below it are left out, in [0, 1].
        max_detections: Rows kept per image, 0 for the model's own number.
        cache_dir: Where networks are kept as they were compiled for this device, so that the next process starts
            sooner; only its owner should be able to write there, and it may be deleted at any time. None: ``edgedet``
            in the user's cache folder; "": nowhere. A TensorRT engine that is not there yet is built first, in a
            process of its own, which takes minutes; ``edgedet build`` does that ahead.
        engine: How engines are built, and on which GPU.

    Raises:
        BundleError: The bundle is missing, damaged, tampered with or of another version.
        ModelError: The network does not fit what the bundle says.
        BackendError: The backend or precision is not available here, or cannot be right with this network and version
            of TensorRT; the message says why. Combinations that were wrong elsewhere are a ``KnownBadWarning``.
        InvalidInputError: An option is out of range.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        backend: str = "auto",
        precision: str = "auto",
        mode: Literal["latency", "throughput"] = "latency",
        threads: int = 0,
        requests: int = 0,
        score_threshold: float = 0.0,
        max_detections: int = 0,
        cache_dir: str | os.PathLike[str] | None = None,
        engine: EngineOptions | None = None,
    ) -> None:
        cache = str(user_cache() if cache_dir is None else cache_dir)

        def make(folder: str | os.PathLike[str]) -> _Pipeline:
            check_before_building(folder, backend=backend, precision=precision)
            core, built = ensure_engine(
                folder,
                backend=backend,
                precision=precision,
                mode=mode,
                cache_dir=cache,
                engine=engine or EngineOptions(),
            )
            return _Pipeline.of(
                folder,
                _core.Detector(
                    str(Path(folder)),
                    backend=backend,
                    precision=precision,
                    mode=mode,
                    threads=threads,
                    requests=requests,
                    score_threshold=score_threshold,
                    max_detections=max_detections,
                    cache_dir=cache,
                    engine=core,
                ),
                built,
            )

        self._make = make
        self._swapping = threading.Lock()
        self._pipeline = make(bundle)

    def swap(self, bundle: str | os.PathLike[str]) -> None:
        """Replaces the bundle that runs, with the options that the detector was made with.

        The new one is made first, beside the old one (there must be memory for both), and takes its place at once when
        it is ready: calls under way end on the old one, later ones run on the new one, and ``info`` is always that of
        one of them, whole. Calls from several threads swap one after another.

        Raises:
            Error: As when a detector is made; the old bundle goes on.
        """
        with self._swapping:
            self._pipeline = self._make(bundle)

    @property
    def info(self) -> DetectorInfo:
        """The model, and the backend and precision that run it."""
        return self._pipeline.info

    @property
    def core(self) -> _core.Detector:
        """The compiled detector that runs now: raw outputs of the network, times of its parts. For tools."""
        return self._pipeline.core

    def __repr__(self) -> str:
        info = self.info
        # The float model is what the others are verified against: it has no verdict of its own.
        verdict = "" if info.precision == "fp32" else f", {info.verified.state}"
        return (
            f"Detector({info.name!r}, {info.width}x{info.height}, {len(info.classes)} classes, "
            f"{info.backend} {info.precision}{verdict})"
        )

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence too, but one path here
        self, images: ImageInput, *, format: PixelFormat = ...
    ) -> Detections: ...

    @overload
    def __call__(self, images: Sequence[ImageInput], *, format: PixelFormat = ...) -> list[Detections]: ...

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        *,
        format: PixelFormat = "rgb",
    ) -> Detections | list[Detections]:
        """Detects objects in one image or in a list of images.

        Args:
            images: An image, or a list that may mix arrays and paths. Arrays are uint8: (H, W, 3) for "rgb" and "bgr",
                (H, W) for "gray", (H * 3 / 2, W) or a tuple of planes (Y, UV) for "nv12". Arrays are not copied,
                except views whose rows are not contiguous, such as ``image[..., ::-1]``. A path is read with
                :func:`edgedet.read_image`. On TensorRT the arrays of a call may also all be in the GPU's memory
                (torch, CuPy, anything with DLPack or ``__cuda_array_interface__``) and are read there.
            format: Pixel format of the arrays. Files are not affected by it.

        Returns:
            Detections of the image, or a list of them in the order of ``images``.

        Raises:
            InvalidInputError: Something that is not an image of that format.
            ImageError: A file that cannot be read.
            ModelError: The network gave NaN.
        """
        if isinstance(images, list):
            return self.detect_timed(images, format=format)[0]
        return self.detect_timed([images], format=format)[0][0]  # type: ignore[list-item]

    def detect_timed(
        self,
        images: Sequence[ImageInput],
        *,
        format: PixelFormat = "rgb",
    ) -> tuple[list[Detections], StageTimes]:
        """As a call with a list, and says how long the stages took (reading files is not in it)."""
        if not isinstance(images, (list, tuple)):
            raise InvalidInputError(
                f"expected a list of images, got {type(images).__name__}; put one image into a list"
            )
        if format not in _SHAPES:
            raise InvalidInputError(f"expected format {', '.join(_SHAPES)}, got {format!r}")
        if not images:
            return [], StageTimes(0.0, 0.0, 0.0)
        arrays: list[_Pixels] = []
        from_file: list[bool] = []
        for index, image in enumerate(images):
            if isinstance(image, (str, os.PathLike)):
                arrays.append(read_image(image))
                from_file.append(True)
            else:
                arrays.append(_as_array(image, format, index))
                from_file.append(False)
        pipeline = self._pipeline  # whatever is swapped in meanwhile
        if format == "rgb" or not any(from_file):
            return pipeline.detect(arrays, format)

        # Files are RGB whatever the arrays are: each kind in a call of its own, then back into the caller's order.
        results: list[Detections | None] = [None] * len(arrays)
        total = np.zeros(3)
        kinds: tuple[tuple[bool, PixelFormat], ...] = ((True, "rgb"), (False, format))
        for kind, kind_format in kinds:
            places = [place for place, is_path in enumerate(from_file) if is_path is kind]
            if places:
                found, times = pipeline.detect([arrays[place] for place in places], kind_format)
                total += times
                for place, detections in zip(places, found):
                    results[place] = detections
        return [result for result in results if result is not None], StageTimes(*total.tolist())

    def execution_graph(self) -> list[dict[str, str]]:
        """The engine's own layers in the order they run.

        Returns:
            Per layer its ``name``, ``type``, ``primitive`` (the kernel), ``precision`` of its output, and
            ``original``: the layers of the network that it does.
        """
        return self._pipeline.core.execution_graph()


@dataclass(frozen=True)
class _Pipeline:
    """A bundle that runs, and what is said of it: replaced as a whole."""

    core: _core.Detector
    info: DetectorInfo

    @classmethod
    def of(cls, bundle: str | os.PathLike[str], core: _core.Detector, built: EngineInfo | None) -> _Pipeline:
        """built: the engine, where it was built for this detector."""
        spec = core.spec
        info = DetectorInfo(
            name=spec["name"],
            classes=tuple(spec["classes"]),
            category_ids=tuple(spec["category_ids"]),
            width=spec["input"]["width"],
            height=spec["input"]["height"],
            backend=core.backend,
            precision=core.precision,
            device=core.device,
            threads=core.threads,
            requests=core.requests,
            engine=built or engine_info(core.engine),
            verified=read_verdict(bundle, spec, core.backend, device=core.device, precision=core.precision),
            spec=spec,
        )
        return cls(core, info)

    def detect(self, arrays: list[_Pixels], format: PixelFormat) -> tuple[list[Detections], StageTimes]:
        raw, times = self.core.detect(arrays, format)
        classes = self.info.classes
        found = [
            Detections(boxes, scores, labels, [classes[label] for label in labels.tolist()])
            for boxes, scores, labels in raw
        ]
        return found, StageTimes(*times)


def _as_array(image: object, format: PixelFormat, index: int) -> _Pixels:
    """Checks what the compiled module cannot name well; copies only what it cannot address."""
    if format == "nv12" and isinstance(image, tuple):
        return _check_planes(image, index)
    if _on_device(image):
        return cast("NDArray[np.uint8]", image)  # the compiled module asks it for its memory, and names what is wrong
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == _DIMENSIONS[format]:
        return _addressable(image)
    if isinstance(image, np.ndarray):
        got = f"an array of shape {image.shape} and type {image.dtype}"
        if image.dtype != np.uint8:
            remedy = "scale the pixels to 0..255 and convert them with .astype(np.uint8)"
        elif image.ndim == 4:
            remedy = "pass a batch as a list of images"
        else:
            remedy = "name the pixel format with format='rgb', 'bgr', 'gray' or 'nv12'"
    else:
        kind = type(image)
        got = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        if got.startswith("PIL."):
            remedy = "convert it with np.asarray(image.convert('RGB'))"
        else:
            remedy = "pass a NumPy array, a path, or a list of them"
    raise InvalidInputError(
        f"image {index}: expected a path or a {_SHAPES[format]} (format={format!r}), got {got}; {remedy}",
    )


def _on_device(image: object) -> bool:
    """Whether it says that it is in the memory of a device (1 is the CPU of DLPack)."""
    device = getattr(image, "__dlpack_device__", None)
    if isinstance(image, np.ndarray) or device is None:
        return hasattr(image, "__cuda_array_interface__")
    return bool(device()[0] != 1)


def _addressable(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    packed = image.strides[1:] == ((3, 1) if image.ndim == 3 else (1,)) and image.strides[0] >= image[:1].size
    return image if packed else np.ascontiguousarray(image)


def _check_planes(planes: tuple[Any, ...], index: int) -> _Pixels:
    if len(planes) == 2 and all(isinstance(plane, np.ndarray) and plane.dtype == np.uint8 for plane in planes):
        luma, chroma = planes
        if luma.ndim == 2 and chroma.size * 2 == luma.size and luma.shape[0] % 2 == 0 and luma.shape[1] % 2 == 0:
            # A view, unless (H / 2, W / 2, 2) has gaps inside a row.
            return _addressable(luma), _addressable(chroma.reshape(luma.shape[0] // 2, luma.shape[1]))
    got = ", ".join(f"{getattr(plane, 'shape', type(plane).__name__)}" for plane in planes)
    raise InvalidInputError(
        f"image {index}: expected uint8 planes Y (H, W) and UV (H / 2, W) or (H / 2, W / 2, 2) with even H and W, "
        f"got {got}",
    )

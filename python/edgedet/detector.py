"""The detector: a bundle on a backend, images in, :class:`Detections` out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, TypeVar, cast, overload

from edgedet import _core
from edgedet._core import InvalidInputError
from edgedet.detections import Detections, StageTimes
from edgedet.engine_options import EngineOptions
from edgedet.engines import ensure_engine, user_cache
from edgedet.image_input import ImageInput, PixelFormat, as_pixels, check_format
from edgedet.known_bad.check import check_before_building
from edgedet.pipeline import DetectorInfo, Pipeline
from edgedet.submissions import Submissions, in_order

_Item = TypeVar("_Item")


class Detector:
    """Runs a bundle. Any number of threads may share one detector; the GIL is released while it works.

    ``with Detector(...) as detect:`` closes it at the end; without that its memory goes with the last reference to it.
    It cannot be pickled: make one in each process.

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

        def make(folder: str | os.PathLike[str]) -> Pipeline:
            check_before_building(folder, backend=backend, precision=precision)
            core, built = ensure_engine(
                folder,
                backend=backend,
                precision=precision,
                mode=mode,
                cache_dir=cache,
                engine=engine or EngineOptions(),
            )
            return Pipeline.of(
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
        self._state = threading.Lock()  # held for moments only; guards the next two
        self._pipeline: Pipeline | None = make(bundle)
        self._submissions: Submissions | None = None

    def close(self) -> None:
        """Ends it: calls under way and images that were submitted are finished first, later calls are refused.

        May be called again. Not from within a callback of a future.
        """
        with self._state:
            self._pipeline = None
            submissions = self._submissions
        if submissions is not None:
            submissions.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> str:
        raise TypeError(
            "a Detector cannot be pickled or copied, for it holds threads and the memory of a device; make one in each "
            "process, from its bundle"
        )

    @property
    def _running(self) -> Pipeline:
        """What runs now, to be used to the end of a call whatever is swapped in meanwhile."""
        pipeline = self._pipeline
        if pipeline is None:
            raise InvalidInputError("expected an open detector, got one that was closed; make another one")
        return pipeline

    def swap(self, bundle: str | os.PathLike[str]) -> None:
        """Replaces the bundle that runs, with the options that the detector was made with.

        The new one is made first, beside the old one (there must be memory for both), and takes its place at once when
        it is ready: calls under way end on the old one, later ones run on the new one, and ``info`` is always that of
        one of them, whole. Calls from several threads swap one after another.

        Raises:
            Error: As when a detector is made; the old bundle goes on.
        """
        with self._swapping:
            self._running  # noqa: B018 - a closed one makes nothing
            made = self._make(bundle)
            with self._state:
                self._running  # noqa: B018 - it may have been closed meanwhile
                self._pipeline = made

    @property
    def info(self) -> DetectorInfo:
        """The model, and the backend and precision that run it."""
        return self._running.info

    @property
    def core(self) -> _core.Detector:
        """The compiled detector that runs now: raw outputs of the network, times of its parts. For tools."""
        return self._running.core

    def __repr__(self) -> str:
        if self._pipeline is None:
            return "Detector(closed)"
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
            images: An image, or a list that may mix arrays, Pillow images and paths. Arrays are uint8, of NumPy or
                any library with DLPack: (H, W, 3) for "rgb" and "bgr", (H, W) for "gray", (H * 3 / 2, W) or a tuple of
                planes (Y, UV) for "nv12". They are not copied, except views whose rows are not contiguous, such as
                ``image[..., ::-1]``. A path is read with :func:`edgedet.read_image`; a Pillow image is taken as it is,
                whatever its EXIF data say. On TensorRT the arrays of a call may also all be in the GPU's memory
                (DLPack or ``__cuda_array_interface__``) and are read there.
            format: Pixel format of the arrays. Files and Pillow images are not affected by it.

        Returns:
            Detections of the image, or a list of them in the order of ``images``.

        Raises:
            InvalidInputError: Something that is not an image of that format.
            ImageError: A file that cannot be read.
            ModelError: The network gave NaN.
        """
        if isinstance(images, list):
            return self.detect_batch(images, format=format)
        return self.detect(images, format=format)  # type: ignore[arg-type]

    def detect(self, image: ImageInput, *, format: PixelFormat = "rgb") -> Detections:
        """As a call with one image."""
        return self.detect_timed([image], format=format)[0][0]

    def detect_batch(self, images: Sequence[ImageInput], *, format: PixelFormat = "rgb") -> list[Detections]:
        """As a call with a list; any sequence will do."""
        return self.detect_timed(images, format=format)[0]

    def detect_timed(
        self,
        images: Sequence[ImageInput],
        *,
        format: PixelFormat = "rgb",
    ) -> tuple[list[Detections], StageTimes]:
        """As a call with a list, and says how long the stages took (reading files is not in it)."""
        return self._running.detect(images, format)

    def detect_tiled(
        self,
        image: ImageInput,
        *,
        tile: tuple[int, int] | None = None,
        overlap: float = 0.2,
        whole: bool = True,
        match: float = 0.5,
        format: PixelFormat = "rgb",
    ) -> Detections:
        """Detects small objects in an image that is much larger than the network's input: in overlapping tiles.

        The tiles are one size, as few as cover the image, evenly spread; they are views, run side by side like a list
        of images. An object that several tiles see, whole or cut by their borders, is found once: docs/runtime.md has
        the rule.

        Args:
            image: As in a call.
            tile: Width and height in pixels, None for the network's; sides longer than the image's are cut to it.
            overlap: Of neighbours at the least: below 1 a share of the tile, else pixels. An object that is smaller
                than the overlap is whole in one of them.
            whole: The whole image is one more tile, for objects that are larger than tiles.
            match: IoU, where two tiles look, from which on two boxes are one object, in (0, 1].
            format: Pixel format of an array.

        Returns:
            Detections in pixels of the image, best first. The detector's ``max_detections`` holds for each tile.

        Raises:
            InvalidInputError: As a call, or an option is out of range, or there would be 4096 tiles or more.
        """
        if not isinstance(whole, bool):
            raise InvalidInputError(f"whole: expected True or False, got {whole!r}")
        try:
            width, height = (0, 0) if tile is None else map(int, tile)
            overlap, match = float(overlap), float(match)
        except (TypeError, ValueError):
            raise InvalidInputError(
                f"expected tile=(width, height), overlap and match as numbers, got {tile!r}, {overlap!r} and {match!r}"
            ) from None
        if tile is not None and min(width, height) < 1:
            raise InvalidInputError(f"tile: expected a width and a height of 1 pixel or more, got {tile}")
        pipeline = self._running
        check_format(format)
        pixels, is_rgb = as_pixels(image, format, 0)
        options = _core.TileOptions(width=width, height=height, overlap=overlap, whole=whole, match=match)
        raw, _ = pipeline.core.detect_tiled(pixels, "rgb" if is_rgb else format, options)
        return pipeline.detections(raw)

    def submit(self, image: ImageInput, *, format: PixelFormat = "rgb") -> Future[Detections]:
        """Detects in a thread of the detector and returns at once, unless too many images wait already: then it waits.

        Pays off with ``mode="throughput"``, or where images are files, which are read in those threads. As many images
        as there are requests are under way and as many more wait, plus one each. What is submitted runs on the bundle
        of that moment, and is finished even if the detector is closed.

        Args:
            image: As in a call. The memory of an array must not change before the future is done.
            format: Pixel format of an array.

        Returns:
            A future; errors are in it. ``cancel()`` works until the image's turn has come.

        Raises:
            InvalidInputError: The detector is closed.
        """
        with self._state:
            pipeline = self._running
            if self._submissions is None:
                count = pipeline.info.requests + 1  # one more prepares the next image
                self._submissions = Submissions(workers=count, waiting=count)
            submissions = self._submissions
        try:
            return submissions.submit(lambda: pipeline.detect([image], format)[0][0])
        except RuntimeError:
            self._running  # noqa: B018 - says that it was closed while this waited
            raise

    def stream(
        self,
        items: Iterable[_Item],
        *,
        image: Callable[[_Item], ImageInput] | None = None,
        ahead: int | None = None,
        format: PixelFormat = "rgb",
    ) -> Iterator[tuple[_Item, Detections]]:
        """Detects in one image after the other, several at a time, and yields them in order.

            for path, found in detect.stream(folder.glob("*.jpg")):
            for frame, found in detect.stream(frames, image=lambda frame: frame.planes, format="nv12"):

        Items are taken when there is room for them, in the thread that iterates, so endless ones are fine. Leaving the
        loop cancels what has not begun and closes ``items``, where that is a generator. An error of ``items`` is
        raised after the results of the items before it, an error in an image in its place; both end the stream.

        Args:
            items: Images, or anything of which ``image`` makes one.
            image: The image of an item; None: the item itself.
            ahead: Items that may have been taken and not yielded, 1 or more; None: two more than there are requests.
            format: Pixel format of arrays.
        """
        if ahead is None:
            ahead = self.info.requests + 2
        if isinstance(ahead, bool) or not isinstance(ahead, int) or ahead < 1:
            raise InvalidInputError(f"ahead: expected 1, 2, 3, ... items, got {ahead!r}")
        check_format(format)
        return in_order(
            items,
            lambda item: self.submit(cast("ImageInput", item) if image is None else image(item), format=format),
            ahead=ahead,
        )

    def execution_graph(self) -> list[dict[str, str]]:
        """The engine's own layers in the order they run.

        Returns:
            Per layer its ``name``, ``type``, ``primitive`` (the kernel), ``precision`` of its output, and
            ``original``: the layers of the network that it does.
        """
        return self._running.core.execution_graph()

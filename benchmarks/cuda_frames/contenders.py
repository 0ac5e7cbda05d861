"""The ways from a BGR frame to the network input and, with given outputs of the network, to detections on the host."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cuda_frames import torch_peer
from benchmarks.cuda_frames.frames import GivenOutputs
from benchmarks.cuda_frames.kernels import Filter
from benchmarks.cuda_frames.timing import capture, current_stream
from benchmarks.cuda_frames.torch_peer import MEAN, STD, ToHost
from edgedet import cuda

FILTERS: tuple[Filter, ...] = ("antialias", "bilinear")

EDGEDET, EDGEDET_HOST = "edgedet", "edgedet, frame in host memory"


class NotInstalled(Exception):  # noqa: N818 - nothing went wrong
    """A package that a contender is made of is missing."""


@dataclass(frozen=True)
class Frame:
    """The same BGR picture in device memory and in host memory, (H, W, 3) uint8."""

    device: torch.Tensor
    host: NDArray[np.uint8]


@dataclass(frozen=True)
class Task:
    """side: of the network input. logits: (1, Q, C), boxes: (1, Q, 4): what the network said, on the device."""

    width: int
    height: int
    side: int
    top_k: int
    logits: torch.Tensor
    boxes: torch.Tensor

    @property
    def device(self) -> str:
        return str(self.logits.device)

    def size(self) -> torch.Tensor:
        """(4,) width, height, width, height of the frame."""
        return torch.tensor([self.width, self.height] * 2, dtype=torch.float32, device=self.device)


@dataclass(frozen=True)
class Ways:
    """preprocess: the network input (1, 3, side, side) on the device. detect: what torch_peer.as_rows takes."""

    preprocess: Callable[[Frame], Any]
    detect: Callable[[Frame], Any]


@dataclass(frozen=True)
class Contender:
    """base: the contender that its times are divided by."""

    name: str
    filter: Filter
    base: str
    make: Callable[[], Ways]

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.filter


def all_contenders(task: Task, *, compiled: bool) -> list[Contender]:
    """Every one; without those of torch.compile if it takes too long."""

    def each(name: str, make: Callable[[Filter], Ways], base: str = EDGEDET) -> list[Contender]:
        return [Contender(name, filter, base, partial(make, filter)) for filter in FILTERS]

    def plain(filter: Filter) -> Functions:
        return torch_functions(task, antialias=filter == "antialias")

    found = [
        *each(EDGEDET, lambda filter: edgedet_ways(task, filter)),
        *each(EDGEDET_HOST, lambda filter: edgedet_host_ways(task, filter), EDGEDET_HOST),
        *each("torch eager", lambda filter: torch_ways(plain(filter))),
        *each("torch CUDA graph", lambda filter: torch_ways(graphed(plain(filter), task))),
        *each("torchvision v2", lambda filter: torchvision_ways(task, antialias=filter == "antialias")),
        Contender("CuPy", "bilinear", EDGEDET, lambda: cupy_ways(task)),
        Contender("OpenCV + upload, frame in host memory", "bilinear", EDGEDET_HOST, lambda: opencv_ways(task)),
    ]
    if compiled:
        found += each("torch.compile", lambda filter: torch_ways(compile_all(plain(filter))))
        found += each("torch.compile, CUDA graph", lambda filter: torch_ways(graphed(compile_all(plain(filter)), task)))
    return found


def package(name: str) -> Any:
    """A module of a package that may be missing.

    Raises:
        NotInstalled: it is.
    """
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise NotInstalled("not installed")
    return importlib.import_module(name)


def edgedet_ways(task: Task, filter: Filter) -> Ways:
    """FramePool around a network that copies the given outputs; the frame is read where it lies."""
    pool = _pool(task, filter)
    preprocessor = _preprocessor(task, filter)
    out = torch.empty((1, 3, task.side, task.side), device=task.device)

    def preprocess(frame: Frame) -> torch.Tensor:
        preprocessor.run([frame.device], out, format="bgr", stream=current_stream())
        return out

    return Ways(preprocess, lambda frame: pool.detect([frame.device], "bgr")[0])


def edgedet_host_ways(task: Task, filter: Filter) -> Ways:
    """The same with a frame in ordinary host memory; torch uploads it where only preprocessing is done."""
    pool = _pool(task, filter)
    preprocessor = _preprocessor(task, filter)
    out = torch.empty((1, 3, task.side, task.side), device=task.device)

    def preprocess(frame: Frame) -> torch.Tensor:
        uploaded = torch.from_numpy(frame.host).to(task.device)
        preprocessor.run([uploaded], out, format="bgr", stream=current_stream())
        return out

    return Ways(preprocess, lambda frame: pool.detect([frame.host], "bgr")[0])


def _pool(task: Task, filter: Filter) -> cuda.FramePool:
    return cuda.FramePool(
        GivenOutputs(task.logits, task.boxes),
        width=task.side,
        height=task.side,
        filter=filter,
        mean=MEAN,
        std=STD,
        rows=task.logits.shape[1],
        classes=task.logits.shape[2],
        top_k=task.top_k,
        max_width=task.width,
        max_height=task.height,
    )


def _preprocessor(task: Task, filter: Filter) -> cuda.Preprocessor:
    return cuda.Preprocessor(
        width=task.side,
        height=task.side,
        filter=filter,
        mean=MEAN,
        std=STD,
        max_width=task.width,
        max_height=task.height,
    )


@dataclass(frozen=True)
class Functions:
    """preprocess: a frame (H, W, 3) to the network input. whole: to the network input and the rows of detections.

    `whole` returns both, lest a compiler leaves out the input that nothing here reads.
    """

    preprocess: Callable[[torch.Tensor], torch.Tensor]
    whole: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def torch_functions(task: Task, *, antialias: bool) -> Functions:
    """What people write, as it is."""
    preprocess = torch_peer.Preprocess(task.side, antialias=antialias, device=task.device)
    size = task.size()

    def whole(frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return preprocess(frame), torch_peer.decode(task.logits, task.boxes, size, task.top_k)

    return Functions(preprocess.__call__, whole)


def compile_all(functions: Functions) -> Functions:
    """The same by torch.compile."""
    return Functions(torch.compile(functions.preprocess, dynamic=False), torch.compile(functions.whole, dynamic=False))


class Graphed:
    """A function of a frame as a CUDA graph. The graph reads one place, so each frame is copied there."""

    def __init__(self, function: Callable[[torch.Tensor], Any], task: Task) -> None:
        self._frame = torch.zeros((task.height, task.width, 3), dtype=torch.uint8, device=task.device)
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # what is set up or compiled at first calls cannot be captured
                function(self._frame)
        stream.synchronize()
        self._result = capture(self._graph, lambda: function(self._frame), stream)

    def __call__(self, frame: torch.Tensor) -> Any:
        self._frame.copy_(frame)
        self._graph.replay()
        return self._result


def graphed(functions: Functions, task: Task) -> Functions:
    """The same as CUDA graphs; a result is overwritten by the next."""
    return Functions(Graphed(functions.preprocess, task), Graphed(functions.whole, task))


def torch_ways(functions: Functions) -> Ways:
    to_host = ToHost()
    return Ways(
        lambda frame: functions.preprocess(frame.device), lambda frame: to_host(functions.whole(frame.device)[1])
    )


def torchvision_ways(task: Task, *, antialias: bool) -> Ways:
    """torchvision.transforms.v2.functional, on the device."""
    functional = package("torchvision.transforms.v2.functional")
    size, to_host = task.size(), ToHost()

    def preprocess(frame: Frame) -> torch.Tensor:
        planes = frame.device.permute(2, 0, 1).flip(0)[None]
        small = functional.resize(planes, [task.side, task.side], antialias=antialias)
        scaled = functional.to_dtype(small, torch.float32, scale=True)
        result: torch.Tensor = functional.normalize(scaled, list(MEAN), list(STD))
        return result

    def detect(frame: Frame) -> NDArray[np.float32]:
        preprocess(frame)
        return to_host(torch_peer.decode(task.logits, task.boxes, size, task.top_k))

    return Ways(preprocess, detect)


def cupy_ways(task: Task) -> Ways:
    """CuPy with its bilinear zoom, half-pixel centres."""
    cupy = package("cupy")
    zoom = package("cupyx.scipy.ndimage").zoom
    mean, std = (cupy.asarray(values, cupy.float32).reshape(3, 1, 1) for values in (MEAN, STD))
    logits, boxes, size = (cupy.from_dlpack(tensor) for tensor in (task.logits[0], task.boxes[0], task.size()))
    ratios = (1, task.side / task.height, task.side / task.width)

    def preprocess(frame: Frame) -> Any:
        planes = cupy.from_dlpack(frame.device)[..., ::-1].transpose(2, 0, 1).astype(cupy.float32)
        small = zoom(planes, ratios, order=1, mode="nearest", prefilter=False, grid_mode=True)
        return (small / 255 - mean) / std

    def detect(frame: Frame) -> Any:
        preprocess(frame)
        scores = 1 / (1 + cupy.exp(-logits.ravel()))
        index = cupy.argsort(-scores)[: task.top_k]
        picked = boxes[index // logits.shape[1]]
        centre, half = picked[:, :2], picked[:, 2:] / 2
        corners = cupy.clip(cupy.concatenate((centre - half, centre + half), 1), 0, 1) * size
        labels = (index % logits.shape[1]).astype(cupy.float32)
        return cupy.asnumpy(cupy.concatenate((corners, scores[index][:, None], labels[:, None]), 1))

    return Ways(preprocess, detect)


def opencv_ways(task: Task) -> Ways:
    """OpenCV and NumPy on the CPU, then upload; torch decodes on the device."""
    size, to_host = task.size(), ToHost()
    mean, std = (np.array(values, np.float32) for values in (MEAN, STD))

    def preprocess(frame: Frame) -> torch.Tensor:
        small = cv2.resize(frame.host, (task.side, task.side), interpolation=cv2.INTER_LINEAR)
        levels = cv2.cvtColor(small, cv2.COLOR_BGR2RGB).astype(np.float32) / np.float32(255)
        planes = np.ascontiguousarray(((levels - mean) / std).transpose(2, 0, 1)[None])
        return torch.from_numpy(planes).to(task.device)

    def detect(frame: Frame) -> NDArray[np.float32]:
        preprocess(frame)
        return to_host(torch_peer.decode(task.logits, task.boxes, size, task.top_k))

    return Ways(preprocess, detect)

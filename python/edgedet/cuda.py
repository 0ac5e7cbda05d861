"""What surrounds a network on a CUDA device: preprocessing, decoding, and whole frames as one CUDA graph.

Bring any network that queues its work on a CUDA stream (torch, CuPy, TensorRT through Python)::

    def network(buffers, batch, stream):
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
            logits, boxes = model(torch.as_tensor(buffers["input"], device="cuda"))
            torch.as_tensor(buffers["logits"], device="cuda").copy_(logits)
            torch.as_tensor(buffers["boxes"], device="cuda").copy_(boxes)

    pool = cuda.FramePool(network, width=640, height=640, filter="antialias", paths=2, graph=False)
    [(boxes, scores, labels)] = pool.detect([frame])

Images are NumPy arrays (copied to pinned memory before the call returns), or arrays of another library in device
memory, read in place: whatever has DLPack or ``__cuda_array_interface__``. See docs/kernels.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Tuple

import numpy as np
from numpy.typing import NDArray

from edgedet import _core
from edgedet._core import CudaDecoder as Decoder
from edgedet._core import CudaPreprocessor as Preprocessor
from edgedet._core import DeviceView, FrameTicket

__all__ = ["Decoder", "Device", "DeviceView", "FramePool", "FrameTicket", "Preprocessor", "devices", "versions"]

Result = Tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


@dataclass(frozen=True)
class Device:
    """A CUDA device; memory in bytes."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    integrated: bool
    free_bytes: int
    total_bytes: int


def devices() -> list[Device]:
    """The CUDA devices of this machine.

    Raises:
        BackendError: There is none, or no driver, or this build has no CUDA; the message says which.
    """
    found, reason = _core.cuda_devices()
    if not found:
        raise _core.BackendError(f"expected a CUDA device, got none: {reason}")
    return [Device(**entry) for entry in found]


def versions() -> dict[str, int]:
    """Versions of "driver" and "runtime" as CUDA counts them (12040 is 12.4); 0 where there is none."""
    driver, runtime = _core.cuda_versions()
    return {"driver": driver, "runtime": runtime}


class FramePool(_core.FramePool):
    """Frames on a CUDA device: upload, preprocessing, `network`, decoding and download, replayed as one CUDA graph.

    One path serves one frame (a batch of images) at a time; threads share the pool. Everything is allocated when the
    pool is made and when a batch size is seen for the first time; a frame allocates nothing and waits asleep.

    Args:
        network: Called as ``network(buffers, batch, stream)`` to queue the network on `stream` (a cudaStream_t) for the
            first `batch` images of `buffers`: "input" (batch, 3, height, width), and "logits" (batch, rows, classes)
            and "boxes" (batch, rows, 4), cxcywh in [0, 1]; or, with ``head="scored"``, "labels" (batch, rows), "boxes"
            xyxy in pixels of the network input, "scores". It must not wait. With ``graph=True`` it is called twice for
            a batch size, the second time to be captured, and what it works in must stay allocated. With several paths
            it is called for each, with other buffers. None: nothing, and all outputs stay zero, the slowest case of
            decoding.
        width, height, resize, filter, channels, mean, std, pad_value: As in `edgedet.preprocess`.
        input_dtype, input_scale: Type of the network's input; with int8 a stored q stands for q * input_scale.
        output_dtype, label_dtype: Types of the outputs.
        rows, classes: Queries and classes of the network.
        top_k, score_threshold: As in `edgedet.decode_logits`; top_k at most 2048.
        paths: Frames in flight at a time.
        max_batch: Images a frame, at most 32.
        max_width, max_height: Largest image; memory is reserved for it.
        graph: False calls the network for every frame: for what cannot be captured, or allocates as it goes (torch).
        memory_limit: Bytes of device memory that the pool may take; 0: no limit.
        device: Index in `devices`.

    Raises:
        InvalidInputError: An option; the figures, if the memory limit does not suffice.
        BackendError: No device, or CUDA fails.
    """

    def detect(self, images: Sequence[Any], format: Literal["rgb", "bgr", "gray", "nv12"] = "rgb") -> list[Result]:
        """Boxes (N, 4), scores (N,) and labels (N,) of each image, as of `edgedet.decode_logits`.

        Waits for a free path. Raises as `submit` and `FrameTicket.result`.
        """
        return self.submit(images, format, timeout=math.inf).result()

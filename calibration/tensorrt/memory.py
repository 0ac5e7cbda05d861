"""Device memory for a calibrator, through whichever of three packages is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet import BackendError

#: Copies an array to the device and returns its address there; the second argument names the buffer, which is kept.
Upload = Callable[[npt.NDArray[np.generic], str], int]


def device_memory() -> Upload:
    """Uploads through cuda-python, pycuda or torch, the first that is there.

    Raises:
        BackendError: none of them is installed, or no device answers.
    """
    for make in (_cuda_python, _pycuda, _torch):
        upload = _try(make)
        if upload is not None:
            return upload
    raise BackendError(
        "expected a package that reaches the GPU's memory, got none of cuda-python, pycuda and torch; "
        "pip install cuda-python"
    )


def _try(make: Callable[[], Upload]) -> Upload | None:
    try:
        return make()
    except ImportError:
        return None


def _cuda_python() -> Upload:
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        runtime = importlib.import_module("cuda.cudart")
    buffers: dict[str, tuple[int, int]] = {}

    def checked(result: tuple[Any, ...]) -> Any:
        if int(result[0]) != 0:
            raise BackendError(
                f"expected memory on the GPU, got CUDA error {int(result[0])}; calibrate in smaller batches"
            )
        return result[1] if len(result) > 1 else None

    def upload(values: npt.NDArray[np.generic], name: str) -> int:
        if name not in buffers or buffers[name][1] < values.nbytes:
            buffers[name] = (int(checked(runtime.cudaMalloc(values.nbytes))), values.nbytes)
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(runtime.cudaMemcpy(buffers[name][0], values.ctypes.data, values.nbytes, kind))
        return buffers[name][0]

    return upload


def _pycuda() -> Upload:
    driver = importlib.import_module("pycuda.driver")
    importlib.import_module("pycuda.autoinit")
    buffers: dict[str, tuple[Any, int]] = {}

    def upload(values: npt.NDArray[np.generic], name: str) -> int:
        if name not in buffers or buffers[name][1] < values.nbytes:
            buffers[name] = (driver.mem_alloc(values.nbytes), values.nbytes)
        driver.memcpy_htod(buffers[name][0], values)
        return int(buffers[name][0])

    return upload


def _torch() -> Upload:
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise BackendError("expected a CUDA device, got none that torch can use; calibrate where the GPU is")
    buffers: dict[str, Any] = {}

    def upload(values: npt.NDArray[np.generic], name: str) -> int:
        buffers[name] = torch.from_numpy(values).cuda()
        torch.cuda.synchronize()
        return int(buffers[name].data_ptr())

    return upload

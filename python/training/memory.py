"""Memory: what running out of it looks like, a cap on a GPU's, the peak, and an allocator habit that costs time."""

from __future__ import annotations

import ctypes
import platform
import re
import resource

import torch

from edgedet import InvalidInputError, ModelError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed blocks instead of giving them back to the kernel. Returns whether it listened.

    A training step frees and takes the same large blocks over and over, and fresh pages cost a fault each: this makes
    steps of small networks about a tenth faster. The process keeps its peak memory until it ends.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch found no memory: on a GPU an error of its own, on a CPU one that only its text tells."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


class OutOfMemoryError(ModelError):
    """Memory ran out in one of several processes. micro_batch: images at a time to go on with."""

    def __init__(self, *, step: int, micro_batch: int) -> None:
        super().__init__(
            f"step {step}: expected memory for the step, got none in one of the processes; "
            f"resume the run, which then takes {micro_batch} images at a time"
        )
        self.micro_batch = micro_batch


def halved(images: int) -> int:
    """The next smaller number of images to try at a time. Raises ModelError if there is none."""
    if images == 1:
        raise ModelError("expected memory for one image at a time, got none; lower --size, or choose a smaller --model")
    return (images + 1) // 2


def parse_bytes(text: str) -> int:
    """Bytes of a size such as 4GiB, 512MiB. Raises InvalidInputError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(KiB|MiB|GiB)", text)
    if match is None or not (size := int(float(match[1]) * _UNITS[match[2]])):
        raise InvalidInputError(f"expected a size such as 4GiB or 512MiB, got {text!r}")
    return size


def limit_memory(device: torch.device, budget: int) -> str:
    """Caps what PyTorch may take of a GPU, in bytes, and says what was done. A CPU has no such cap.

    The cap counts tensors and the allocator's spare blocks; the driver's own few hundred MiB per process come on top.
    Raises InvalidInputError if the GPU has less.
    """
    if device.type != "cuda":
        return "vram budget: not applied, for this run is on the CPU"
    total = torch.cuda.get_device_properties(device).total_memory
    if budget > total:
        raise InvalidInputError(
            f"vram budget: expected at most the {readable_bytes(total)} of {device}, got {readable_bytes(budget)}"
        )
    torch.cuda.set_per_process_memory_fraction(budget / total, device)
    return f"vram budget: {readable_bytes(budget)} of the {readable_bytes(total)} of {device}"


def peak_bytes(device: torch.device) -> int:
    """The most this process has held: of a GPU, by PyTorch's allocator; else of main memory, by the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak << 10


def readable_bytes(size: int) -> str:
    """For people: 1.5 GiB, 300 MiB."""
    return f"{size / _UNITS['GiB']:.1f} GiB" if size >= _UNITS["GiB"] else f"{size / _UNITS['MiB']:.0f} MiB"

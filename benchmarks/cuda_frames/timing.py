"""Clocks: of the device by events, of the host by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from edgedet import BackendError

DEVICE = "cuda"
GRAPH = "CUDA graph"
Name = TypeVar("Name")
Result = TypeVar("Result")


@dataclass(frozen=True)
class GpuTimes:
    """Microseconds of the device for a call: a sample is the mean of the calls of one replay."""

    microseconds: list[float]
    calls: int  # a replay
    timed: str  # GRAPH, or why there is none and what the figures contain in its place


class InPlace:
    """A tensor as bare device memory, for calls on a stream that is in order with the tensor's already."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self.__cuda_array_interface__: dict[str, Any] = {**tensor.__cuda_array_interface__, "version": 3}


def need_torch() -> None:
    """Raises BackendError where torch has no CUDA device."""
    if not torch.cuda.is_available():
        raise BackendError(
            f"expected a torch that sees the CUDA device, got {torch.__version__}; install a CUDA build that fits "
            "the driver"
        )


def current_stream() -> int:
    """The cudaStream_t that torch queues on."""
    return int(torch.cuda.current_stream().cuda_stream)


def capture(graph: torch.cuda.CUDAGraph, queue: Callable[[], Result], stream: torch.cuda.Stream) -> Result:
    """Captures what `queue` queues and returns what it returns. The current stream is left as it was, come what may."""
    with (
        torch.cuda.stream(stream),
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        return queue()


def gpu_times(call: Callable[[int], object], *, calls: int, samples: int) -> GpuTimes:
    """Times ``call(0)`` to ``call(calls - 1)``, which queue work on torch's current stream, as one CUDA graph.

    A graph leaves out what the host needs to launch; where capturing fails, the calls are queued one by one and the
    figures include that.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())

    def queue() -> None:
        for index in range(calls):
            call(index)

    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(samples)]
    graph = torch.cuda.CUDAGraph()
    replay: Callable[[], None] = queue
    timed = GRAPH
    with torch.cuda.stream(stream):
        queue()  # what is set up at a first call, such as resize tables, cannot be captured
        stream.synchronize()
        try:
            capture(graph, queue, stream)
            replay = graph.replay
        except RuntimeError as error:
            timed = f"one by one, with what the host needs to launch, as there is no graph: {error}"
    with torch.cuda.stream(stream):
        replay()
        replay()
        for start, end in marks:
            start.record(stream)
            replay()
            end.record(stream)
    stream.synchronize()
    times = [float(start.elapsed_time(end)) * 1e3 / calls for start, end in marks]
    return GpuTimes(times, calls, timed)


def round_robin(
    calls: Mapping[Name, Callable[[int], object]], *, rounds: int, warmup: int, between: Callable[[], object]
) -> dict[Name, list[float]]:
    """Microseconds of each call of each contender.

    A round calls every contender once, with the number of the round, in an order that rotates; `between` runs before
    each, untimed.
    """
    names = list(calls)
    taken: dict[Name, list[float]] = {name: [] for name in names}
    for turn in range(warmup + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            between()
            start = time.perf_counter()
            calls[name](turn)
            spent = time.perf_counter() - start
            if turn >= warmup:
                taken[name].append(spent * 1e6)
    return taken


@dataclass(frozen=True)
class HostTimes:
    """Microseconds of each call: of the clock, of the calling thread's processor time, of the process'."""

    wall: list[float]
    thread: list[float]
    process: list[float]


def host_times(call: Callable[[int], object], *, samples: int, seconds: float, warmup: int) -> HostTimes:
    """Calls until there are `samples`, or `seconds` have passed and there is one at least."""
    for index in range(warmup):
        call(index)
    times = HostTimes([], [], [])
    end = time.perf_counter() + seconds
    for index in range(samples):
        process, thread, wall = time.process_time(), time.thread_time(), time.perf_counter()
        call(index)
        times.wall.append((time.perf_counter() - wall) * 1e6)
        times.thread.append((time.thread_time() - thread) * 1e6)
        times.process.append((time.process_time() - process) * 1e6)
        if time.perf_counter() > end:
            break
    return times

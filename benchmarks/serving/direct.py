"""The same work without a server: a Detector in a process of its own, with a thread for each connection."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from edgedet import Detector, read_image

Frame = tuple[bytes, tuple[int, int] | None]
"""A JPEG file and None, or raw RGB and its height and width."""


class Direct:
    """Asks the process to run."""

    def __init__(self, channel: Connection) -> None:
        self._channel = channel

    def rate(self, frames: list[Frame], *, threads: int, count: int) -> float:
        """Frames a second; decoding counts where a frame is a file."""
        self._channel.send((frames, threads, count))
        rate: float = self._channel.recv()
        return rate


@contextmanager
def direct(bundle: Path, *, mode: str) -> Iterator[Direct]:
    """Opens the detector."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_run, args=(theirs, bundle, mode))
    process.start()
    theirs.close()
    try:
        yield Direct(ours)
    finally:
        ours.close()
        process.join(30)


def _run(channel: Connection, bundle: Path, mode: str) -> None:
    detector = Detector(bundle, mode="throughput" if mode == "throughput" else "latency")
    while True:
        try:
            frames, threads, count = channel.recv()
        except EOFError:
            return
        channel.send(_rate(detector, frames, threads, count))


def _rate(detector: Detector, frames: list[Frame], threads: int, count: int) -> float:
    numbers = itertools.count()

    def work() -> None:
        while (number := next(numbers)) < count:
            data, shape = frames[number % len(frames)]
            detector(read_image(data) if shape is None else np.frombuffer(data, np.uint8).reshape(*shape, 3)).filter(
                0.3
            )

    workers = [threading.Thread(target=work) for _ in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return count / (time.perf_counter() - start)

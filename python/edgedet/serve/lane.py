"""A model in the worker: requests that are ready to run, grouped into batches, run, answered."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgedet import Detections, Detector, Error, StageTimes
from edgedet.serve.payload import Work
from edgedet.serve.refusal import RefusedError


@dataclass
class Ready:
    """A request whose images are decoded.

    Attributes:
        work: Its images.
        deadline: On the clock of `time.monotonic`; it is not run after that.
        done: Called with what was found and the milliseconds of the stages, or with why there is nothing.
        since: When it became ready.
        times: Milliseconds by stage; `wait` and those of the run are filled in here.
        batch: Images of the batch it was in, for the first request of each batch only.
    """

    work: Work
    deadline: float
    done: Callable[[Ready, Sequence[Detections], RefusedError | None], None]
    since: float = field(default_factory=time.monotonic)
    times: dict[str, float] = field(default_factory=dict)
    batch: int = 0


class Lane:
    """Batches for one detector.

    Images wait for each other only while others are on their way through the decoders, and never for longer than the
    bound: a request that comes alone is run at once. Where nothing is batched, who puts a request runs it: one
    thread less to wake.

    Attributes:
        detector: What runs them.
        max_batch: Images that run together at the most.
        runners: Calls that keep the detector busy.
        callers: Threads that these calls need of whoever puts requests; 0 where a lane has its own.
    """

    def __init__(self, detector: Detector, *, max_batch: int, wait: float, coming: Callable[[], int]) -> None:
        """wait: the bound, seconds. coming: how many requests are being decoded. max_batch: images; 0: automatic."""
        self.detector = detector
        info = detector.info
        # A CPU runs images side by side in requests of their own and gains nothing from a batch; a GPU does.
        self.max_batch = max_batch or (1 if info.backend == "openvino" else 8)
        self._wait, self._coming = wait, coming
        self._ready: deque[Ready] = deque()
        self._changed = threading.Condition()
        self._collecting = threading.Lock()
        # One more call than the backend runs side by side: the next batch is there when one ends.
        self.runners = info.requests + 1 if self.max_batch == 1 else 2
        self.callers = self.runners if self.max_batch == 1 else 0
        for number in range(self.runners - self.callers):
            threading.Thread(target=self._run_forever, name=f"run-{info.name}-{number}", daemon=True).start()

    def put(self, request: Ready) -> None:
        """Queues a request; runs it where nothing is batched."""
        if self.max_batch == 1:
            self._run([request])
            return
        with self._changed:
            self._ready.append(request)
            self._changed.notify()

    def nudge(self) -> None:
        """Says that a request which was coming is not, so that nobody waits for it."""
        with self._changed:
            self._changed.notify()

    def _run_forever(self) -> None:
        while True:
            self._run(self._take())

    def _take(self) -> list[Ready]:
        """Waits for requests that fit together and for the bound."""
        with self._collecting, self._changed:
            while not self._ready:
                self._changed.wait()
            batch = [self._ready.popleft()]
            images = len(batch[0].work.images)
            until = batch[0].since + self._wait
            while images < self.max_batch:
                if self._ready:
                    following = self._ready[0].work
                    if following.format != batch[0].work.format or images + len(following.images) > self.max_batch:
                        break
                    images += len(following.images)
                    batch.append(self._ready.popleft())
                    continue
                left = until - time.monotonic()
                if left <= 0 or self._coming() == 0:
                    break
                self._changed.wait(left)
            return batch

    def _run(self, batch: list[Ready]) -> None:
        now = time.monotonic()
        alive = []
        for request in batch:
            request.times["wait"] = (now - request.since) * 1e3
            if now >= request.deadline:
                request.done(
                    request, (), RefusedError(504, "deadline", "the time of this request ran out before it was run")
                )
            else:
                alive.append(request)
        if not alive:
            return
        images: list[Any] = [image for request in alive for image in request.work.images]
        format: Any = alive[0].work.format
        alive[0].batch = len(images)
        try:
            found, times = self.detector.detect_timed(images, format=format)
        except Error as error:
            if len(alive) > 1:  # one of them spoils it: each by itself
                for request in alive:
                    self._run([request])
                return
            alive[0].done(alive[0], (), RefusedError(500, "model", str(error)))
            return
        except Exception as error:  # never a request without an answer
            for request in alive:
                request.done(request, (), RefusedError(500, "internal", f"the detector failed: {error!r}"))
            return
        _answer(alive, found, times)


def _answer(batch: Sequence[Ready], found: Sequence[Detections], times: StageTimes) -> None:
    start = 0
    for request in batch:
        end = start + len(request.work.images)
        request.times.update(times._asdict())
        request.done(request, [one.filter(request.work.score) for one in found[start:end]], None)
        start = end

"""Between HTTP and the worker: the queue, deadlines, and a new worker when one is lost. For one event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgedet.serve.arena import Region
from edgedet.serve.fair_queue import FairQueue
from edgedet.serve.intake import Intake
from edgedet.serve.metrics import Metrics
from edgedet.serve.options import FrontOptions, WorkerOptions
from edgedet.serve.process import WorkerProcess
from edgedet.serve.refusal import RefusedError, error_body

_ATTEMPTS = 2  # a request that two workers died of may well be what they died of
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between workers
_LIVED = 30.0  # seconds after which a worker counts as one that works


class Answer(NamedTuple):
    """What a client gets. retry_after: seconds, where it should ask again."""

    status: int
    body: bytes
    retry_after: int | None = None


@dataclass(eq=False)
class _Job:
    """A request for the worker. The body is given back when the worker no longer reads it, whatever the client got."""

    meta: dict[str, Any]
    client: str
    answer: asyncio.Future[Answer]
    region: Region | None = None
    gone: Callable[[], bool] = lambda: False
    attempts: int = 0
    sent: float = 0.0


class Dispatcher:
    """Takes requests, answers each of them exactly once.

    Attributes:
        cards: What the worker said of each model; empty until it was there for the first time.
        draining: The server was told to stop.
        failed: Why there will never be a worker; None as long as there may be one.
        over: Set when `failed` is.
    """

    def __init__(self, worker: WorkerOptions, front: FrontOptions) -> None:
        self.worker, self.front = worker, front
        self.intake = Intake(front.buffer, worker.max_upload, front.body_timeout)
        self.cards: list[dict[str, Any]] = []
        self.draining = False
        self.failed: str | None = None
        self._ids = itertools.count(1)
        self._queue: FairQueue[_Job] = FairQueue(front.queue)
        self._in_flight: dict[int, _Job] = {}
        self._process: WorkerProcess | None = None
        self._window = 0  # requests that the worker takes at a time; 0: it is not there
        self._failure: str | None = None  # what the worker said before it ended
        self._interval = 0.01  # seconds between answers, smoothed, for Retry-After
        self._last_answer = 0.0
        self.metrics = Metrics(
            queued=lambda: len(self._queue),
            in_flight=lambda: len(self._in_flight),
            ready=lambda: float(self.ready),
            buffered=lambda: self.intake.arena.used,
        )

    @property
    def ready(self) -> bool:
        """Whether requests are taken and there is a worker to run them."""
        return self._window > 0 and not self.draining

    async def start(self) -> None:
        """Starts the worker, and others after it; does not wait for it."""
        loop = asyncio.get_running_loop()
        self.over = asyncio.Event()
        self._tasks = [loop.create_task(self._supervise()), loop.create_task(self._watch())]

    async def close(self) -> None:
        """Ends the worker."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._process is not None:
            await self._process.end(5.0)
        self.intake.close()

    async def run(
        self, client: str, region: Region, meta: dict[str, Any], *, timeout: float, gone: Callable[[], bool]
    ) -> Answer:
        """Queues a request whose body is in a region, which is given back; waits for its answer.

        timeout: seconds from now. gone: whether the client has left, asked before it is run.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        meta.update(op="detect", id=next(self._ids), at=region.start, size=region.size)
        meta.update(arrived=now, deadline=now + timeout)
        job = _Job(meta, client, loop.create_future(), region, gone)
        if not self.cards:
            self._give_back(job)
            raise RefusedError(503, "loading", "the models are being loaded; ask again in a moment")
        evicted = self._queue.put(client, job)
        if evicted is not None:
            self._give_back(evicted)
            if evicted is job:
                return self._full()
            self._finish(evicted, self._full())
        self.metrics.accepted.add()
        self._send_more()
        timer = loop.call_later(timeout, self._expire, job)
        try:
            return await job.answer
        finally:
            timer.cancel()

    async def swap(self, name: str, bundle: str) -> Answer:
        """Replaces the bundle of a model, see `Detector.swap`. Later workers run it too."""
        if not self.ready or self._process is None:
            raise RefusedError(503, "worker", "there is no worker now; ask again in a moment")
        meta: dict[str, Any] = {"op": "swap", "id": next(self._ids), "model": name, "bundle": bundle}
        job = _Job(meta, "", asyncio.get_running_loop().create_future(), attempts=_ATTEMPTS, sent=math.inf)
        self._in_flight[meta["id"]] = job
        self._process.send(meta)
        answer = await job.answer
        if answer.status == 200:
            models = tuple((one, bundle if one == name else path) for one, path in self.worker.models)
            self.worker = dataclasses.replace(self.worker, models=models)
        return answer

    def _send_more(self) -> None:
        process = self._process
        while process is not None and len(self._in_flight) < self._window:
            job = self._queue.take()
            if job is None:
                return
            if job.gone():
                self._finish(job, self._refused(499, "gone", "the client has left"))
                self._give_back(job)
                continue
            job.attempts += 1
            job.sent = time.monotonic()
            job.meta["queued"] = job.sent - job.meta["arrived"]
            self._in_flight[job.meta["id"]] = job
            process.send(job.meta)

    def _expire(self, job: _Job) -> None:
        if job.answer.done():
            return
        if job.meta["id"] not in self._in_flight:
            self._queue.remove(job.client, job)
            self._give_back(job)
        if self._window:
            self._finish(job, self._refused(504, "deadline", "the time of this request ran out before it was answered"))
        else:
            self._finish(job, self._lost())

    def _on_message(self, meta: dict[str, Any], body: bytes) -> None:
        if "cards" in meta:
            self.cards = meta["cards"]
        if meta.get("op") == "ready":
            self._window = meta["window"]
        elif meta.get("op") == "failed":
            self._failure = meta["message"]
        else:
            self._on_answer(meta, body)
        self._send_more()

    def _on_answer(self, meta: dict[str, Any], body: bytes) -> None:
        job = self._in_flight.pop(meta["id"])
        now = time.monotonic()
        self._interval += 0.05 * (min(now - self._last_answer, 1.0) - self._interval)
        self._last_answer = now
        self._give_back(job)
        if "reason" in meta:
            self.metrics.rejects.add(meta["reason"])
        if "times" in meta:
            model = meta["model"]
            for stage, milliseconds in meta["times"].items():
                self.metrics.stages.observe(milliseconds / 1e3, model, stage)
            self.metrics.stages.observe(now - job.meta["arrived"], model, "total")
            self.metrics.images.add(model, amount=meta["images"])
            if "batch" in meta:
                self.metrics.batches.observe(meta["batch"], model)
        self._finish(job, Answer(meta["status"], body))

    def _finish(self, job: _Job, answer: Answer) -> None:
        if not job.answer.done():
            job.answer.set_result(answer)
            if job.region is not None:
                self.metrics.answered.add()

    def _give_back(self, job: _Job) -> None:
        if job.region is not None:
            self.intake.release(job.client, job.region)

    def _refused(self, status: int, reason: str, message: str, retry_after: int | None = None) -> Answer:
        self.metrics.rejects.add(reason)
        return Answer(status, error_body(message), retry_after)

    def refuse(self, refusal: RefusedError) -> Answer:
        """What a client is told whose request did not get so far; it is counted."""
        again = 1 if refusal.status in (429, 503) else None
        return self._refused(refusal.status, refusal.reason, refusal.message, again)

    def _full(self) -> Answer:
        seconds = max(1, math.ceil(len(self._queue) * self._interval))
        return self._refused(429, "queue", f"too many requests are waiting; ask again in {seconds} s", seconds)

    def _lost(self) -> Answer:
        return self._refused(503, "worker", "the process that ran this request was lost; ask again in a moment", 1)

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._failure = None
            started = time.monotonic()
            self._process = await WorkerProcess.start(self.worker, self.intake.arena.file, self._on_message)
            await self._process.gone
            self._window = 0
            process, self._process = self._process, None
            code = await process.end(5.0)
            if not self.cards:
                self.failed = self._failure or f"the worker ended with code {code} before it was ready"
                self.over.set()
                return
            self._requeue()
            self.metrics.restarts.add()
            print(json.dumps({"event": "worker lost", "code": code, "reason": self._failure}), flush=True)
            if time.monotonic() - started > _LIVED:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _requeue(self) -> None:
        """What a lost worker had under way is for the next one, once."""
        jobs = list(self._in_flight.values())
        self._in_flight.clear()
        for job in reversed(jobs):
            if job.answer.done():  # its time was up
                self._give_back(job)
            elif job.attempts >= _ATTEMPTS:
                self._finish(job, self._lost())
                self._give_back(job)
            else:
                self._queue.put_first(job.client, job)

    async def _watch(self) -> None:
        """Kills a worker that is there and does not answer."""
        while True:
            await asyncio.sleep(1.0)
            oldest = min((job.sent for job in self._in_flight.values()), default=math.inf)
            if self._process is not None and time.monotonic() - oldest > self.front.stall:
                self._process.kill()

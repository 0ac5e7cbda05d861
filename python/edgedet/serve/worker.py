"""The process that holds the detectors: ``python -m edgedet.serve.worker SOCKET ARENA``, two inherited descriptors.

The first message is its options. It ends when the front closes the socket, and ignores SIGINT and SIGTERM, which
terminals and service managers send to every process: the front decides.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from edgedet import Detections, Error
from edgedet.serve import kserve, wire
from edgedet.serve.answers import detect_answer, model_card
from edgedet.serve.lane import Lane, Ready
from edgedet.serve.options import WorkerOptions
from edgedet.serve.payload import read_detect
from edgedet.serve.refusal import RefusedError, error_body


class Worker:
    """Reads requests, runs them, answers them."""

    def __init__(self, channel: socket.socket, memory: memoryview, options: WorkerOptions) -> None:
        self._channel, self._memory, self._options = channel, memory, options
        self._reading, self._writing, self._counting = threading.Lock(), threading.Lock(), threading.Lock()
        self._coming = 0
        self._lanes: dict[str, Lane] = {}
        for name, bundle in options.models:
            detector = options.open(bundle)
            self._lanes[name] = Lane(
                detector, max_batch=options.max_batch, wait=options.batch_wait, coming=lambda: self._coming
            )
        # Those that decode, and those that run what is not batched.
        self._threads = max(2, min(4, len(os.sched_getaffinity(0))))
        self._threads += sum(lane.callers for lane in self._lanes.values())
        self.send({"op": "ready", "cards": self._cards(), "window": self._window()})

    def run(self) -> None:
        """Until the front closes the channel."""
        threads = [threading.Thread(target=self._work_forever, daemon=True) for _ in range(self._threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def send(self, meta: dict[str, Any], body: bytes = b"") -> None:
        """A message to the front. Where the front is gone there is nobody left to work for."""
        data = wire.pack(meta, body)
        try:
            with self._writing:
                self._channel.sendall(data)
        except OSError:
            os._exit(0)

    def _cards(self) -> list[dict[str, Any]]:
        return [model_card(name, lane.detector) for name, lane in self._lanes.items()]

    def _window(self) -> int:
        """Requests that keep this process busy: more of them would only wait here, where their order is fixed."""
        return self._threads + sum((lane.runners - lane.callers) * lane.max_batch for lane in self._lanes.values())

    def _work_forever(self) -> None:
        while True:
            # Who reads a message also works on it: one thread less to wake for each request.
            with self._reading:
                message = wire.receive(self._channel)
                if message is not None and message[0]["op"] == "detect":
                    with self._counting:
                        self._coming += 1
            if message is None:
                return
            meta = message[0]
            if meta["op"] == "swap":
                threading.Thread(target=self._swap, args=(meta,), daemon=True).start()
                continue
            lane = None
            try:
                lane, ready = self._prepare(meta)
            except RefusedError as refusal:
                self._refuse(meta, refusal)
            except Exception as error:  # never a request without an answer
                self._refuse(meta, RefusedError(500, "internal", f"the request could not be read: {error!r}"))
            finally:
                with self._counting:
                    self._coming -= 1
            if lane is not None:
                lane.put(ready)
            for other in self._lanes.values():
                if other is not lane and other.max_batch > 1:
                    other.nudge()

    def _prepare(self, meta: dict[str, Any]) -> tuple[Lane, Ready]:
        start = time.monotonic()
        deadline = meta["deadline"]
        if start >= deadline:
            raise RefusedError(504, "deadline", "the time of this request ran out before it was read")
        body = self._memory[meta["at"] : meta["at"] + meta["size"]]
        if meta["api"] == "v2":
            work = kserve.read_infer(body, self._options)
            work.model = meta["model"]
        else:
            work = read_detect(body, meta["type"], meta["query"], self._options)
        lane = self._lanes.get(work.model or self._options.models[0][0])
        if lane is None:
            raise RefusedError(
                404, "model", f"expected a model out of {', '.join(self._lanes)}, got {str(work.model)[:40]!r}"
            )
        meta["model"] = work.model or self._options.models[0][0]
        if work.timeout is not None:
            deadline = min(deadline, meta["arrived"] + work.timeout)

        def done(ready: Ready, found: Sequence[Detections], refusal: RefusedError | None) -> None:
            if refusal is not None:
                self._refuse(meta, refusal)
            else:
                self._answer(meta, ready, found)

        times = {"queue": meta["queued"] * 1e3, "read": (time.monotonic() - start) * 1e3}
        return lane, Ready(work, deadline, done, times=times)

    def _answer(self, meta: dict[str, Any], ready: Ready, found: Sequence[Detections]) -> None:
        name = meta["model"]
        body = kserve.answer(name, ready.work, found) if meta["api"] == "v2" else detect_answer(name, ready, found)
        reply = {"id": meta["id"], "status": 200, "model": name, "images": len(found), "times": ready.times}
        if ready.batch:
            reply["batch"] = ready.batch
        self.send(reply, body)

    def _refuse(self, meta: dict[str, Any], refusal: RefusedError) -> None:
        self.send({"id": meta["id"], "status": refusal.status, "reason": refusal.reason}, refusal.body)

    def _swap(self, meta: dict[str, Any]) -> None:
        try:
            self._lanes[meta["model"]].detector.swap(meta["bundle"])
        except Exception as error:
            self.send({"id": meta["id"], "status": 422, "reason": "bundle"}, error_body(str(error)))
        else:
            card = model_card(meta["model"], self._lanes[meta["model"]].detector)
            self.send({"id": meta["id"], "status": 200, "cards": self._cards()}, json.dumps(card).encode())


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    message = wire.receive(channel)
    if message is None:
        return
    options = WorkerOptions.from_json(message[0])
    memory = memoryview(mmap.mmap(int(sys.argv[2]), 0, prot=mmap.PROT_READ))
    try:
        worker = Worker(channel, memory, options)
    except Error as error:
        channel.sendall(wire.pack({"op": "failed", "message": str(error)}))
        return
    worker.run()
    os._exit(0)  # threads of a backend may still be in a call whose answer nobody waits for


if __name__ == "__main__":
    main()

"""A Ray Serve deployment: the same bodies and answers as ``edgedet serve``, scaled over a cluster by Ray.

    from edgedet.serve.ray import detection_app
    ray.serve.run(detection_app("femto"), route_prefix="/")

Ray does what the front does elsewhere: it takes HTTP, balances, restarts replicas, scales them by requests under way.
The bundle has to lie at the same path on every machine.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from edgedet import Detections
from edgedet.extras import needs_extra
from edgedet.serve import kserve
from edgedet.serve.answers import detect_answer, model_card
from edgedet.serve.lane import Lane, Ready
from edgedet.serve.options import WorkerOptions
from edgedet.serve.payload import Work, read_detect
from edgedet.serve.refusal import RefusedError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_JSON = "application/json"


def detection_app(
    bundle: str | os.PathLike[str],
    *,
    name: str = "edgedet",
    min_replicas: int = 1,
    max_replicas: int = 1,
    cpus: float = 2,
    gpus: float = 0,
    queue: int = 128,
    **options: Any,
) -> Any:
    """An application for ``ray.serve.run``.

    Args:
        bundle: The bundle folder, on every machine.
        name: Of the deployment and of the model.
        min_replicas: Between this and the next Ray scales, by requests under way.
        max_replicas: See there.
        cpus: Of each replica.
        gpus: Of each replica; 1 for a backend on a GPU.
        queue: Requests a replica takes at a time; more are answered 503 by Ray.
        options: Of `WorkerOptions`: limits, backend, precision.

    Raises:
        Error: Ray is not installed.
        InvalidInputError: An option is out of range.
    """
    with needs_extra("ray"):
        from ray import serve
    worker = WorkerOptions(models=((name, str(bundle)),), threads=max(1, int(cpus)), **options)
    deployment = serve.deployment(
        Replica,
        name=name,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_ongoing_requests=queue,
        max_queued_requests=queue,
        autoscaling_config={
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "target_ongoing_requests": 4,
        },
        health_check_period_s=10,
        graceful_shutdown_timeout_s=30,
    )
    return deployment.bind(worker)


class Replica:
    """One detector. Bodies are read and decoded in threads; images of several requests run together."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._name, bundle = options.models[0]
        self._detector = options.open(bundle)
        self._coming = 0
        self._lane = Lane(
            self._detector, max_batch=options.max_batch, wait=options.batch_wait, coming=lambda: self._coming
        )
        # Those that decode, and those that run what is not batched.
        self._threads = ThreadPoolExecutor(max(2, options.threads) + self._lane.callers)

    async def __call__(self, request: Request) -> Response:
        """Routes: ``/v1/detect``, ``/v1/models``, ``/v2/models/{name}/infer``, ``/healthz``."""
        from starlette.responses import JSONResponse, Response

        path, model = request.url.path, f"/v2/models/{self._name}"
        if request.method == "GET" and path == "/healthz":
            return JSONResponse({"live": True})
        if request.method == "GET" and path == "/v1/models":
            return JSONResponse({"models": [model_card(self._name, self._detector)]})
        if request.method == "GET" and path == model:
            return JSONResponse(kserve.metadata(self._name))
        if request.method != "POST" or path not in ("/v1/detect", f"{model}/infer"):
            return JSONResponse({"error": f"nothing is at {path[:80]}"}, 404)
        try:
            body = await _body(request, self._options.max_upload)
            answer = await self.detect(
                body,
                content_type=request.headers.get("content-type", ""),
                query=dict(request.query_params),
                kserve_v2=path != "/v1/detect",
            )
        except RefusedError as refused:
            return Response(refused.body, refused.status, media_type=_JSON)
        return Response(answer, media_type=_JSON)

    async def detect(self, body: bytes, *, content_type: str, query: Mapping[str, str], kserve_v2: bool) -> bytes:
        """The answer to a body, as JSON.

        Raises:
            RefusedError: As the server refuses it.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()

        def done(ready: Ready, found: Sequence[Detections], refused: RefusedError | None) -> None:
            if refused is not None:
                loop.call_soon_threadsafe(_fail, answer, refused)
                return
            name = self._name
            made = kserve.answer(name, ready.work, found) if kserve_v2 else detect_answer(name, ready, found)
            loop.call_soon_threadsafe(_succeed, answer, made)

        start = time.monotonic()
        self._coming += 1
        try:
            work = await loop.run_in_executor(self._threads, self._read, body, content_type, query, kserve_v2)
        finally:
            self._coming -= 1
            self._lane.nudge()
        if work.model not in (None, self._name):
            raise RefusedError(404, "model", f"expected the model {self._name}, got {str(work.model)[:40]!r}")
        deadline = start + (3600.0 if work.timeout is None else work.timeout)
        ready = Ready(work, deadline, done, times={"read": (time.monotonic() - start) * 1e3})
        await loop.run_in_executor(self._threads, self._lane.put, ready)
        return await answer

    def _read(self, body: bytes, content_type: str, query: Mapping[str, str], kserve_v2: bool) -> Work:
        view = memoryview(body)
        return (
            kserve.read_infer(view, self._options)
            if kserve_v2
            else read_detect(view, content_type, query, self._options)
        )


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise RefusedError(413, "upload", f"expected a body of at most {limit} bytes, got more")
    if not body:
        raise RefusedError(400, "malformed", "expected an image in the body of the request, got an empty one")
    return bytes(body)


def _succeed(answer: asyncio.Future[bytes], body: bytes) -> None:
    if not answer.done():
        answer.set_result(body)


def _fail(answer: asyncio.Future[bytes], refused: RefusedError) -> None:
    if not answer.done():
        answer.set_exception(refused)

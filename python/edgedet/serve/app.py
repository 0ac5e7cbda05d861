"""The routes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from edgedet import __version__
from edgedet.serve import kserve
from edgedet.serve.access_log import AccessLog
from edgedet.serve.detection import DETECT_PATH, INFER_PATH, Detection
from edgedet.serve.dispatch import Answer, Dispatcher
from edgedet.serve.gate import Gate
from edgedet.serve.openapi import DETECT, INFER, SWAP
from edgedet.serve.page import page_routes
from edgedet.serve.refusal import RefusedError

_JSON = "application/json"
_SMALL = 4096  # bytes of a body that is not for the worker


def create_app(dispatcher: Dispatcher, *, log: AccessLog | None = None) -> Gate:
    """The application, for a dispatcher that it starts and closes."""
    log = log or AccessLog(None)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.start()
        await dispatcher.start()
        yield
        await dispatcher.close()
        await log.close()

    app = FastAPI(title="edgedet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    _document_detection(app)
    _add_models(app, dispatcher)
    _add_health(app, dispatcher)
    app.router.routes.extend(page_routes())
    if dispatcher.front.swap_root is not None:
        _add_swap(app, dispatcher, Path(dispatcher.front.swap_root).resolve())
    return Gate(Detection(dispatcher, app), dispatcher, log)


def _document_detection(app: FastAPI) -> None:
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document["paths"].update({DETECT_PATH: {"post": DETECT}, INFER_PATH: {"post": INFER}})
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _add_models(app: FastAPI, dispatcher: Dispatcher) -> None:
    @app.get("/v1/models")
    async def models() -> Response:
        """What runs here: names, classes, input size, backend, precision, what verification found; limits."""
        if not dispatcher.cards:
            return _loading()
        worker = dispatcher.worker
        limits = {"bytes": worker.max_upload, "pixels": worker.max_pixels, "images": worker.max_images}
        return JSONResponse({"models": dispatcher.cards, "score": worker.score, "limits": limits})

    @app.get("/v2")
    async def server() -> Response:
        """Name and version of the server."""
        return JSONResponse({"name": "edgedet", "version": __version__, "extensions": []})

    @app.get("/v2/models/{name}")
    async def model(request: Request) -> Response:
        """The tensors of a model."""
        name = request.path_params["name"]
        if name not in dict(dispatcher.worker.models):
            return _no_model(name)
        return JSONResponse(kserve.metadata(name))

    @app.get("/v2/models/{name}/ready")
    async def model_ready(request: Request) -> Response:
        """200 where the model can be asked."""
        name = request.path_params["name"]
        if name not in dict(dispatcher.worker.models):
            return _no_model(name)
        return JSONResponse({"name": name, "ready": dispatcher.ready}, 200 if dispatcher.ready else 503)


def _add_health(app: FastAPI, dispatcher: Dispatcher) -> None:
    async def live() -> Response:
        """200 while the process answers."""
        return JSONResponse({"live": True})

    async def ready() -> Response:
        """200 while requests are taken; 503 while models are loaded and when the server was told to stop."""
        return JSONResponse({"ready": dispatcher.ready}, 200 if dispatcher.ready else 503)

    async def metrics() -> Response:
        """For Prometheus."""
        return Response(dispatcher.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.get("/healthz")(live)
    app.get("/v2/health/live")(live)
    app.get("/readyz")(ready)
    app.get("/v2/health/ready")(ready)
    app.get("/metrics")(metrics)


def _add_swap(app: FastAPI, dispatcher: Dispatcher, root: Path) -> None:
    @app.post("/v1/models/{name}/swap", openapi_extra=SWAP)
    async def swap(request: Request) -> Response:
        """Puts another bundle in the place of one, without a pause."""
        name = request.path_params["name"]
        if name not in dict(dispatcher.worker.models):
            return _no_model(name)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > _SMALL:
                return _error(413, "expected a short JSON object, got more")
        try:
            wanted = json.loads(body)["bundle"]
            bundle = (root / wanted).resolve()
            inside = root in bundle.parents and bundle.is_dir()
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            return _error(400, 'expected {"bundle": NAME}, the name of a folder')
        if not inside:
            return _error(404, "expected the name of a bundle in the folder that this server swaps from")
        try:
            return _response(await dispatcher.swap(name, str(bundle)))
        except RefusedError as refusal:
            return _response(dispatcher.refuse(refusal))


def _response(answer: Answer) -> Response:
    headers = None if answer.retry_after is None else {"Retry-After": str(answer.retry_after)}
    return Response(answer.body, answer.status, headers=headers, media_type=_JSON)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def _no_model(name: str) -> Response:
    return _error(404, f"no model is called {name[:40]!r}; GET /v1/models names them")


def _loading() -> Response:
    return JSONResponse({"error": "the models are being loaded"}, 503, headers={"Retry-After": "1"})

"""The routes that detect, as bare ASGI before the framework, which does more for a request than all the rest."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from edgedet.serve.dispatch import Answer, Dispatcher
from edgedet.serve.intake import GoneError
from edgedet.serve.refusal import RefusedError

DETECT_PATH, INFER_PATH = "/v1/detect", "/v2/models/{name}/infer"
_INFER = re.compile(INFER_PATH.replace("{name}", "([^/]*)"))


class Detection:
    """An ASGI middleware: takes a body in, has it run, answers. What is not for it goes on."""

    def __init__(self, dispatcher: Dispatcher, app: Callable[..., Awaitable[None]]) -> None:
        """app: what has the other routes."""
        self._dispatcher, self._app = dispatcher, app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """ASGI."""
        path = scope.get("path", "")
        infer = _INFER.fullmatch(path)
        if infer is None and path != DETECT_PATH:
            await self._app(scope, receive, send)
            return
        scope["edgedet.route"] = DETECT_PATH if infer is None else INFER_PATH
        try:
            answer = await self._answer(scope, receive, None if infer is None else infer[1])
        except RefusedError as refusal:
            answer = self._dispatcher.refuse(refusal)
        except GoneError:
            return
        await reply(send, answer)

    async def _answer(self, scope: dict[str, Any], receive: Any, name: str | None) -> Answer:
        if scope["method"] != "POST":
            raise RefusedError(405, "malformed", f"expected POST, got {scope['method'][:20]}")
        dispatcher, headers = self._dispatcher, scope["edgedet.headers"]
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if name is None:
            kind = headers.get(b"content-type", b"").decode("latin-1")
            meta: dict[str, Any] = {"api": "v1", "type": kind, "query": query}
        elif name in dict(dispatcher.worker.models):
            meta = {"api": "v2", "model": name}
        else:
            raise RefusedError(404, "model", f"no model is called {name[:40]!r}; GET /v1/models names them")
        timeout = _timeout(headers, query, dispatcher.front.timeout)
        length = headers.get(b"content-length")
        client = scope["edgedet.client"]
        region = await dispatcher.intake.read(
            None if length is None else int(length), receive, client, take=scope.get("edgedet.take")
        )
        scope["edgedet.received"] = region.size
        gone = scope.get("edgedet.gone", _never)
        return await dispatcher.run(client, region, meta, timeout=timeout, gone=gone)


async def reply(send: Any, answer: Answer) -> None:
    """Sends an answer."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer.body))]
    if answer.retry_after is not None:
        headers.append((b"retry-after", b"%d" % answer.retry_after))
    if answer.status == 405:
        headers.append((b"allow", b"POST"))
    if answer.status in (408, 413):
        headers.append((b"connection", b"close"))  # what else the client would send is not waited for
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _never() -> bool:
    return False


def _timeout(headers: Mapping[bytes, bytes], query: Mapping[str, str], longest: float) -> float:
    """Seconds that a request may take: what its header or its URL says, `longest` at the most."""
    given = headers.get(b"x-timeout-ms")
    text = query.get("timeout_ms") if given is None else given.decode("latin-1")
    if text is None:
        return longest
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = -1.0
    if not 0 <= milliseconds < float("inf"):
        raise RefusedError(400, "malformed", f"expected milliseconds as a number from 0, got {text[:40]!r}")
    return min(milliseconds / 1e3, longest)

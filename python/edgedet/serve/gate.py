"""What every request passes first: its name, its key, and, when it is answered, the log and the metrics."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from edgedet.serve.access_log import AccessLog
from edgedet.serve.dispatch import Dispatcher
from edgedet.serve.page import FILES
from edgedet.serve.refusal import error_body

#: Paths that need no API key.
PUBLIC = frozenset(
    {*FILES, "/healthz", "/readyz", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready"},
)
_NAME = re.compile(rb"[\w.-]{1,64}\Z", re.ASCII)


class Gate:
    """An ASGI middleware. It tells the routes who the client is: ``scope["edgedet.client"]``."""

    def __init__(self, app: Callable[..., Awaitable[None]], dispatcher: Dispatcher, log: AccessLog) -> None:
        """dispatcher: says which keys are needed and when a connection takes no more requests, and counts."""
        self._app, self._dispatcher, self._log = app, dispatcher, log
        self._digests = [hashlib.sha256(key.encode()).digest() for key in dispatcher.front.api_keys]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        name = given if _NAME.match(given) else os.urandom(8).hex().encode()
        scope["edgedet.headers"] = headers
        scope["edgedet.client"] = client = self._client(scope, headers)
        status, sent = 499, 0  # where nothing is answered the client has left

        async def answer(message: dict[str, Any]) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name)]
                if self._dispatcher.draining:
                    message["headers"].append((b"connection", b"close"))
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            if client is None:
                await _unauthorised(answer)
            else:
                await self._app(scope, receive, answer)
        finally:
            route = scope.get("edgedet.route") or getattr(scope.get("route"), "path", "other")
            self._dispatcher.metrics.requests.add(str(route), str(status))
            self._log.add(
                id=name.decode(),
                client=client,
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=round((time.perf_counter() - start) * 1e3, 2),
                received=scope.get("edgedet.received", 0),
                sent=sent,
            )

    def _client(self, scope: dict[str, Any], headers: dict[bytes, bytes]) -> str | None:
        """The start of the key's digest, or the address; None without the key that is needed."""
        address = scope["client"][0] if scope.get("client") else "local"
        if not self._digests:
            return str(address)
        key = headers.get(b"x-api-key", b"")
        if not key:
            scheme, _, rest = headers.get(b"authorization", b"").partition(b" ")
            key = rest.strip() if scheme.lower() == b"bearer" else b""
        digest = hashlib.sha256(key).digest()
        # All of them, whichever fits, each in constant time.
        fits = [hmac.compare_digest(digest, one) for one in self._digests]
        if any(fits):
            return f"key-{digest.hex()[:8]}"
        return str(address) if scope["path"] in PUBLIC else None


async def _unauthorised(send: Any) -> None:
    body = error_body("expected an API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""The web page: files that come with this package, each under the one path that it has here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PARTS = (
    "api.js",
    "app.js",
    "camera.js",
    "colours.js",
    "decode.js",
    "export.js",
    "icon.svg",
    "labels.js",
    "messages.js",
    "model-card.js",
    "results.js",
    "stage.js",
    "style.css",
    "timing.js",
)
#: What is served: nothing else of the folder can be asked for.
FILES: Final = {"/": "index.html", **{f"/static/{name}": name for name in _PARTS}}
_HEADERS = {
    "Cache-Control": "no-cache",  # kept, and asked for again with its ETag: a new version of the server has new files
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_routes() -> list[Route]:
    """One route for each file, which is read once."""
    return [_route(path, _FOLDER / name) for path, name in FILES.items()]


def _route(path: str, file: Path) -> Route:
    content = file.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": etag}

    async def answer(request: Request) -> Response:
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_TYPES[file.suffix])

    return Route(path, answer, methods=["GET"], include_in_schema=False)

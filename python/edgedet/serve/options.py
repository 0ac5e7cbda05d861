"""What a server is told once, when it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedet import Detector, EngineOptions, InvalidInputError


@dataclass(frozen=True)
class WorkerOptions:
    """What the worker needs to know. Everything here is JSON.

    Attributes:
        models: Name and bundle folder of each model; the first is the default.
        backend, precision, mode, threads, cache_dir, engine: As of `edgedet.Detector`.
        max_batch: Images that wait for each other at the most; 0: as many as the backend runs side by side.
        batch_wait: Seconds that an image waits for others at the most.
        score: Detections below it are left out unless a request says otherwise.
        max_images: Of one request.
        max_pixels: Of all images of one request together.
        max_depth: Of nested arrays and objects in JSON.
        max_upload: Bytes of a request's body.
    """

    models: tuple[tuple[str, str], ...]
    backend: str = "auto"
    precision: str = "auto"
    mode: str = "latency"
    threads: int = 0
    cache_dir: str | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    max_batch: int = 0
    batch_wait: float = 0.002
    score: float = 0.3
    max_images: int = 16
    max_pixels: int = 25_000_000
    max_depth: int = 16
    max_upload: int = 32 << 20

    def __post_init__(self) -> None:
        names = [name for name, _ in self.models]
        if not names:
            raise InvalidInputError("expected at least one bundle to serve, got none; name one")
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise InvalidInputError(
                f"expected one bundle a name, got several called {', '.join(sorted(twice))}; say NAME=BUNDLE"
            )
        _at_least(self, 1, "max_images", "max_pixels", "max_depth", "max_upload")
        _at_least(self, 0, "threads", "max_batch", "batch_wait", "score")

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> WorkerOptions:
        """From what `dataclasses.asdict` gave, after a way through JSON, which has lists only."""
        engine: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given["engine"].items()
        }
        models = tuple((name, bundle) for name, bundle in given["models"])
        return cls(**{**given, "models": models, "engine": EngineOptions(**engine)})

    def open(self, bundle: str) -> Detector:
        """The detector that they ask for."""
        mode: Any = self.mode
        return Detector(
            bundle,
            backend=self.backend,
            precision=self.precision,
            mode=mode,
            threads=self.threads,
            cache_dir=self.cache_dir,
            engine=self.engine,
        )


@dataclass(frozen=True)
class FrontOptions:
    """How requests are taken.

    Attributes:
        queue: Requests that wait at the most; the next one is answered 429.
        buffer: Bytes of bodies held at the same time.
        timeout: Seconds a request may take where it does not ask for less.
        header_timeout, body_timeout: Seconds within which a request's header and its body have to arrive.
        max_connections: Open connections; the next one is answered 503.
        drain_delay: Seconds for which a server that was told to stop still takes requests, unready.
        drain_timeout: Seconds for which it then waits for answers.
        api_keys: One of them has to come with a request; empty: none is asked for.
        swap_root: Where bundles lie that may be swapped in, with an API key; None: that is not offered.
        stall: Seconds after which a worker that does not answer is killed.
    """

    queue: int = 128
    buffer: int = 256 << 20
    timeout: float = 10.0
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    max_connections: int = 1024
    drain_delay: float = 1.0
    drain_timeout: float = 30.0
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    swap_root: str | None = None
    stall: float = 60.0

    def __post_init__(self) -> None:
        _at_least(self, 1, "queue", "buffer", "max_connections")
        _at_least(self, 0, "drain_delay", "drain_timeout")
        for name in ("timeout", "header_timeout", "body_timeout", "stall"):
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"{name}: expected more than 0 seconds, got {getattr(self, name)}")
        if self.swap_root is not None and not self.api_keys:
            raise InvalidInputError("swapping bundles needs API keys, got none; name a file of them with --api-keys")


def read_api_keys(file: str | os.PathLike[str]) -> tuple[str, ...]:
    """The keys in a file, one a line; empty lines and what follows # are left out.

    Raises:
        InvalidInputError: It cannot be read, names no key, or one that is too short to be a secret.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{file}: expected a text file of API keys ({error}); check the path") from None
    keys = tuple(key for key in (line.partition("#")[0].strip() for line in lines) if key)
    if not keys or min(map(len, keys)) < 16:
        raise InvalidInputError(
            f"{file}: expected API keys of 16 letters or more, one a line; make one: openssl rand -hex 24"
        )
    return keys


def _at_least(options: object, least: int, *names: str) -> None:
    for name in names:
        if getattr(options, name) < least:
            raise InvalidInputError(f"{name}: expected {least} or more, got {getattr(options, name)}")

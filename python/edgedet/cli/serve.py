"""``edgedet serve``: bundles behind HTTP."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edgedet import EngineOptions, InvalidInputError
from edgedet.bundle import load_model_json
from edgedet.cli.common import add_detector_options, engine_options, positive_number, whole_number
from edgedet.extras import needs_extra

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "serve",
        help="answer HTTP requests with detections",
        description="Serve bundles over HTTP: POST /v1/detect, KServe v2, /metrics, a page at /. SIGTERM answers what "
        "was accepted, then ends with 0.",
        examples=(
            "edgedet serve femto",
            "edgedet serve small=femto large=atto --port 9000 --queue 64",
            "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/detect",
        ),
    )
    parser.add_argument(
        "bundles", metavar="[NAME=]BUNDLE", nargs="+", help="bundle folders; the first is the default model"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=whole_number, default=8000, metavar="N", help="default: 8000; 0: any free one")
    parser.add_argument(
        "--score", type=float, default=0.3, metavar="S", help="leave detections below out by default (default: 0.3)"
    )
    _add_safety(parser.add_argument_group("who may ask"))
    _add_limits(parser.add_argument_group("limits"))
    add_detector_options(parser)
    parser.set_defaults(run=run)


def _add_safety(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--api-keys", metavar="FILE", help="file of keys, one a line; one has to come with each request")
    group.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM), for HTTPS")
    group.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    group.add_argument(
        "--swap-from", metavar="DIR", help="let holders of a key put bundles of this folder in a model's place"
    )
    group.add_argument(
        "--access-log", metavar="FILE", default="-", help="'-': stderr (default); 'off'; or a file to append to"
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--queue", type=positive_number, default=128, metavar="N", help="requests that may wait (default: 128)"
    )
    group.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="seconds a request may take (default: 10)"
    )
    group.add_argument(
        "--max-batch", type=whole_number, default=0, metavar="N", help="images that run together (default: automatic)"
    )
    group.add_argument(
        "--batch-wait", type=float, default=2.0, metavar="MS", help="milliseconds they wait at most (default: 2)"
    )
    group.add_argument(
        "--max-images", type=positive_number, default=16, metavar="N", help="images of a request (default: 16)"
    )
    group.add_argument(
        "--max-megapixels", type=positive_number, default=25, metavar="N", help="of a request (default: 25)"
    )
    group.add_argument(
        "--max-upload", type=positive_number, default=32, metavar="MIB", help="size of a request (default: 32)"
    )
    group.add_argument(
        "--buffer", type=positive_number, default=256, metavar="MIB", help="memory for uploads (default: 256)"
    )
    group.add_argument(
        "--header-timeout", type=float, default=10.0, metavar="S", help="seconds for a request's header (default: 10)"
    )
    group.add_argument(
        "--body-timeout", type=float, default=30.0, metavar="S", help="seconds for a request's body (default: 30)"
    )
    group.add_argument(
        "--max-connections", type=positive_number, default=1024, metavar="N", help="open at a time (default: 1024)"
    )
    group.add_argument(
        "--drain-delay",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds for which it goes on, unready, after SIGTERM (default: 1)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is told to stop."""
    with needs_extra("serve"):
        from edgedet.serve.options import FrontOptions, WorkerOptions, read_api_keys
        from edgedet.serve.run import Listen, serve
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise InvalidInputError("expected --tls-cert and --tls-key together, got one of them")
    worker = WorkerOptions(
        models=tuple(_named(bundle) for bundle in arguments.bundles),
        backend=arguments.backend,
        precision=arguments.precision,
        mode=arguments.mode,
        threads=arguments.threads,
        cache_dir=None if arguments.cache_dir is None else str(arguments.cache_dir),
        engine=_plain(engine_options(arguments)),
        max_batch=arguments.max_batch,
        batch_wait=arguments.batch_wait / 1e3,
        score=arguments.score,
        max_images=arguments.max_images,
        max_pixels=arguments.max_megapixels * 1_000_000,
        max_upload=arguments.max_upload << 20,
    )
    front = FrontOptions(
        queue=arguments.queue,
        buffer=arguments.buffer << 20,
        timeout=arguments.timeout,
        header_timeout=arguments.header_timeout,
        body_timeout=arguments.body_timeout,
        max_connections=arguments.max_connections,
        drain_delay=arguments.drain_delay,
        api_keys=() if arguments.api_keys is None else read_api_keys(arguments.api_keys),
        swap_root=arguments.swap_from,
    )
    listen = Listen(arguments.host, arguments.port, arguments.tls_cert, arguments.tls_key)
    with _log_file(arguments.access_log) as log:
        return serve(worker, front, listen, log=log)


def _plain(engine: EngineOptions) -> EngineOptions:
    """With a folder that survives the way to the worker, which is JSON."""
    images = engine.calibration_images
    return engine if images is None else dataclasses.replace(engine, calibration_images=os.path.abspath(images))


def _named(text: str) -> tuple[str, str]:
    """Name and folder; the name is the model's own where none is given. A bundle that is no bundle is found here."""
    name, equals, folder = text.partition("=")
    if not equals or Path(text).exists():
        name, folder = "", text
    model = load_model_json(folder)
    return name or model["name"], str(Path(folder).resolve())


@contextlib.contextmanager
def _log_file(name: str) -> Iterator[TextIO | None]:
    if name == "off":
        yield None
    elif name == "-":
        yield sys.stderr
    else:
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(Path(name).open("a", encoding="utf-8"))
            except OSError as error:
                raise InvalidInputError(f"{name}: cannot be written ({error.strerror}); choose another file") from None
            yield file

"""Building engines in a process of their own.

A build takes gigabytes for minutes, and drivers and libraries can take a process down with them: the kernel kills what
needs too much memory, a driver that does not fit TensorRT segfaults. The child's death is then an error with its remedy
here, and what it took of memory is given back whatever happens. Only lines of JSON cross the pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from edgedet import _core
from edgedet._core import BackendError, BundleError, Error, ImageError, InvalidInputError, ModelError
from edgedet.engine_options import EngineInfo, EngineOptions, core_options, engine_info

if TYPE_CHECKING:  # collections.abc's types take no arguments on Python 3.8
    #: Phase of the build, steps that are done, and how many there are (0: not known).
    Progress = Callable[[str, int, int], None]
    #: A sentence for people about what is done differently, or may go wrong.
    Note = Callable[[str], None]

_KINDS: Final = {
    kind.__name__: kind for kind in (BackendError, BundleError, Error, ImageError, InvalidInputError, ModelError)
}
#: What ``_core.prepare`` gives.
_RESULT: Final[dict[str, type]] = {
    "path": str,
    "built": bool,
    "bytes": int,
    "seconds": float,
    "workspace_mb": int,
    "backend": str,
    "precision": str,
    "device": str,
}
_LOW_MEMORY_MB: Final = 1024  # of the host: builders keep the weights more than once
_SILENCE_S: Final = 300.0  # the child beats every second; swapping may hold it up
_GRACE_S: Final = 5.0
_MAX_LINE: Final = 1 << 20
_TAIL: Final = 2000  # characters of what the child printed
_MEMORY_REMEDY: Final = (
    "lower workspace_mb (--workspace-mb), close other programs or add swap, and build in a fresh process with "
    "'edgedet build'"
)


@dataclass(frozen=True)
class PreparedEngine:
    """What a backend has built for a bundle.

    Attributes:
        engine: None where the backend builds none.
        backend: The one that was chosen.
        precision: The one that was chosen.
        device: And the version of the library that runs there.
    """

    engine: EngineInfo | None
    backend: str
    precision: str
    device: str


def build_engine(
    bundle: str | os.PathLike[str],
    *,
    backend: str = "auto",
    precision: str = "auto",
    mode: str = "latency",
    cache_dir: str | os.PathLike[str] | None = None,
    engine: EngineOptions | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
    command: Sequence[str] | None = None,
    silence_s: float = _SILENCE_S,
) -> PreparedEngine:
    """Builds the engine of a bundle for this device and keeps it, unless it is there already.

    Args:
        bundle: The bundle folder.
        backend: As of :class:`edgedet.Detector`, like ``precision``, ``mode`` and ``cache_dir``.
        precision: See there.
        mode: See there.
        cache_dir: See there.
        engine: How it is built.
        progress: Told how far the build is.
        note: Told what is worth knowing before a build, and after it.
        command: The child's command line, for tests.
        silence_s: A child that says nothing for so long, seconds, is ended.

    Raises:
        Error: What the builder found wrong, as of a detector.
        BackendError: The child died; the message says of what, and what helps.
    """
    options = engine or EngineOptions()
    request = {
        "bundle": os.path.abspath(bundle),
        "backend": backend,
        "precision": precision,
        "mode": mode,
        "cache_dir": str(user_cache() if cache_dir is None else Path(cache_dir).absolute()),
    }
    tell = note or (lambda _: None)
    if command is None and not _has_python():
        return _prepared(
            _core.prepare(**request, engine=core_options(options, Path(bundle)), progress=_as_core(progress))
        )
    before = _memory()
    if before is not None and before["MemAvailable"] < _LOW_MEMORY_MB:
        tell(f"{before['MemAvailable']} MiB of memory are available: the build may need more; {_MEMORY_REMEDY}")
    settings = asdict(options)
    if options.calibration_images is not None:
        settings["calibration_images"] = os.path.abspath(options.calibration_images)
    found = _run(
        list(command or _command()), {**request, "engine": settings}, progress or (lambda *_: None), before, silence_s
    )
    built = found["workspace_mb"]
    if found["built"] and built < options.workspace_mb:
        tell(f"the build had {built} MiB of workspace, not {options.workspace_mb}: no more was free within the limits")
    return _prepared(found)


def ensure_engine(
    bundle: str | os.PathLike[str], *, backend: str, precision: str, mode: str, cache_dir: str, engine: EngineOptions
) -> tuple[_core.EngineOptions, EngineInfo | None]:
    """For a detector: has its engine built if it is not there, and a cache_dir where it can be kept.

    Returns:
        The compiled module's form of the options, and the engine if it was built now.
    """
    core = core_options(engine, Path(bundle))
    if not cache_dir or _core.is_prepared(
        str(Path(bundle)), backend=backend, precision=precision, mode=mode, cache_dir=cache_dir, engine=core
    ):
        return core, None
    made = build_engine(
        bundle, backend=backend, precision=precision, mode=mode, cache_dir=cache_dir, engine=engine
    ).engine
    return core, made if made is not None and made.built else None


def user_cache() -> Path:
    """The XDG cache folder's part of edgedet; it is made when something is kept there."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "edgedet"


def _prepared(found: dict[str, Any]) -> PreparedEngine:
    return PreparedEngine(engine_info(found), found["backend"], found["precision"], found["device"])


def _as_core(progress: Progress | None) -> Callable[[str, int, int], bool] | None:
    if progress is None:
        return None

    def report(phase: str, step: int, of: int) -> bool:
        progress(phase, step, of)
        return True

    return report


def _has_python() -> bool:
    """Whether sys.executable starts this Python: not in a frozen program or one that embeds it."""
    name = os.path.basename(sys.executable or "")
    return not getattr(sys, "frozen", False) and re.match(r"(?i)(python|pypy)", name) is not None


def _command() -> list[str]:
    # Modules come from where they come from here: "-m" would let a file in the current folder take their place.
    start = f"import sys; sys.path[:] = {sys.path!r}; from edgedet.engine_worker import main; main()"
    return [sys.executable, "-c", start]


def _run(
    command: list[str], request: dict[str, Any], progress: Progress, before: dict[str, int] | None, silence_s: float
) -> dict[str, Any]:
    """The child's result."""
    with tempfile.TemporaryFile() as printed:
        # A session of its own: Ctrl-C is for this process, which then ends the child in an orderly way.
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed, start_new_session=True
        )
        ended = False
        try:
            result, facts = _listen(child, request, progress, silence_s)
            ended = True
        finally:
            _end(child, at_once=not ended)
        if result is None:
            raise _death(child.returncode, _tail(printed), before, facts)
        return result


def _listen(
    child: subprocess.Popen[bytes], request: dict[str, Any], progress: Progress, silence_s: float
) -> tuple[dict[str, Any] | None, dict[str, int]]:
    """Follows the child's events until its result, None if there is none; and the device memory that it found."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it ended before it read all of it; its end says more
        child.stdin.write(json.dumps(request).encode())
        child.stdin.close()
    facts: dict[str, int] = {}
    for event in _events(child, child.stdout, silence_s):
        kind = event.get("event")
        if kind == "progress":
            told = _values(event, phase=str, step=int, of=int)
            progress(told["phase"], told["step"], told["of"])
        elif kind == "memory":
            facts = _values(event, free_mb=int, total_mb=int)
        elif kind == "error":
            told = _values(event, kind=str, message=str)
            raise _KINDS.get(told["kind"], BackendError)(told["message"])
        elif kind == "result":
            return _values(event, **_RESULT), facts
    return None, facts


def _events(child: subprocess.Popen[bytes], pipe: IO[bytes], silence_s: float) -> Any:
    """Lines of JSON until the child closes the pipe or ends: a process that it started may hold the pipe open."""
    rest = b""
    deadline = time.monotonic() + silence_s
    while True:
        if select.select([pipe], [], [], 0.1)[0]:
            chunk = os.read(pipe.fileno(), 1 << 16)
            if not chunk:
                return
            deadline = time.monotonic() + silence_s
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield _parse(line)
            if len(rest) > _MAX_LINE:
                _parse(rest)
        elif child.poll() is not None:
            return
        elif time.monotonic() > deadline:
            raise BackendError(
                f"expected a sign of life of the process that builds the engine, got none for {silence_s:.0f} s, and "
                f"ended it; {_MEMORY_REMEDY}, and look for a hanging driver with nvidia-smi"
            )


def _parse(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line) if len(line) <= _MAX_LINE else None
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise _garbage(line[:80])
    return event


def _values(event: dict[str, Any], **types: type) -> dict[str, Any]:
    """Those of an event, which are of these types."""
    for name, kind in types.items():
        value = event.get(name)
        if not isinstance(value, (int, float) if kind is float else kind):
            raise _garbage(event)
    return {name: event[name] for name in types}


def _garbage(got: object) -> BackendError:
    return BackendError(
        f"expected events from the process that builds the engine, got {got!r}; another program stands in for "
        f"{sys.executable}, or edgedet is installed twice: install it again"
    )


def _end(child: subprocess.Popen[bytes], *, at_once: bool) -> None:
    """Waits for a child that has only to exit, or asks it to stop; what goes on is killed."""
    steps = [child.terminate, child.kill] if at_once else [lambda: None, child.terminate, child.kill]
    for step in steps:
        step()
        try:
            child.wait(_GRACE_S)
            break
        except subprocess.TimeoutExpired:
            continue
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _death(code: int, printed: str, before: dict[str, int] | None, device: dict[str, int]) -> BackendError:
    said = f" (it printed: {printed})" if printed else ""
    if code == -signal.SIGKILL:
        return BackendError(
            "expected an engine, got a process that was killed while it built it, as the kernel does when memory runs "
            f"out ({_memory_text(before, device)}); {_MEMORY_REMEDY}{said}"
        )
    if code in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGILL):
        driver, runtime = (f"{version // 1000}.{version % 1000 // 10}" for version in _core.cuda_versions())
        return BackendError(
            f"expected an engine, got a crash of the process that built it ({signal.Signals(-code).name}), as happens "
            f"where driver and TensorRT do not fit: the driver knows CUDA {driver}, edgedet was built with CUDA "
            f"{runtime} and TensorRT {_core.build_info()['tensorrt']}; install versions that belong together "
            f"(see 'edgedet doctor'){said}"
        )
    end = f"the signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return BackendError(
        f"expected an engine, got a process that ended without one, with {end}; run 'edgedet doctor', and install "
        f"edgedet again if that fails too{said}"
    )


def _tail(printed: IO[bytes]) -> str:
    printed.seek(0, os.SEEK_END)
    printed.seek(max(0, printed.tell() - _TAIL))
    return " ".join(printed.read().decode("utf-8", "replace").split())


def _memory() -> dict[str, int] | None:
    """Figures of /proc/meminfo in MiB; None where there is no such file."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    figures = {name: int(kib) >> 10 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return figures if figures.keys() >= {"MemTotal", "MemAvailable", "SwapFree"} else None


def _memory_text(before: dict[str, int] | None, device: dict[str, int]) -> str:
    parts = []
    after = _memory()
    if before is not None and after is not None:
        parts.append(
            f"of {before['MemTotal']} MiB {before['MemAvailable']} were available before and {after['MemAvailable']} "
            f"are now, of swap {before['SwapFree']} MiB were free"
        )
    if device:
        parts.append(f"of the GPU's {device['total_mb']} MiB {device['free_mb']} were free")
    return "; ".join(parts) or "no figures here"

"""What every test shares: the data folder, hardware markers, thread caps and seeds."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_HARDWARE = ("cuda", "tensorrt")
_REQUIRABLE = (*_HARDWARE, "shared", "aarch64", "docker", "gstreamer", "browser")

# Set before any test module imports NumPy or torch: a test suite is no reason to occupy a 64-core machine, and results
# that depend on the order of a parallel sum should not depend on the machine.
_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, str(max(1, min(2, os.cpu_count() or 1) // _processes)))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin slow down whatever shares the machine


def _required() -> frozenset[str]:
    """The names in EDGEDET_REQUIRE: what this machine promises to have, so that its absence fails the test."""
    names = frozenset(name.strip() for name in os.environ.get("EDGEDET_REQUIRE", "").split(",") if name.strip())
    unknown = names - set(_REQUIRABLE)
    if unknown:
        raise pytest.UsageError(
            f"EDGEDET_REQUIRE: expected a comma-separated list out of {', '.join(_REQUIRABLE)}, "
            f"got {', '.join(sorted(unknown))}; correct or unset it"
        )
    return names


def skip_or_fail(name: str, reason: str) -> None:
    """Skips a test for want of what `name` stands for; fails it if EDGEDET_REQUIRE promised that."""
    if name in _required():
        pytest.fail(f"EDGEDET_REQUIRE names {name}, but {reason}", pytrace=False)
    pytest.skip(reason)


@cache
def _missing_cuda() -> str:
    """Why there is no CUDA device here, or an empty string. Asks the driver, so it needs no toolkit and no torch."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no CUDA driver ({library} cannot be loaded)"
    count = ctypes.c_int(0)
    if (status := driver.cuInit(0)) != 0:
        return f"the CUDA driver does not start (cuInit returned {status})"
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the CUDA driver sees no device"
    return ""


@cache
def _missing_tensorrt() -> str:
    """Why the TensorRT backend cannot run here, or an empty string."""
    from edgedet import _core

    for backend in _core.backends():
        if backend["name"] == "tensorrt":
            return "" if backend["available"] else f"the TensorRT backend is not available: {backend['detail']}"
    return "this build of edgedet knows no TensorRT backend"


def pytest_configure(config: pytest.Config) -> None:
    """Registers the project's markers and refuses a misspelt EDGEDET_REQUIRE at once."""
    config.addinivalue_line("markers", "cuda: needs a CUDA device; skipped with the reason where there is none")
    config.addinivalue_line("markers", "tensorrt: needs a working TensorRT backend; skipped with the reason otherwise")
    config.addinivalue_line("markers", "slow: takes more than a few seconds; leave out with -m 'not slow'")
    _required()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips hardware tests where the hardware is missing, or fails them if EDGEDET_REQUIRE promised it."""
    probes = {"cuda": _missing_cuda, "tensorrt": _missing_tensorrt}
    for name in _HARDWARE:
        if item.get_closest_marker(name) is not None and (reason := probes[name]()):
            skip_or_fail(name, reason)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled networks of tests, and of the processes they start, are not kept in the user's cache folder."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same global random state; a test that needs another one seeds its own generator."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and published models: EDGEDET_SHARED, or `../shared` beside the repository."""
    folder = Path(os.environ.get("EDGEDET_SHARED") or ROOT.parent / "shared")
    if not (folder / "data").is_dir() or not (folder / "models").is_dir():
        skip_or_fail("shared", f"no shared data: {folder} lacks data/ or models/ (set EDGEDET_SHARED to its place)")
    return folder

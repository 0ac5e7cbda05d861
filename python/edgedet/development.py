"""Where the files for C++ and C are that this package brings."""

from __future__ import annotations

from pathlib import Path

from edgedet import _core


def cmake_dir() -> Path:
    """For ``cmake -Dedgedet_DIR=...``: ``find_package(edgedet)`` gives edgedet::edgedet (C++) and edgedet::c."""
    return _installed() / "lib" / "cmake" / "edgedet"


def c_library() -> Path:
    """The shared library behind ``edgedet/c_api.h``, for ctypes and the like."""
    return _installed() / "lib" / "libedgedet_c.so"


def _installed() -> Path:
    # Beside the compiled module: in an editable installation the sources are elsewhere.
    return Path(_core.__file__).parent

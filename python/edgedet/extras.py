"""What is said where the packages of an extra are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgedet import Error


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Inside, a missing third-party package is an Error that says which extra brings it.

    name: of the extra in pyproject.toml, such as ``train``.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "edgedet", "training", "calibration"):
            raise
        raise Error(
            f"this needs the package {package}, which is not installed; run: pip install 'edgedet[{name}]'"
        ) from None

"""What every export writes: a folder that appears whole or not at all, and the class names as a list of labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from edgedet._core import InvalidInputError
from edgedet.files import new_folder


def make_folder(target: Path, fill: Callable[[Path], None], *, mark: str, overwrite: bool) -> Path:
    """Has a new folder filled, then moves it to its place.

    mark: a file that every folder of this kind has; only such a folder is ever replaced.

    Raises:
        InvalidInputError: The target exists and may not be replaced, or cannot be written.
    """
    if target.exists() and not (overwrite and (target / mark).is_file()):
        remedy = f"and has no {mark}, so it is not replaced" if overwrite else "allow overwriting (--force)"
        raise InvalidInputError(f"{target}: exists; {remedy}, or choose another folder")
    try:
        with new_folder(target) as staging:
            fill(staging)
    except OSError as error:
        raise InvalidInputError(f"{target}: cannot be written ({error}); choose another folder") from None
    return target


def safe_name(name: str) -> str:
    """A model's name as that of a folder: letters, digits, dot, hyphen and underscore, not leading with a dot."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".-")[:100] or "model"


def labels_text(classes: Sequence[str]) -> str:
    """One class name a line, by label."""
    return "".join(f"{' '.join(name.split())}\n" for name in classes)

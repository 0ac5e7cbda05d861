"""Which teachers a run asks for: PATH or NAME=PATH, with @SIZE for another input size."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedet import InvalidInputError
from training.teachers.detector import load_detector
from training.teachers.foundation import load_foundation
from training.teachers.graph import load_graph
from training.teachers.model_folder import HUB
from training.teachers.teacher import Teacher
from training.weights.huggingface import FAMILIES
from training.weights.read import read_json

DEFAULT_NAME = "teacher"
_NAMED = re.compile(r"([A-Za-z][\w-]*)=(.*)", re.DOTALL)
_SIZED = re.compile(r"(.*)@(\d{1,5})", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """A teacher that was asked for. path: a file, a folder or `hub:ID`. size: both sides of its input, pixels."""

    name: str
    path: str
    size: int | None = None


def parse_source(text: str) -> Source:
    """Reads `PATH`, `NAME=PATH`, `PATH@SIZE` or `NAME=PATH@SIZE`; a path that exists may itself contain = and @.

    Raises InvalidInputError for a text without a path, and for a size of 0.
    """
    readings = [(DEFAULT_NAME, text)]
    if named := _NAMED.fullmatch(text):
        readings.append((named[1], named[2]))
    sources = [source for name, rest in readings for source in _sizes(name, rest)]
    source = next((each for each in sources if os.path.exists(each.path)), sources[-1])
    if not source.path or source.size == 0:
        raise InvalidInputError(f"teacher: expected PATH, NAME=PATH or either with @SIZE above 0, got {text!r}")
    return source


def parse_sources(texts: Sequence[str]) -> list[Source]:
    """Reads the teachers of a run. Raises InvalidInputError for a name that comes twice, and as `parse_source`."""
    sources = [parse_source(text) for text in texts]
    names = [source.name for source in sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInputError(
            f"teacher: expected each name once, got {', '.join(repeated)} more than once; name them, as in "
            "--teacher one=PATH two=PATH"
        )
    return sources


def open_teacher(source: Source, classes: Sequence[str]) -> Teacher:
    """Loads a teacher; its kind is told from what is there. classes: of the student.

    Raises InvalidInputError if nothing is there, else as the loaders of the kinds do.
    """
    size = None if source.size is None else (source.size, source.size)
    if source.path.startswith(HUB):
        return load_foundation(source.path, size=size)
    path = Path(source.path)
    if not os.path.exists(path):
        raise InvalidInputError(
            f"teacher: expected a file or folder, got none at {source.path}; check the path (of the Hugging Face hub: "
            f"{HUB}ID)"
        )
    if path.suffix.lower() == ".onnx" or (path / "model.json").is_file():
        return load_graph(path, classes, size=size)
    kind = read_json(path / "config.json").get("model_type") if (path / "config.json").is_file() else None
    if kind is not None and kind not in FAMILIES:
        return load_foundation(source.path, size=size)
    return load_detector(path, classes, size=size)


def _sizes(name: str, rest: str) -> list[Source]:
    """The ways to read what comes after the name."""
    sized = _SIZED.fullmatch(rest)
    return [Source(name, rest), *([Source(name, sized[1], int(sized[2]))] if sized else [])]

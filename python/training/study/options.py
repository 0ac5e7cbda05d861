"""Options of `train` as a grid gives them, by the types that TrainConfig has for them."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgedet import InvalidInputError
from training.config import TrainConfig

# What the study itself sets, and where to say it instead.
_ELSEWHERE = {
    "data": "data of the grid",
    "train_json": "train_json of the grid",
    "val_json": "val_json of the grid",
    "out": "out of the grid",
    "seed": "seeds of the grid",
    "teacher": "teacher of the grid or of a method",
    "distil": "methods of the grid",
}


def read_options(content: object, root: Path) -> dict[str, Any]:
    """The options of a mapping in yaml's types, in TrainConfig's types. Relative paths start at `root`.

    Raises InvalidInputError for unknown options and values of another type; ranges are TrainConfig's to check.
    """
    if not isinstance(content, Mapping):
        raise InvalidInputError(f"options: expected a mapping such as {{epochs: 10}}, got {reprlib.repr(content)}")
    known = {option.name for option in fields(TrainConfig)}
    hints = get_type_hints(TrainConfig)
    values = {}
    for name, value in content.items():
        if name in _ELSEWHERE:
            raise InvalidInputError(f"options.{name}: expected it as {_ELSEWHERE[name]}, got it as an option; move it")
        if name not in known:
            raise InvalidInputError(
                f"options: expected options of `python -m training train`, got {reprlib.repr(name)}; write them with "
                f"underscores, as in weight_decay"
            )
        values[name] = _typed(value, hints[name], f"options.{name}", root)
    return values


def _typed(value: Any, hint: Any, where: str, root: Path) -> Any:
    kind = _plain(hint)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if get_origin(kind) is tuple:
        if isinstance(value, list):
            return tuple(_typed(each, get_args(kind)[0], where, root) for each in value)
        wanted = "a list"
    elif kind is bool:
        if isinstance(value, bool):
            return value
        wanted = "true or false"
    elif kind is int:
        if number and isinstance(value, int):
            return value
        wanted = "a whole number"
    elif kind is float:
        if number and math.isfinite(value):
            return float(value)
        wanted = "a finite number"
    elif isinstance(value, str) and value:
        return (root / value).resolve() if kind is Path else value
    elif get_origin(kind) is Literal:
        wanted = f"one of {', '.join(map(str, get_args(kind)))}"
    else:
        wanted = "a path" if kind is Path else "a text"
    raise InvalidInputError(f"{where}: expected {wanted}, got {reprlib.repr(value)}; correct it, or leave it out")


def _plain(hint: Any) -> Any:
    """The type without None."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    return hint

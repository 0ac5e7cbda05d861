"""An InputSpec out of JSON that somebody else wrote."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Any, Final

from edgedet._core import InvalidInputError
from edgedet.bundle import InputSpec

_LONGEST_SIDE: Final = 32768
_CHOICES: Final = {
    "resize": ("stretch", "letterbox"),
    "filter": ("bilinear", "antialias"),
    "channels": ("rgb", "bgr"),
}


def read_input(said: object) -> InputSpec:
    """What ``asdict(InputSpec(...))`` became as JSON. Keys that are not known are ignored, absent ones have defaults.

    Raises:
        InvalidInputError: Something else, or a value out of range.
    """
    if not isinstance(said, dict):
        raise InvalidInputError(f"expected an object that says how images become input, got {type(said).__name__}")
    known = {field.name for field in fields(InputSpec)}
    made: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in said.items() if key in known
    }
    for key in ("width", "height"):
        _check(key, made.get(key), type(made.get(key)) is int and 1 <= made[key] <= _LONGEST_SIDE, "a side in pixels")
    spec = asdict(InputSpec(**made))
    _check("name", spec["name"], isinstance(spec["name"], str), "text")
    for key, choices in _CHOICES.items():
        _check(key, spec[key], spec[key] in choices, " or ".join(choices))
    for key in ("mean", "std"):
        good = isinstance(spec[key], tuple) and len(spec[key]) == 3 and all(map(_is_finite, spec[key]))
        _check(key, spec[key], good and (key == "mean" or min(spec[key]) > 0), "three finite numbers, std above 0")
    pad = spec["pad_value"]
    _check("pad_value", pad, type(pad) is int and 0 <= pad <= 255, "0 to 255")
    return InputSpec(**spec)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _check(key: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise InvalidInputError(f'"{key}": expected {expected}, got {str(value)[:60]}')

"""Every detector by name."""

from __future__ import annotations

from typing import get_args

from edgedet import InvalidInputError
from training.models.deimv2 import Variant, deimv2_config
from training.models.detector import DetectorConfig

MODELS: tuple[str, ...] = (*get_args(Variant),)


def detector_config(name: str, *, num_classes: int = 80, input_size: tuple[int, int] | None = None) -> DetectorConfig:
    """The published configuration of a detector, for any number of classes and any (height, width).

    Raises InvalidInputError for a name that is not in MODELS, or a size that the detector cannot take.
    """
    if name not in MODELS:
        raise InvalidInputError(f"model: expected one of {', '.join(MODELS)}, got {name!r}")
    try:
        return deimv2_config(name, num_classes=num_classes, input_size=input_size)  # type: ignore[arg-type]
    except ValueError as error:
        raise InvalidInputError(f"model {name}: {error}") from error

"""Every detector by name."""

from __future__ import annotations

from typing import get_args

from edgedet import InvalidInputError
from edgedet.suggest import did_you_mean
from training.models.deimv2 import Variant, deimv2_config
from training.models.detector import DetectorConfig
from training.models.dfine import DFINEVariant, dfine_config
from training.models.edge import EdgeVariant, edge_config
from training.models.rtdetr import RTDETRVariant, rtdetr_config

_FAMILIES = (
    (Variant, deimv2_config),
    (DFINEVariant, dfine_config),
    (RTDETRVariant, rtdetr_config),
    (EdgeVariant, edge_config),
)
MODELS: tuple[str, ...] = tuple(name for names, _ in _FAMILIES for name in get_args(names))


def detector_config(name: str, *, num_classes: int = 80, input_size: tuple[int, int] | None = None) -> DetectorConfig:
    """The published configuration of a detector, for any number of classes and any (height, width).

    Raises InvalidInputError for a name that is not in MODELS, or a size that the detector cannot take.
    """
    for names, family_config in _FAMILIES:
        if name in get_args(names):
            try:
                return family_config(name, num_classes=num_classes, input_size=input_size)  # type: ignore[arg-type]
            except ValueError as error:
                raise InvalidInputError(f"model {name}: {error}") from error
    raise InvalidInputError(f"model: expected one of {', '.join(MODELS)}, got {name!r}{did_you_mean(name, MODELS)}")

"""config.json of a Hugging Face folder against the configuration of a detector here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.models.detector import DetectorConfig


def check_configuration(ours: DetectorConfig, config: Mapping[str, Any], folder: Path) -> None:
    """Raises ModelError naming the first field of config.json that says otherwise than the detector's configuration."""

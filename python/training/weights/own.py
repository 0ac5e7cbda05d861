"""The weights that training writes: safetensors with a description of what is needed to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from training.files import write_tensors
from training.weights.read import DESCRIPTION_KEY


def save_weights(file: Path, model: nn.Module, description: Mapping[str, Any]) -> None:
    """Writes a model's parameters and buffers, tied ones once, atomically.

    description: what is needed to use them (`read.read_description` gives it back); anything JSON has a form for.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    write_tensors(file, tensors, {DESCRIPTION_KEY: json.dumps(description)})

"""JSON and tensors in files that appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from edgedet.files import write_atomically


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes indented json, atomically."""
    write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes safetensors, atomically. The tensors must not share memory."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(file, save(plain, dict(metadata) if metadata else None))

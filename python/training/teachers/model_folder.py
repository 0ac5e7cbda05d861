"""What a folder of a Hugging Face model says: its tensors, normalisation and licence; and how the hub gives one.

Only JSON, safetensors and README.md are read, so nothing of a folder is ever run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgedet import InvalidInputError
from edgedet.extras import needs_extra
from training.weights.read import read_json

HUB = "hub:"  # before the id of a model on the hub
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_README = 1 << 16  # characters
_FILES = ("config.json", "preprocessor_config.json", "README.md", "model*.safetensors", _INDEX)

Three: TypeAlias = Sequence[float]


def download(name: str) -> Path:
    """The folder of a model of the Hugging Face hub, from its cache if it is there.

    Raises InvalidInputError if there is no such model or the hub does not give it.
    """
    with needs_extra("foundation"):
        from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:  # of the connection, of the hub, of the cache: each has types of its own
        raise InvalidInputError(
            f"{HUB}{name}: expected a model of the Hugging Face hub, got none ({first_line(error)}); check its id and "
            "the connection, log in if it is one that asks for consent, or name a folder that holds it"
        ) from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder but a text encoder's. Raises InvalidInputError if it has none, or broken ones."""
    files = [_WEIGHTS]
    if not (folder / _WEIGHTS).is_file():
        if not (folder / _INDEX).is_file():
            raise InvalidInputError(
                f"{folder}: expected {_WEIGHTS} or its index beside config.json, got neither; other formats may run "
                "code and are not read: save the model with save_pretrained(folder)"
            )
        shards = read_json(folder / _INDEX).get("weight_map")
        files = sorted({Path(str(name)).name for name in shards.values()}) if isinstance(shards, dict) else []
    tensors: dict[str, Tensor] = {}
    try:
        for file in files:
            with safe_open(folder / file, "pt") as handle:
                names = [name for name in handle.keys() if not name.startswith("text_model.")]  # noqa: SIM118
                tensors |= {name: handle.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(
            f"{folder}: expected {', '.join(files)} as safetensors, got something else or a damaged file ({error}); "
            "download it again"
        ) from error
    return tensors


def read_normalisation(folder: Path, mean: Three, std: Three) -> tuple[Three, Three]:
    """Mean and std of pixels in [0, 1], as preprocessor_config.json says; else those given.

    Raises InvalidInputError for one that says something else than numbers.
    """
    file = folder / "preprocessor_config.json"
    stored = read_json(file) if file.is_file() else {}
    if stored.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = (stored.get(name, known) for name, known in (("image_mean", mean), ("image_std", std)))
    numbers = all(isinstance(values, list | tuple) and len(values) == 3 for values in (mean, std))
    if not numbers or not all(isinstance(value, int | float) and math.isfinite(value) for value in (*mean, *std)):
        raise InvalidInputError(f"{file}: expected three numbers each, got {mean!r} and {std!r}; download it again")
    if min(std) <= 0:
        raise InvalidInputError(f"{file}: expected image_std above 0, got {std}; download it again")
    return mean, std


def read_licence(folder: Path) -> str | None:
    """The licence that the front matter of README.md states, or None."""
    file = folder / "README.md"
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", errors="replace") as opened:
        text = opened.read(_MAX_README)
    front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    said = dict(re.findall(r"^(license|license_name): *['\"]?([^'\"\r\n]+)", front[1], re.MULTILINE) if front else ())
    name = said.get("license_name") if said.get("license") == "other" else None
    return (name or said["license"]).strip() if "license" in said else None


def first_line(error: BaseException) -> str:
    """Of its message; its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""What a file of weights means: its tensors by our names, where they come from, which classes they know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edgedet import InvalidInputError
from edgedet.labels import COCO80
from training.models.zoo import MODELS
from training.weights.huggingface import FAMILIES, Family, class_names, map_names
from training.weights.names import backbone_names, official_names
from training.weights.read import Stored, read_weights

# Of config.json in folders of the hub's layout: `model_type` of networks that transformers does not have, and the entry
# that says what no entry of theirs does.
HUB_FORMAT, HUB_KEY, HUB_VERSION = "edgedet", "edgedet", 1

# Tensors whose first axis counts classes, and the head among them that every detector has.
CLASS_TENSORS = re.compile(r"^decoder\.((enc|dec)_score_head\.|denoising_class_embed\.|class_head\.)")
_CLASS_BIAS = re.compile(r"^decoder\.(dec_score_head\.0|class_head)\.bias$")


@dataclass(frozen=True)
class Contents:
    """The tensors of a file by our names; several by one name where the file repeats tied ones.

    origin: what wrote it, for people. dropped: tensors left out because only training needs them. classes: their names
    by label, or None if unknown. description: of our own files and folders. family, config: of a Hugging Face folder.
    """

    path: Path
    tensors: Mapping[str, tuple[Tensor, ...]]
    origin: str
    dropped: int = 0
    classes: tuple[str, ...] | None = None
    description: Mapping[str, Any] | None = None
    family: Family | None = None
    config: Mapping[str, Any] | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by name, of the first tensor of each."""
        return {name: tuple(tensors[0].shape) for name, tensors in self.tensors.items()}

    @property
    def num_classes(self) -> int | None:
        """How many classes the file's heads tell apart; None if it has no head."""
        return next((shape[0] for name, shape in self.shapes.items() if _CLASS_BIAS.match(name)), None)


def read_contents(path: Path) -> Contents:
    """Reads and names the tensors of any known file or folder. Raises as `read.read_weights` does."""
    stored = read_weights(path)
    if stored.config is not None:
        return _hugging_face(stored, stored.config)
    backbone = backbone_names(stored.tensors)
    if backbone is not None:
        return Contents(path, {name: (tensor,) for name, tensor in backbone.items()}, "backbone")
    tensors, dropped = official_names(stored.tensors)
    origin = f"official checkpoint{_of(stored.source)}"
    if stored.description is not None:
        tensors, dropped, origin = {name: (tensor,) for name, tensor in stored.tensors.items()}, 0, "edgedet"
    made = Contents(path, tensors, origin, dropped, description=stored.description)
    classes: tuple[str, ...] | None = None
    if stored.description is not None and isinstance(stored.description.get("classes"), list):
        classes = tuple(map(str, stored.description["classes"]))
    elif made.num_classes == len(COCO80.names):
        classes = COCO80.names
    return Contents(path, tensors, origin, dropped, classes, stored.description)


def _hugging_face(stored: Stored, config: Mapping[str, Any]) -> Contents:
    classes = class_names(stored.path, config)
    description = _hub_description(stored.path, config, classes)
    if config.get("model_type") == HUB_FORMAT and description is not None:
        tensors = {name: (tensor,) for name, tensor in stored.tensors.items()}
        return Contents(stored.path, tensors, "edgedet", classes=classes, description=description)
    family = next((name for name in FAMILIES if config.get("model_type") == name), None)
    if family is None:
        raise InvalidInputError(
            f"{stored.path}: expected model_type {', '.join(FAMILIES)} in config.json, got "
            f"{config.get('model_type')!r}; other architectures are not known here"
        )
    tensors = {name: (tensor,) for name, tensor in map_names(stored.tensors, family).items()}
    return Contents(
        stored.path,
        tensors,
        f"Hugging Face {family}",
        classes=classes,
        description=description,
        family=family,
        config=config,
    )


def _hub_description(folder: Path, config: Mapping[str, Any], classes: tuple[str, ...] | None) -> dict[str, Any] | None:
    """What our entry of config.json says, with the class names; None where there is none."""
    said = config.get(HUB_KEY)
    if said is None:
        return None
    if not isinstance(said, dict) or said.get("version") != HUB_VERSION or classes is None:
        raise InvalidInputError(
            f"{folder}: expected {HUB_KEY} of version {HUB_VERSION} and id2label in config.json, got something else; "
            "push it again"
        )
    if said.get("model") not in MODELS:
        raise InvalidInputError(
            f"{folder}: expected weights of a known model, got {str(said.get('model'))[:40]}; install the edgedet that "
            "pushed them"
        )
    return {**said, "classes": list(classes)}


def _of(source: str) -> str:
    return f" ({source})" if source else ""

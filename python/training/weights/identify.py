"""Which detector a file's tensors are of, judged by their names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch

from training.models.detector import build
from training.models.zoo import MODELS, detector_config
from training.weights.contents import CLASS_TENSORS, Contents

Shapes = Mapping[str, tuple[int, ...]]


def candidates(contents: Contents) -> tuple[tuple[str, ...], float]:
    """The models nearest to a file, and the share of tensors (in [0, 1]) by which they agree in name and shape.

    Several models come out where families share an architecture, such as D-FINE, DEIM and RT-DETRv4.
    """
    theirs = _comparable(contents.shapes)
    shares = {name: _agreement(theirs, *_shapes(name)) for name in MODELS}
    best = max(shares.values())
    return tuple(name for name, share in shares.items() if share == best), best


def describe(contents: Contents) -> str:
    """The nearest models in words, or that there is none."""
    if not any(name.startswith("decoder.") for name in contents.tensors):
        return "backbone"
    names, share = candidates(contents)
    return " or ".join(names) if share > 0.5 else "unknown"


@cache
def _shapes(name: str) -> tuple[Shapes, Shapes]:
    """Shapes by every name, and by one name for each tensor: files may hold tied ones once or several times."""
    with torch.device("meta"):
        model = build(detector_config(name))
    every = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    return _comparable(every), _comparable({key: tuple(tensor.shape) for key, tensor in model.named_parameters()})


def _comparable(shapes: Shapes) -> Shapes:
    """Only what neither classes nor the input size nor the kind of batch norm change."""
    return {
        name: shape
        for name, shape in shapes.items()
        if name.endswith((".weight", ".bias")) and not CLASS_TENSORS.match(name)
    }


def _agreement(theirs: Shapes, every: Shapes, once: Shapes) -> float:
    same = sum(theirs.get(name) == shape for name, shape in once.items())
    other = sum(every.get(name) != shape for name, shape in theirs.items())
    return same / max(1, len(once) + other)

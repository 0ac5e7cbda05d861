"""Weights in files: safetensors, checked before and while they are read.

Nothing here unpickles. A file may hold the project's own names or those of the published DEIMv2 checkpoints, whose tied
tensors may be there once or several times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edgedet import InvalidInputError, ModelError
from training.files import write_tensors

_MAX_BYTES = 4 << 30
_KEY = "edgedet"  # the entry of a file's metadata that holds our description, as JSON

# The names of the published checkpoints, and ours.
_RENAMED = (
    (r"^decoder\.decoder\.", "decoder."),
    (r"^(backbone\..*)\.bn\.", r"\1.norm."),
    (r"^encoder\.(down_sample\d)\.1\.", r"encoder.\1.mix.conv."),
    (r"^encoder\.(down_sample\d)\.2\.", r"encoder.\1.mix.norm."),
    (r"^encoder\.bi_fusion\.cv\.", "encoder.bi_fusion."),
)
# Tensors whose first axis counts classes.
_CLASS_TENSORS = re.compile(r"^decoder\.((enc|dec)_score_head\.|denoising_class_embed\.)")
# Tensors that belong to the input size.
_SIZE_TENSORS = ("decoder.anchors", "decoder.valid_mask")
# Buffers that follow from the configuration: a file must agree with it.
_CONSTANTS = re.compile(r"\.(up|reg_scale|num_points_scale|distances)$")


@dataclass(frozen=True)
class PretrainedReport:
    """What `load_pretrained` took from a file, and what it left with fresh weights."""

    file: Path
    loaded: int
    fresh_classes: tuple[str, ...]
    fresh_anchors: bool

    def __str__(self) -> str:
        """One line for people."""
        text = f"{self.file.name}: {self.loaded} tensors"
        if self.fresh_classes:
            text += f"; other classes, so these start afresh: {', '.join(self.fresh_classes)}"
        if self.fresh_anchors:
            text += "; other input size, so the anchors are made anew"
        return text


def save_weights(file: Path, model: nn.Module, description: Mapping[str, Any]) -> None:
    """Writes a model's parameters and buffers, tied ones once, atomically.

    description: what is needed to use them (`read_description` gives it back); anything JSON has a form for.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    write_tensors(file, tensors, {_KEY: json.dumps(description)})


def read_description(file: Path) -> dict[str, Any] | None:
    """What `save_weights` was given, or None if something else wrote the file.

    Raises:
        InvalidInputError: There is no such file, or it is not safetensors.
    """
    with _open(file) as handle:
        text = (handle.metadata() or {}).get(_KEY)
    if text is None:
        return None
    try:
        description = json.loads(text)
    except ValueError:
        description = None
    if not isinstance(description, dict):
        raise InvalidInputError(
            f"{file}: expected a JSON object as metadata {_KEY!r}, got {text[:80]!r}; the file is damaged or not ours"
        )
    return description


def load_weights(model: nn.Module, file: Path) -> None:
    """Puts a file's weights into a model: every tensor of the model, and no other.

    Raises:
        InvalidInputError: There is no such file, or it is not safetensors.
        ModelError: Missing, unexpected, wrong-shape, wrong-type or non-finite tensors; nothing was loaded.
    """
    _load(model, file, fresh=frozenset())


def load_pretrained(model: nn.Module, file: Path) -> PretrainedReport:
    """As `load_weights`, for training on other classes or another input size than the file's.

    The tensors of which one axis counts classes start afresh if their shape differs, all together: score heads from
    the mean of the file's classes, embeddings as they are. The anchors stay as they are if the input size differs.
    Raises as `load_weights` does for anything else.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in _tensors(model).items()}
    theirs = _shapes(file)
    differing = {name for name, shape in shapes.items() if name in theirs and theirs[name] != shape}
    classes: set[str] = set()
    if any(map(_CLASS_TENSORS.match, differing)):
        classes = {name for name in shapes if _CLASS_TENSORS.match(name)}
    anchors = set(_SIZE_TENSORS) if differing & set(_SIZE_TENSORS) else set()
    loaded = _load(model, file, fresh=frozenset(classes | anchors))
    _start_from_mean(model, file, classes)
    return PretrainedReport(file, loaded, tuple(sorted(classes)), bool(anchors))


def _start_from_mean(model: nn.Module, file: Path, classes: Collection[str]) -> None:
    """Starts every class of the score heads from the mean of the file's classes: a score for "some object".

    Queries are chosen by score, so fresh random heads would choose them at random while everything behind expects
    objects (BCCD, four epochs at a low learning rate: AP 0.17 instead of 0.11).
    """
    tensors = _tensors(model)
    with _open(file) as handle, torch.no_grad():
        for source in handle.keys():  # noqa: SIM118
            name = _our_name(source)
            if name in classes and "score_head" in name:
                value = _checked(handle.get_tensor(source), tensors[name], name, file)
                tensors[name].copy_(value.mean(dim=0).expand_as(tensors[name]))


def _open(file: Path) -> Any:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise InvalidInputError(
            f"{file}: expected a safetensors file, got none ({error.strerror}); check the path"
        ) from error
    if size > _MAX_BYTES:
        raise InvalidInputError(f"{file}: expected at most {_MAX_BYTES} bytes, got {size}; this is no small detector")
    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(
            f"{file}: expected a safetensors file, got something else or a damaged one ({error}); "
            "a PyTorch pickle has to be converted first"
        ) from error


def _our_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under every name it has."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    with _open(file) as handle:
        return {_our_name(name): tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118


def _load(model: nn.Module, file: Path, *, fresh: frozenset[str]) -> int:
    """Checks everything, then copies; returns how many tensors were copied. `fresh`: names to leave alone."""
    tensors = _tensors(model)
    with _open(file) as handle:
        stored: dict[str, list[str]] = {}
        for name in handle.keys():  # noqa: SIM118
            stored.setdefault(_our_name(name), []).append(name)
        _check_names(model, tensors, stored, file)
        wrong = []
        for name, sources in stored.items():
            shape = tuple(tensors[name].shape)
            for got in (tuple(handle.get_slice(source).get_shape()) for source in sources):
                kept_fresh = name in fresh and (name in _SIZE_TENSORS or got[1:] == shape[1:])
                if got != shape and not kept_fresh:
                    wrong.append(f"{name} {shape} but {got}")
        if wrong:
            raise ModelError(
                f"{file}: {len(wrong)} tensors are of another shape than expected: {_some(wrong)}; "
                "build the model with the file's variant, classes and input size, or start training from it instead"
            )
        # Tied tensors meet here again: by storage, the first value wins and the others must equal it.
        values: dict[int, tuple[str, Tensor]] = {}
        for name, sources in stored.items():
            if name in fresh:
                continue
            for source in sources:
                value = _checked(handle.get_tensor(source), tensors[name], name, file)
                first, known = values.setdefault(tensors[name].data_ptr(), (name, value))
                if not torch.equal(known, value):
                    raise ModelError(f"{file}: {first} and {name} are one tensor in this model, but differ in the file")
    with torch.no_grad():
        for name, value in values.values():
            tensors[name].copy_(value)
    return len(values)


def _check_names(model: nn.Module, tensors: Mapping[str, Tensor], stored: Mapping[str, Any], file: Path) -> None:
    have = {tensors[name].data_ptr() for name in stored if name in tensors}
    missing = [name for name in model.state_dict() if tensors[name].data_ptr() not in have]
    unexpected = [name for name in stored if name not in tensors]
    if missing or unexpected:
        raise ModelError(
            f"{file}: expected the {len(tensors)} tensors of this model, got a file with {len(missing)} missing"
            f"{': ' + _some(missing) if missing else ''} and {len(unexpected)} unexpected"
            f"{': ' + _some(unexpected) if unexpected else ''}; build the model with the file's variant"
        )


def _checked(value: Tensor, target: Tensor, name: str, file: Path) -> Tensor:
    constant = _CONSTANTS.search(name) is not None  # some files hold these as integers
    if value.is_complex() or (value.is_floating_point() != target.is_floating_point() and not constant):
        raise ModelError(f"{file}: expected {name} as {target.dtype}, got {value.dtype}; the file is not of this model")
    # Anchors of cells too near the border are infinite by definition.
    bad = value.isnan() if name in _SIZE_TENSORS else ~value.isfinite()
    if bad.any():
        raise ModelError(
            f"{file}: expected finite weights, got {int(bad.sum())} NaN or infinite values in {name}; "
            "the training that wrote it diverged: use an earlier checkpoint"
        )
    value = value.to(target.dtype)
    if constant and not torch.allclose(value, target.cpu()):
        raise ModelError(
            f"{file}: expected {name} = {target.tolist()}, got {value.tolist()}; build the model it was trained as"
        )
    return value


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")

"""Putting named tensors into a model: everything is checked before anything is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from edgedet import ModelError
from training.weights.contents import CLASS_TENSORS, Contents
from training.weights.identify import describe

# Tensors that belong to the input size.
SIZE_TENSORS = ("decoder.anchors", "decoder.valid_mask")
# What follows from the configuration: files may leave it out or add it, but must not contradict it.
_CONSTANTS = re.compile(r"(^|\.)(up|reg_scale|num_points_scale|distances)$")
# What a frozen batch norm does not have and no result depends on.
_COUNTERS = re.compile(r"\.num_batches_tracked$")


class WeightsMismatch(ModelError):  # noqa: N818
    """A file that is not of the model it was to be put into.

    missing, unexpected: every name. wrong_shape: `name: expected shape, got shape` each. The message has the first few.
    """

    def __init__(
        self, message: str, missing: Iterable[str], unexpected: Iterable[str], wrong_shape: Iterable[str]
    ) -> None:
        super().__init__(message)
        self.missing, self.unexpected, self.wrong_shape = tuple(missing), tuple(unexpected), tuple(wrong_shape)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under every name it has."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def fit(model: nn.Module, contents: Contents, *, fresh: frozenset[str] = frozenset()) -> int:
    """Copies a file's tensors into a model: every tensor of the model, and no other.

    fresh: names to leave alone; theirs may differ in the number of classes or the input size. Returns how many tensors
    were copied.
    Raises WeightsMismatch for missing, unexpected and wrong-shape names, ModelError for values that cannot be; then
    nothing was copied.
    """
    tensors = tensors_of(model)
    stored = {name: values for name, values in contents.tensors.items() if name in tensors or not _derived(name)}
    _check_names(model, tensors, stored, contents, fresh)
    # Tied tensors meet here again: by storage, the first value wins and the others must equal it.
    copies: dict[int, tuple[str, Tensor]] = {}
    for name, values in stored.items():
        for value in values if name not in fresh else ():
            good = checked(value, tensors[name], name, contents)
            first, known = copies.setdefault(tensors[name].data_ptr(), (name, good))
            if not torch.equal(known, good):
                raise ModelError(
                    f"{contents.path}: expected one value, because {first} and {name} are one tensor in this model, "
                    "got two that differ; build the model the file was trained as"
                )
    with torch.no_grad():
        for name, value in copies.values():
            tensors[name].copy_(value)
    return len(copies)


def checked(value: Tensor, target: Tensor, name: str, contents: Contents) -> Tensor:
    """A stored tensor in the model's dtype. Raises ModelError for another kind of number, or values that cannot be."""
    constant = _CONSTANTS.search(name) is not None  # some files hold these as integers
    if value.is_complex() or (value.is_floating_point() != target.is_floating_point() and not constant):
        raise ModelError(
            f"{contents.path}: expected {name} as {target.dtype}, got {value.dtype}; the file is not of this model"
        )
    value = value.detach().to(target.dtype)
    # Anchors of cells too near the border are infinite by definition.
    bad = value.isnan() if name in SIZE_TENSORS else ~value.isfinite()
    if bad.any():
        raise ModelError(
            f"{contents.path}: expected finite weights, got {int(bad.sum())} NaN or infinite values in {name}; "
            "the training that wrote it diverged: use an earlier checkpoint"
        )
    if constant and not torch.allclose(value, target.cpu()):
        raise ModelError(
            f"{contents.path}: expected {name} = {target.tolist()}, got {value.tolist()}; "
            "build the model it was trained as"
        )
    return value


def _derived(name: str) -> bool:
    return name in SIZE_TENSORS or _CONSTANTS.search(name) is not None or _COUNTERS.search(name) is not None


def _check_names(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    stored: Mapping[str, tuple[Tensor, ...]],
    contents: Contents,
    fresh: frozenset[str],
) -> None:
    have = {tensors[name].data_ptr() for name in stored if name in tensors}
    missing = [name for name in model.state_dict() if tensors[name].data_ptr() not in have and not _derived(name)]
    unexpected = [name for name in stored if name not in tensors]
    wrong = []
    for name, values in stored.items():
        if name not in tensors:
            continue
        shape = tuple(tensors[name].shape)
        for got in {tuple(value.shape) for value in values}:
            left_alone = name in fresh and (name in SIZE_TENSORS or got[1:] == shape[1:])
            if got != shape and not left_alone:
                wrong.append(f"{name}: expected {shape}, got {got}")
    if not (missing or unexpected or wrong):
        return
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    faults = "; ".join(f"{len(found)} {kind}: {_some(found)}" for kind, found in lists.items() if found)
    raise WeightsMismatch(
        f"{contents.path}: expected the {len(model.state_dict())} tensors of {_called(model)}, got {contents.origin} "
        f"with {faults}. {_remedy(model, contents, wrong)}",
        missing,
        unexpected,
        wrong,
    )


def _called(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "name", "this model"))


def _remedy(model: nn.Module, contents: Contents, wrong: list[str]) -> str:
    if wrong and all(CLASS_TENSORS.match(line) or line.startswith(SIZE_TENSORS) for line in wrong):
        return "Build the model with the file's classes and input size, or start training from it instead"
    found = describe(contents)
    name = _called(model)
    if name in found.split(" or "):
        return f"The file looks damaged or changed: it is nearest to {name} itself"
    return f"This looks like {found} weights, the model is {name}: choose the model they are of (--model)"


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")

"""Weights from any known file into a model: all of them, all but the classes, or the backbone's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edgedet import InvalidInputError, ModelError
from edgedet.bundle import InputSpec
from training.data.dataset import CocoDataset
from training.models.detector import Detector, build
from training.models.zoo import MODELS, detector_config
from training.weights.class_transfer import ClassSource, choose_sources, copy_classes
from training.weights.configuration import check_configuration, matching_model
from training.weights.contents import CLASS_TENSORS, Contents, read_contents
from training.weights.fit import SIZE_TENSORS, checked, fit, tensors_of
from training.weights.identify import candidates

_LARGEST = 4096  # side of an input; a network keeps anchors for each of its cells


@dataclass(frozen=True)
class LoadReport:
    """What was taken from a file.

    origin: what wrote it. loaded: tensors copied. dropped: left out because only training needs them. classes: where
    each class of the model starts from, by label, if the file's classes are others. fresh_anchors: another input size.
    """

    file: Path
    origin: str
    loaded: int
    dropped: int = 0
    classes: tuple[ClassSource, ...] = ()
    fresh_anchors: bool = False

    def __str__(self) -> str:
        """One line for people."""
        text = f"{self.file.name}: {self.loaded} tensors of {self.origin}"
        if self.dropped:
            text += f"; {self.dropped} that only training needs were left out"
        if self.classes:
            text += f"; classes start from: {', '.join(map(str, self.classes))}"
        if self.fresh_anchors:
            text += "; other input size, so the anchors are made anew"
        return text


@dataclass(frozen=True)
class Loaded:
    """A model with a file's weights.

    classes: names by label as the file or its format knows them, or None. description: what `own.save_weights` was
    given, or None if something else wrote the file.
    """

    model: Detector
    report: LoadReport
    classes: tuple[str, ...] | None
    description: Mapping[str, Any] | None


@dataclass(frozen=True)
class BackboneReport:
    """What `load_backbone` took: per stage, the tensors taken and the tensors the stage has."""

    file: Path
    origin: str
    stages: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        """One line for people."""
        stages = ", ".join(f"{stage} {taken} of {all_}" for stage, (taken, all_) in self.stages.items())
        return f"{self.file.name}: backbone tensors of {self.origin}: {stages}"


def load(model: Detector | str | None, path: Path) -> Loaded:
    """Loads any known file or folder, recognised by its content.

    model: a detector to fill, the name of one to build with the file's number of classes, or None to find out which
    one the file is of: from its description, its config.json or the shapes of its tensors.
    Raises InvalidInputError for a file that is none (see `read.read_weights`) or a model that cannot be told,
    WeightsMismatch for weights of another model; then nothing was loaded.
    """
    contents = read_contents(path)
    if not isinstance(model, Detector):
        name = model or _name(contents)
        if contents.num_classes is None:
            raise InvalidInputError(
                f"{path}: expected a detector's weights, got {contents.origin} without class heads; "
                "start a training from it instead"
            )
        size = (contents.description or {}).get("size")
        if size is not None and not (type(size) is int and 0 < size <= _LARGEST):
            raise InvalidInputError(f"{path}: expected an input size of 1 to {_LARGEST}, got {str(size)[:40]}")
        input_size = None if size is None else (size, size)
        model = build(detector_config(name, num_classes=contents.num_classes, input_size=input_size))
    return Loaded(model, _fit(model, contents), contents.classes, contents.description)


def load_weights(model: Detector, path: Path) -> LoadReport:
    """Puts a file's weights into a model: every tensor of the model, and no other. Raises as `load` does."""
    return load(model, path).report


def load_pretrained(
    model: Detector, path: Path, *, dataset: CocoDataset | None = None, spec: InputSpec | None = None
) -> LoadReport:
    """As `load_weights`, for training on other classes or another input size than the file's.

    Where the number of classes or their names differ, every class starts from one of the file's, see `class_transfer`;
    without `dataset` (the images that will be trained on) and `spec`, from the mean of all of them. The anchors stay
    as they are if the input size differs. Raises as `load` does for anything else.
    """
    contents = read_contents(path)
    shapes = contents.shapes
    tensors = tensors_of(model)
    differing = {name for name, tensor in tensors.items() if shapes.get(name, tensor.shape) != tuple(tensor.shape)}
    anchors = differing & set(SIZE_TENSORS)
    names = None if dataset is None else dataset.categories.names
    others = any(map(CLASS_TENSORS.match, differing)) or (names is not None and contents.classes not in (None, names))
    classes = {name for name in tensors if CLASS_TENSORS.match(name)} if others else set()
    report = _fit(model, contents, fresh=frozenset(classes | anchors))
    report = replace(report, fresh_anchors=bool(anchors))
    if not classes:
        return report
    sources: Sequence[ClassSource] = ()
    if dataset is not None and spec is not None and contents.num_classes is not None:
        decoder = replace(model.config.decoder, num_classes=contents.num_classes)
        known = build(replace(model.config, decoder=decoder))
        _fit(known, contents, fresh=frozenset(anchors))
        sources = choose_sources(known.eval(), contents.classes, dataset, spec)
    values = {
        name: checked(contents.tensors[name][0], tensors[name], name, contents)
        for name in sorted(classes & contents.tensors.keys())
    }
    copy_classes({name: tensors[name] for name in values}, values, sources)
    return replace(report, classes=tuple(sources))


def load_backbone(model: Detector, path: Path) -> BackboneReport:
    """Takes from any known file the backbone's layers whose tensors all agree with the model's in name and shape.

    So a detector starts from ImageNet weights, or a smaller one from the first stages of a larger one. A layer is a
    convolution with its norm.
    Raises InvalidInputError for a file of no known format, ModelError if nothing agrees or values are not finite.
    """
    contents = read_contents(path)
    ours = {name: tensor for name, tensor in tensors_of(model).items() if name.startswith("backbone.")}
    shapes = contents.shapes
    unfit = {
        _layer(name)
        for name, tensor in ours.items()
        if shapes.get(name, ()) != tuple(tensor.shape) and not name.endswith("num_batches_tracked")
    }
    taken = [name for name in ours if _layer(name) not in unfit and name in shapes]
    if not taken:
        raise ModelError(
            f"{path}: expected backbone layers that fit {model.config.name}, got {contents.origin} with none of its "
            "names and shapes; choose weights of the same kind of backbone (ResNet, HGNetV2)"
        )
    values = {name: checked(contents.tensors[name][0], ours[name], name, contents) for name in taken}
    with torch.no_grad():
        for name, value in values.items():
            ours[name].copy_(value)
    totals = Counter(map(_stage, ours))
    counts = Counter(map(_stage, taken))
    return BackboneReport(path, contents.origin, {stage: (counts[stage], totals[stage]) for stage in totals})


def _fit(model: Detector, contents: Contents, *, fresh: frozenset[str] = frozenset()) -> LoadReport:
    if contents.config is not None:
        check_configuration(model.config, contents.config, contents.path)
    loaded = fit(model, contents, fresh=fresh)
    return LoadReport(contents.path, contents.origin, loaded, contents.dropped)


def _name(contents: Contents) -> str:
    if contents.description is not None and contents.description.get("model") in MODELS:
        return str(contents.description["model"])
    if contents.config is not None and contents.family is not None:
        return matching_model(contents.config, contents.family, contents.path)
    names, share = candidates(contents)
    if share < 1 or len(names) > 1:
        raise InvalidInputError(
            f"{contents.path}: expected weights of one known model, got some like {' or '.join(names)} "
            f"({share:.0%} of their tensors agree); say what they are of with --model"
        )
    return names[0]


def _layer(name: str) -> str:
    """The convolution and norm (and affine) that a tensor belongs to."""
    parts = name.split(".")
    return ".".join(parts[:-2]) if parts[-2] in ("conv", "norm", "lab") else ".".join(parts[:-1])


def _stage(name: str) -> str:
    """stem, conv1, stages.0, res_layers.2, ..."""
    parts = name.split(".")[1:]
    return ".".join(parts[:2]) if parts[0] in ("stages", "res_layers") else parts[0]

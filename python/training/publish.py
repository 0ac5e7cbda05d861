"""What happens to weights after training: evaluation and export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgedet import InvalidInputError
from edgedet.bundle import InputSpec
from training.checkpoint import load_weights, read_description
from training.config import ModelName, TrainConfig, read_config
from training.data.coco import find_split, load_coco, read_categories
from training.data.dataset import Categories
from training.evaluate import evaluate_model
from training.export import write_bundle_from_model
from training.models.detector import Detector, build
from training.recipes import device_of, input_spec, model_config


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights and all that is needed to use it."""

    model: Detector
    spec: InputSpec
    categories: Categories
    name: str


@dataclass(frozen=True)
class Foreign:
    """What has to be said about weights that training did not write, such as the published ones.

    model: the network they are of. categories: a COCO json that lists the classes they know, in the order of their ids.
    filter: how their images were shrunk.
    """

    model: ModelName
    categories: Path
    filter: Literal["bilinear", "antialias"] = "bilinear"


def weights_file(path: Path) -> Path:
    """The file of a run folder's best weights, or the path itself. Raises InvalidInputError for an unfinished run."""
    if not path.is_dir():
        return path
    file = path / "best.safetensors"
    if not file.is_file():
        raise InvalidInputError(f"{path}: expected a run folder with best.safetensors, got none; train an epoch first")
    return file


def load_checkpoint(path: Path, foreign: Foreign | None = None) -> Checkpoint:
    """Loads the best weights of a run folder, a checkpoint that training wrote, or others that `foreign` describes.

    Raises InvalidInputError for anything else, ModelError for weights that do not fit or are not finite.
    """
    file = weights_file(path)
    description = read_description(file)
    if description is not None:
        try:
            name, size = description["model"], int(description["size"])
            categories = Categories(names=tuple(description["classes"]), ids=tuple(description["category_ids"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"{file}: expected the description of a checkpoint, got {description}") from error
        spec = input_spec(size)
    elif foreign is not None:
        name, categories = foreign.model, read_categories(foreign.categories)
        spec = replace(input_spec(model_config(name, num_classes=1).input_size[0]), filter=foreign.filter)
    else:
        raise InvalidInputError(
            f"{file}: expected a checkpoint that training wrote, got other weights; say what they are of with --model"
        )
    model = build(model_config(name, num_classes=len(categories.names), size=spec.width))
    load_weights(model, file)
    return Checkpoint(model=model.eval(), spec=spec, categories=categories, name=name)


def evaluate_checkpoint(
    path: Path,
    *,
    data: Path | None,
    val_json: Path | None,
    device: str,
    batch: int,
    model: ModelName | None = None,
    filter: Literal["bilinear", "antialias"] = "bilinear",
) -> dict[str, float]:
    """AP of weights on a validation split; a run's own split if neither data nor val_json is given.

    model, filter: what weights are of that training did not write; their classes are those of the split.
    """
    file = weights_file(path)
    described = read_description(file) is not None
    if data is None and val_json is None:
        if not described:
            raise InvalidInputError(f"{file}: expected a dataset to evaluate on; name its folder, or --val-json")
        config: TrainConfig = read_config(file.parent)
        data, val_json = config.data, config.val_json
    split = find_split(data or Path(), "val", annotations=val_json)
    foreign = None if model is None else Foreign(model=model, categories=split.annotations, filter=filter)
    loaded = load_checkpoint(path, foreign)
    dataset = load_coco(split, categories=loaded.categories)
    place = device_of(device)
    return evaluate_model(loaded.model.to(place), dataset, spec=loaded.spec, batch=batch, device=place)


def export_checkpoint(
    path: Path,
    bundle: Path,
    *,
    name: str | None,
    foreign: Foreign | None = None,
    licence: Mapping[str, str] | None = None,
) -> Path:
    """Writes a run's best weights, or a checkpoint, as a bundle. Returns its folder.

    licence: of `weights` and `data`, as the bundle will state them.
    """
    loaded = load_checkpoint(path, foreign)
    return write_bundle_from_model(
        loaded.model,
        bundle,
        name=name or loaded.name,
        input=loaded.spec,
        classes=loaded.categories.names,
        category_ids=loaded.categories.ids,
        licence=licence,
    )

"""What happens to weights after training: evaluation and export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgedet import InvalidInputError
from edgedet.bundle import InputSpec
from training.checkpoint import load_weights, read_description
from training.config import TrainConfig, read_config
from training.data.coco import Categories, find_split, load_coco
from training.evaluate import evaluate_model
from training.export import write_bundle_from_model
from training.models.deimv2 import Deimv2, build
from training.recipes import device_of, input_spec, model_config


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights and all that is needed to use it. run: the folder it lies in."""

    model: Deimv2
    spec: InputSpec
    categories: Categories
    name: str
    run: Path


def load_checkpoint(path: Path) -> Checkpoint:
    """Loads the best weights of a run folder, or a checkpoint that training wrote.

    Raises InvalidInputError for anything else, ModelError for weights that do not fit or are not finite.
    """
    file = path / "best.safetensors" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise InvalidInputError(f"{path}: expected a run folder with best.safetensors, got none; train an epoch first")
    description = read_description(file)
    if description is None:
        raise InvalidInputError(f"{file}: expected a checkpoint that training wrote, got other weights; train first")
    try:
        name, size = description["model"], int(description["size"])
        categories = Categories(names=tuple(description["classes"]), ids=tuple(description["category_ids"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"{file}: expected the description of a checkpoint, got {description}") from error
    model = build(model_config(name, num_classes=len(categories.names), size=size))
    load_weights(model, file)
    return Checkpoint(model=model.eval(), spec=input_spec(size), categories=categories, name=name, run=file.parent)


def evaluate_checkpoint(
    path: Path, *, data: Path | None, val_json: Path | None, device: str, batch: int
) -> dict[str, float]:
    """AP of a run or checkpoint on a validation split; the run's own if neither data nor val_json is given."""
    loaded = load_checkpoint(path)
    if data is None and val_json is None:
        config: TrainConfig = read_config(loaded.run)
        data, val_json = config.data, config.val_json
    dataset = load_coco(find_split(data or Path(), "val", annotations=val_json), categories=loaded.categories)
    place = device_of(device)
    return evaluate_model(loaded.model.to(place), dataset, spec=loaded.spec, batch=batch, device=place)


def export_checkpoint(path: Path, bundle: Path, *, name: str | None) -> Path:
    """Writes a run's best weights, or a checkpoint, as a bundle. Returns its folder."""
    loaded = load_checkpoint(path)
    return write_bundle_from_model(
        loaded.model,
        bundle,
        name=name or loaded.name,
        input=loaded.spec,
        classes=loaded.categories.names,
        category_ids=loaded.categories.ids,
    )

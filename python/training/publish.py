"""What happens to weights after training: evaluation and export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from edgedet import InvalidInputError
from edgedet.bundle import InputSpec
from edgedet.input_spec import read_input
from edgedet.labels import COCO80
from training.config import TrainConfig, read_config
from training.data.dataset import Categories
from training.data.formats import load_split, read_categories
from training.evaluate import evaluate_model
from training.export import write_bundle_from_model
from training.models.deformable_attention import Sampling
from training.models.deimv2 import Variant
from training.models.detector import Detector
from training.recipes import device_of, input_spec
from training.weights.load import Loaded, load
from training.weights.processor import check_processor
from training.weights.read import read_description

Filter = Literal["bilinear", "antialias"]


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

    model: the network they are of; None to tell it from the file. categories: a COCO json that lists the classes they
    know, in the order of their ids; None for those the file or its format knows. filter: how their images were shrunk;
    None for what the model's authors validate with.
    """

    model: str | None = None
    categories: Path | None = None
    filter: Filter | None = None


def weights_file(path: Path) -> Path:
    """The file of a run folder's best weights, or the path itself. Raises InvalidInputError for an unfinished run."""
    if not path.is_dir() or any(path.glob("model*.safetensors*")):  # Hugging Face's folders are read as such
        return path
    file = path / "best.safetensors"
    if not file.is_file():
        raise InvalidInputError(
            f"{path}: expected a run folder with best.safetensors, or a Hugging Face folder with model.safetensors, "
            "got neither; train an epoch first"
        )
    return file


def load_checkpoint(path: Path, foreign: Foreign | None = None) -> Checkpoint:
    """Loads the best weights of a run folder, a checkpoint that training wrote, or any other that `weights` knows.

    Raises InvalidInputError for anything else, ModelError for weights that do not fit or are not finite.
    """
    file = weights_file(path)
    foreign = foreign or Foreign()
    loaded = load(foreign.model, file)
    config = loaded.model.config
    description = loaded.description
    if description is not None:
        try:
            categories = Categories(names=tuple(description["classes"]), ids=tuple(description["category_ids"]))
        except (KeyError, TypeError) as error:
            raise InvalidInputError(f"{file}: expected the description of a checkpoint, got {description}") from error
        spec = input_spec(config.input_size[0], model=config.name)
        if "input" in description:
            spec = _described_input(file, description["input"], config.input_size)
        check_processor(file, spec)
    else:
        categories = _categories(loaded, foreign.categories)
        spec = published_input(config.name, config.input_size[0])
        spec = spec if foreign.filter is None else replace(spec, filter=foreign.filter)
    if len(categories.ids) != len(categories.names) or not all(type(number) is int for number in categories.ids):
        raise InvalidInputError(f"{file}: expected a number for each class as category_ids, got {categories.ids}")
    if len(categories.names) != config.decoder.num_classes:
        raise InvalidInputError(
            f"{file}: expected {config.decoder.num_classes} classes, as the weights have, got {len(categories.names)}; "
            "name the COCO json of the data they were trained on"
        )
    return Checkpoint(model=loaded.model.eval(), spec=spec, categories=categories, name=config.name)


def _described_input(file: Path, said: object, size: tuple[int, int]) -> InputSpec:
    try:
        spec = read_input(said)
    except InvalidInputError as error:
        raise InvalidInputError(f"{file}: {error}") from None
    if (spec.height, spec.width) != size:
        raise InvalidInputError(f"{file}: expected images of {size[0]} x {size[1]}, got {spec.height} x {spec.width}")
    return spec


def published_input(name: str, size: int) -> InputSpec:
    """How the authors of a published model resize and normalise an image when they validate."""
    spec = input_spec(size, model=name)
    # DEIMv2's are compared with their published ONNX, which is fed with OpenCV's resize.
    return replace(spec, filter="bilinear") if name in get_args(Variant) else spec


def _categories(loaded: Loaded, listed: Path | None) -> Categories:
    """Classes of weights without a description: as listed, or as the file knows them, or COCO's."""
    if listed is not None:
        return read_categories(listed)
    if loaded.classes is None:
        raise InvalidInputError(
            f"{loaded.report.file}: expected weights whose classes are known, got {loaded.report.origin} with "
            f"{loaded.model.config.decoder.num_classes} classes without names; list them in a COCO json (--categories)"
        )
    if len(loaded.classes) == len(COCO80.names):
        return Categories(names=COCO80.names, ids=COCO80.category_ids)
    return Categories(names=loaded.classes, ids=tuple(range(len(loaded.classes))))


def evaluate_checkpoint(
    path: Path,
    *,
    data: Path | None,
    val_json: Path | None,
    device: str,
    batch: int,
    model: str | None = None,
    filter: Filter | None = None,
) -> dict[str, float]:
    """AP of weights on a validation split; a run's own split if neither data nor val_json is given.

    model, filter: of weights that training did not write, see `Foreign`; their classes are those of the split.
    """
    file = weights_file(path)
    described = read_description(file) is not None
    if data is None and val_json is None:
        if not described:
            raise InvalidInputError(f"{file}: expected a dataset to evaluate on; name its folder, or --val-json")
        config: TrainConfig = read_config(file.parent)
        data, val_json = config.data, config.val_json
    foreign = None if described else Foreign(model=model, categories=val_json or data or Path(), filter=filter)
    loaded = load_checkpoint(path, foreign)
    dataset = load_split(data, "val", annotations=val_json, categories=loaded.categories)
    place = device_of(device)
    return evaluate_model(loaded.model.to(place), dataset, spec=loaded.spec, batch=batch, device=place)


def export_checkpoint(
    path: Path,
    bundle: Path,
    *,
    name: str | None,
    foreign: Foreign | None = None,
    sampling: Sampling | None = None,
    licence: Mapping[str, str] | None = None,
) -> Path:
    """Writes a run's best weights, or a checkpoint, as a bundle. Returns its folder.

    sampling: how deformable attention reads its maps in the graph, see `export_onnx`. licence: of `weights` and `data`,
    as the bundle will state them.
    """
    loaded = load_checkpoint(path, foreign)
    return write_bundle_from_model(
        loaded.model,
        bundle,
        name=name or loaded.name,
        input=loaded.spec,
        classes=loaded.categories.names,
        category_ids=loaded.categories.ids,
        sampling=sampling,
        licence=licence,
    )

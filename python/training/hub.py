"""Checkpoints as folders of Hugging Face's hub layout, and back: safetensors and JSON, never code.

Networks that transformers has are written as its own, for `AutoModelForObjectDetection`. All others have `model_type`
"edgedet" and our names. Either config.json says in "edgedet" what `load_checkpoint` needs, so that a folder comes back
bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedet import InvalidInputError
from edgedet.bundle import UNSTATED, copy_bundle, load_model_json
from edgedet.extras import needs_extra
from edgedet.files import new_folder
from edgedet.hub import BUNDLE, open_folder
from edgedet.input_spec import read_input
from edgedet.model_card import Card
from edgedet.verdict import read_report
from training.files import write_json
from training.publish import Checkpoint, Foreign, load_checkpoint, weights_file
from training.weights.configuration import written_configuration
from training.weights.contents import HUB_FORMAT, HUB_KEY, HUB_VERSION
from training.weights.fit import tensors_of
from training.weights.huggingface import Family, their_state
from training.weights.own import save_weights
from training.weights.processor import FILE as PROCESSOR
from training.weights.processor import processor_config
from training.weights.read import read_description

_PATTERNS = (
    "config.json",
    "preprocessor_config.json",
    "README.md",
    "model*.safetensors",
    "model.safetensors.index.json",
)


@dataclass(frozen=True)
class CardFacts:
    """What a model card says and weights do not know.

    name: of the model; its architecture's if not given. licence: of `weights` and `data`. datasets: it was trained on,
    and base_model: it started from, by their ids on the hub.
    """

    name: str | None = None
    licence: Mapping[str, str] | None = None
    datasets: Sequence[str] = ()
    base_model: str | None = None


def push_checkpoint(
    path: Path,
    folder: Path,
    *,
    foreign: Foreign | None = None,
    facts: CardFacts | None = None,
    bundle: Path | None = None,
) -> Path:
    """Writes a run's best weights, or a checkpoint, as a new folder that `hf upload` takes. Returns it.

    bundle: of the same model; it is put into `bundle/`, and its figures into the card.
    Raises InvalidInputError for a folder that exists, or a bundle of other classes or another input; as
    `load_checkpoint` does; Error where transformers is needed and not installed.
    """
    facts = facts or CardFacts()
    if folder.exists():
        raise InvalidInputError(f"{folder}: exists; choose another folder")
    loaded = load_checkpoint(path, foreign)
    spec = None if bundle is None else load_model_json(bundle)
    if spec is not None:
        _check_bundle(spec, loaded, str(bundle))
    written = written_configuration(loaded.model.config)
    with new_folder(folder) as staging:
        if written is None:
            _save_ours(loaded, staging)
        else:
            _save_theirs(loaded, staging, *written)
        write_json(staging / PROCESSOR, processor_config(loaded.spec))
        if bundle is not None:
            copy_bundle(bundle, staging / BUNDLE)
        described = read_description(weights_file(path)) or {}
        card = Card(
            spec=_said(loaded, spec, facts),
            library="edgedet" if written is None else "transformers",
            usage=_usage(folder.name, native=written is not None, bundle=bundle is not None),
            datasets=facts.datasets,
            base_model=facts.base_model,
            validation=described.get("metrics"),
            report=None if bundle is None or spec is None else read_report(bundle, spec),
        )
        (staging / "README.md").write_text(str(card), encoding="utf-8")
    return folder


def pull_checkpoint(source: str, out: Path, *, revision: str | None = None) -> Checkpoint:
    """Writes the weights of such a folder, or of the hub's (`hub:OWNER/NAME` at a commit), as a checkpoint of ours.

    Folders that transformers wrote will do as well, where their network is one of those known here.
    Raises InvalidInputError for a file that exists; as `open_folder` and `load_checkpoint` do.
    """
    if out.exists():
        raise InvalidInputError(f"{out}: exists; choose another file")
    loaded = load_checkpoint(open_folder(source, _PATTERNS, revision=revision))
    out.parent.mkdir(parents=True, exist_ok=True)
    _save_checkpoint(out, loaded)
    return loaded


def _said(loaded: Checkpoint, spec: Mapping[str, Any] | None, facts: CardFacts) -> dict[str, Any]:
    """What the card takes from model.json: the bundle's, unless the caller says otherwise."""
    said = spec or {
        "name": loaded.name,
        "input": asdict(loaded.spec),
        "classes": loaded.categories.names,
        "licence": {"weights": UNSTATED, "data": UNSTATED},
    }
    stated = {key: text for key, text in (facts.licence or {}).items() if text != UNSTATED}
    return {**said, "name": facts.name or said["name"], "licence": {**said["licence"], **stated}}


def _description(loaded: Checkpoint) -> dict[str, Any]:
    return {
        "model": loaded.model.config.name,
        "size": loaded.model.config.input_size[0],
        "category_ids": list(loaded.categories.ids),
        "input": asdict(loaded.spec),
    }


def _save_checkpoint(file: Path, loaded: Checkpoint) -> None:
    save_weights(file, loaded.model, {**_description(loaded), "classes": list(loaded.categories.names)})


def _labels(loaded: Checkpoint) -> dict[str, Any]:
    names = loaded.categories.names
    return {"id2label": dict(enumerate(names)), "label2id": {name: label for label, name in enumerate(names)}}


def _save_ours(loaded: Checkpoint, folder: Path) -> None:
    description = {"version": HUB_VERSION, **_description(loaded)}
    config = {"architectures": ["EdgedetForObjectDetection"], "model_type": HUB_FORMAT, **_labels(loaded)}
    write_json(folder / "config.json", {**config, HUB_KEY: description})
    _save_checkpoint(folder / "model.safetensors", loaded)


def _save_theirs(loaded: Checkpoint, folder: Path, family: Family, fields: Mapping[str, Any]) -> None:
    import torch

    with needs_extra("foundation"):
        from transformers import AutoConfig, AutoModelForObjectDetection
    section = {HUB_KEY: {"version": HUB_VERSION, **_description(loaded)}}
    config = AutoConfig.for_model(family, **fields, **_labels(loaded), **section)
    with torch.device("meta"):  # shapes and names only: every value comes from ours
        model = AutoModelForObjectDetection.from_config(config)
    state = their_state(model.state_dict(), tensors_of(loaded.model), family)
    model.load_state_dict(state, strict=True, assign=True)
    model.save_pretrained(folder)


def _check_bundle(spec: Mapping[str, Any], loaded: Checkpoint, bundle: str) -> None:
    """A bundle of another model must not lend its figures."""
    image, theirs = asdict(loaded.spec), asdict(read_input(spec["input"]))
    differing = [key for key in image if key != "name" and not _same(image[key], theirs[key])]
    differing += ["classes"] if (*loaded.categories.names,) != (*spec["classes"],) else []
    differing += ["category_ids"] if (*loaded.categories.ids,) != (*spec["category_ids"],) else []
    if differing:
        raise InvalidInputError(
            f"{bundle}: expected the bundle of these weights, got one with other {', '.join(differing)}; "
            "export the weights again"
        )


def _same(one: Any, other: Any) -> bool:
    """model.json is read in single precision."""
    return bool(np.allclose(one, other, rtol=1e-6) if isinstance(one, tuple) else one == other)


def _usage(name: str, *, native: bool, bundle: bool) -> list[tuple[str, str]]:
    blocks = []
    if bundle:
        blocks += [
            (
                "sh",
                f"pip install edgedet\nedgedet pull {name} --out bundle\nedgedet predict bundle street.jpg --out drawn",
            )
        ]
    if native:
        blocks += [
            (
                "python",
                "from transformers import AutoImageProcessor, AutoModelForObjectDetection\n\n"
                f"processor = AutoImageProcessor.from_pretrained({name!r})\n"
                f"model = AutoModelForObjectDetection.from_pretrained({name!r})",
            )
        ]
    return [*blocks, ("sh", f"python -m training pull {name} --out weights.safetensors")]

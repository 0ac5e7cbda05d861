"""The bundle that an ONNX file came out of, as its metadata tells it: what an import need not be told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgedet._core import InvalidInputError, ModelError
from edgedet.bundle import InputSpec, LabelsBoxesScores, LogitsBoxes
from edgedet.input_spec import read_input
from edgedet.labels import Labels
from edgedet.onnx_metadata import PREFIX, read_metadata


@dataclass(frozen=True)
class Origin:
    """What is known of a file; empty of one that was never in a bundle.

    Attributes:
        name: Of the model.
        labels: Its classes.
        input: How images become its input.
        head: "output" of model.json.
        licence: Of "weights" and "data".
    """

    name: str | None = None
    labels: Labels | None = None
    input: InputSpec | None = None
    head: Mapping[str, Any] = field(default_factory=dict)
    licence: Mapping[str, str] = field(default_factory=dict)

    def output(self, found: LogitsBoxes | LabelsBoxesScores) -> LogitsBoxes | LabelsBoxesScores:
        """What the graph says of its head, with the bundle's number of rows if it is the same head."""
        top_k = self.head.get("top_k")
        told = {key: value for key, value in self.head.items() if key not in ("form", "top_k")}
        names = {key: value for key, value in asdict(found).items() if key != "top_k" and value is not None}
        return replace(found, top_k=top_k) if type(top_k) is int and told == names else found


def read_origin(path: str | os.PathLike[str]) -> Origin:
    """Reads the metadata, which may come from anywhere.

    Raises:
        ModelError: The file or its metadata is damaged, or the file is a quantised model, which needs its float model.
    """
    said = read_metadata(path)
    if not said:
        return Origin()
    if said.get("precision") != "fp32":
        raise ModelError(
            f"{Path(path)}: expected a float model, got the {str(said.get('precision'))[:20]} model of "
            f"{str(said.get('name'))[:80]!r}; import its float model and add this one (edgedet.bundle.add_model)"
        )
    names, ids = _of(said, "classes", list, path), _of(said, "category_ids", list, path)
    licence = _of(said, "licence", dict, path)
    if not (
        all(isinstance(name, str) for name in names)
        and all(type(number) is int for number in ids)
        and all(isinstance(text, str) for text in licence.values())
    ):
        raise _wrong(path, "values of the kinds that model.json has", "others")
    try:
        image, labels = read_input(said.get("input")), Labels(tuple(names), tuple(ids))
    except InvalidInputError as error:
        raise ModelError(f"{Path(path)}: {error}; its metadata is damaged, export the model again") from None
    return Origin(
        name=_of(said, "name", str, path),
        labels=labels,
        input=image,
        head=_of(said, "output", dict, path),
        licence=licence,
    )


def _of(said: Mapping[str, Any], key: str, kind: type, path: str | os.PathLike[str]) -> Any:
    value = said.get(key)
    if not isinstance(value, kind):
        raise _wrong(path, f"{PREFIX}{key} to be a {kind.__name__}", type(value).__name__)
    return value


def _wrong(path: str | os.PathLike[str], expected: str, got: str) -> ModelError:
    return ModelError(f"{Path(path)}: expected {expected} in its metadata, got {got}; export the model again")

"""The bundle that an ONNX file came out of, as its metadata tells it: what an import need not be told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgedet._core import ModelError
from edgedet.bundle import InputSpec, LabelsBoxesScores, LogitsBoxes
from edgedet.labels import Labels
from edgedet.onnx_metadata import PREFIX, read_metadata

_FROM_GRAPH = ("name", "width", "height")  # keys of "input" that the graph decides


@dataclass(frozen=True)
class Origin:
    """What is known of a file; empty of one that was never in a bundle.

    Attributes:
        name: Of the model.
        labels: Its classes.
        size: Width and height of the network input.
        preprocessing: The other fields of InputSpec, as far as they are told.
        head: "output" of model.json.
        licence: Of "weights" and "data".
    """

    name: str | None = None
    labels: Labels | None = None
    size: tuple[int, int] | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    licence: Mapping[str, str] = field(default_factory=dict)

    def output(self, found: LogitsBoxes | LabelsBoxesScores) -> LogitsBoxes | LabelsBoxesScores:
        """What the graph says of its head, with the bundle's number of rows if it is the same head."""
        top_k = self.head.get("top_k")
        told = {key: value for key, value in self.head.items() if key not in ("form", "top_k")}
        names = {key: value for key, value in asdict(found).items() if key != "top_k" and value is not None}
        return replace(found, top_k=top_k) if type(top_k) is int and told == names else found


def read_origin(path: str | os.PathLike[str]) -> Origin:
    """Reads the metadata. Ranges are left to the reader of bundles, which sees everything that is written.

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
    image, head = _of(said, "input", dict, path), _of(said, "output", dict, path)
    licence = _of(said, "licence", dict, path)
    names, ids = _of(said, "classes", list, path), _of(said, "category_ids", list, path)
    known = {one.name for one in fields(InputSpec)}
    size = (image.get("width"), image.get("height"))
    good = (
        all(isinstance(name, str) for name in names)
        and all(type(number) is int for number in ids)
        and all(type(side) is int for side in size)
        and all(isinstance(text, str) for text in licence.values())
        and all(_plain(value) for value in image.values())
    )
    if not good:
        raise _wrong(path, "values of the kinds that model.json has", "others")
    return Origin(
        name=_of(said, "name", str, path),
        labels=Labels(tuple(names), tuple(ids)),
        size=size,
        preprocessing={
            key: tuple(value) if isinstance(value, list) else value
            for key, value in image.items()
            if key in known and key not in _FROM_GRAPH
        },
        head=head,
        licence=licence,
    )


def _of(said: Mapping[str, Any], key: str, kind: type, path: str | os.PathLike[str]) -> Any:
    value = said.get(key)
    if not isinstance(value, kind):
        raise _wrong(path, f"{PREFIX}{key} to be a {kind.__name__}", type(value).__name__)
    return value


def _plain(value: object) -> bool:
    """Whether a value is text or a number, or a list of three numbers."""
    if isinstance(value, list):
        return len(value) == 3 and all(isinstance(one, (int, float)) for one in value)
    return isinstance(value, (str, int, float))


def _wrong(path: str | os.PathLike[str], expected: str, got: str) -> ModelError:
    return ModelError(f"{Path(path)}: expected {expected} in its metadata, got {got}; export the model again")

"""What is measured: the networks, the files that are made of each, and the folder in which they travel.

FOLDER/prepared.json            what `prepare` made, of what, by what versions
FOLDER/NAME/bundle/             the bundle; of a network of random weights without the weights, see `thin`
FOLDER/NAME/typed/              the same, INT8 with the rest in half precision: for TensorRT 10 and newer
FOLDER/NAME/reference.npz       what onnxruntime detects on the labelled images, of a network of trained weights
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from benchmarks.tensorrt.thin import restore
from edgedet import InvalidInputError
from edgedet.bundle import Precision

FORMAT = 1
PREPARED = "prepared.json"
CARRIED_AT_A_TIME = 64 * 2**20  # bytes that a device machine may take in one go

Variant = Literal["fp32", "fp16", "int8", "int8+fp16", "int8 calibrator"]
VARIANTS: tuple[Variant, ...] = ("fp32", "fp16", "int8", "int8+fp16", "int8 calibrator")


@dataclass(frozen=True)
class Model:
    """A network of the zoo. trained: with published weights, so that its AP means something."""

    name: str
    trained: bool


MODELS = (
    Model("femto", trained=True),
    Model("atto", trained=True),
    Model("rtdetrv2-r18", trained=False),
    Model("dfine-s", trained=False),
)
TRAINED = tuple(model.name for model in MODELS if model.trained)


@dataclass(frozen=True)
class Engine:
    """A network in one of its precisions, with the batch sizes that it is built for, 1 to `batch`."""

    model: str
    variant: Variant
    batch: int = 1

    @property
    def key(self) -> str:
        return f"{self.model} {self.variant}" + (f" batch {self.batch}" if self.batch > 1 else "")

    @property
    def precision(self) -> Precision:
        """As the bundle names it."""
        return cast(Precision, self.variant.partition("+")[0].partition(" ")[0])


@dataclass(frozen=True)
class Prepared:
    """A folder of `prepare`, and where networks of random weights get them back."""

    folder: Path
    work: Path
    document: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(model.name for model in MODELS if model.name in self.document["models"])

    def facts(self, name: str) -> dict[str, Any]:
        """What `prepare` noted of a network."""
        found: dict[str, Any] = self.document["models"][name]
        return found

    def bundle(self, engine: Engine) -> Path:
        """The bundle that an engine is built from, whole."""
        folder = self.folder / engine.model / ("typed" if engine.variant == "int8+fp16" else "bundle")
        if self.facts(engine.model)["trained"]:
            return folder
        return restore(folder, self.work / "restored" / engine.model / folder.name)

    def reference(self, name: str) -> Path:
        return self.folder / name / "reference.npz"


def open_prepared(folder: Path, work: Path) -> Prepared:
    """Reads FOLDER/prepared.json.

    Raises:
        InvalidInputError: there is none, or one of another form.
    """
    file = folder / PREPARED
    remedy = "run `python -m benchmarks.tensorrt prepare --models DIR --images DIR --annotations FILE ... --out` first"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["format"] == FORMAT and isinstance(document["models"], dict):
            return Prepared(folder, work, document)
        found = f"format {document['format']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}"
    raise InvalidInputError(f"{file}: expected what `prepare` writes, got {found}; {remedy}")


def folder_bytes(folder: Path) -> int:
    """Of all files below it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

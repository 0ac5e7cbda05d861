"""Where everything lies between commands: one folder a model, one folder a contender in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.quantisers.contenders import Contender
from calibration.inputs import float_model
from calibration.sampling import Sample, read_sample
from edgedet import InvalidInputError
from edgedet.bundle import load_model_json
from edgedet.files import write_atomically

BACKEND = "openvino"


@dataclass(frozen=True)
class Subject:
    """A model that is quantised by all: a bundle with its float model, its calibration set and our INT8 model.

    Attributes:
        name: short name, as on the command line.
        bundle: the bundle.
        folder: where its files go.
    """

    name: str
    bundle: Path
    folder: Path

    @cached_property
    def spec(self) -> dict[str, Any]:
        """model.json of the bundle."""
        return load_model_json(self.bundle)

    @cached_property
    def sample(self) -> Sample:
        """The calibration set, which all get."""
        return read_sample(self.bundle)

    @property
    def float_file(self) -> Path:
        """The float model, which all get."""
        return self.bundle / float_model(self.spec, BACKEND)

    @property
    def our_file(self) -> Path | None:
        """Our INT8 model, None where the bundle has none."""
        file = self.spec["models"].get("int8", {}).get(BACKEND)
        return self.bundle / file if file else None

    @property
    def inputs(self) -> Path:
        """The calibration images as the network sees them, (N, 3, H, W) float32."""
        return self.folder / "calibration.npy"

    def of(self, contender: Contender) -> Path:
        """Folder of a contender."""
        return self.folder / contender.key

    def model(self, contender: Contender) -> Path | None:
        """The file a contender made, None where it made none."""
        names = ("model.onnx", "model.xml")
        return next((self.of(contender) / name for name in names if (self.of(contender) / name).is_file()), None)


def calibration_digest(sample: Sample) -> str:
    """One digest for a calibration set: of the digests of its images, in their order."""
    return hashlib.sha256("\n".join(image.sha256 for image in sample.images).encode()).hexdigest()


def same_sample(subjects: Iterable[Subject]) -> str:
    """The digest of the one calibration set of all subjects.

    Raises:
        InvalidInputError: their sets differ.
    """
    digests = [(subject.name, calibration_digest(subject.sample)) for subject in subjects]
    if len({digest for _, digest in digests}) != 1:
        found = ", ".join(f"{name} {digest[:12]}" for name, digest in digests)
        raise InvalidInputError(
            f"expected one calibration set in all bundles, got {found}; run `sample` with the same seed for all"
        )
    return digests[0][1]


def file_digest(model: Path) -> str:
    """SHA-256 of a model: of an ONNX file, or of an OpenVINO model's two files one after the other."""
    digest = hashlib.sha256(model.read_bytes())
    if model.suffix == ".xml":
        digest.update(model.with_suffix(".bin").read_bytes())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())

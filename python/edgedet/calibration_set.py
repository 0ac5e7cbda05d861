"""The record of a calibration set: which images, why these, and proof that they are still the same files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgedet._core import InvalidInputError, preprocess
from edgedet.bundle import sha256_of
from edgedet.images import read_image

FORMAT: Final = "edgedet.calibration"
VERSION: Final = 1


@dataclass(frozen=True)
class SampledImage:
    """One image of the set.

    Attributes:
        file: name relative to the folder.
        sha256: of the file.
        width: pixels, as it is shown.
        height: the same.
        reason: why it was chosen; empty in records of before there were reasons.
    """

    file: str
    sha256: str
    width: int
    height: int
    reason: str = ""

    def __post_init__(self) -> None:
        """Check the types: the record is a file that anyone can edit."""
        texts, sizes = (self.file, self.sha256, self.reason), (self.width, self.height)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(size, int) for size in sizes):
            raise TypeError(f"expected names and sizes of an image, got {self}")


@dataclass(frozen=True)
class RefusedImage:
    """A candidate that was looked at and cannot be used."""

    file: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """A recorded calibration set.

    Attributes:
        directory: folder of the images, as it was given.
        strategy: how the images were chosen.
        seed: seed of the choice.
        candidates: number of images there were to choose from.
        images: the set, in the order chosen.
        refused: looked at and not usable, with reasons.
    """

    directory: str
    strategy: str
    seed: int
    candidates: int
    images: tuple[SampledImage, ...]
    refused: tuple[RefusedImage, ...]

    def to_json(self) -> dict[str, object]:
        """Plain values for calibration.json."""
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> Sample:
        """Read back what `to_json` wrote.

        Raises:
            InvalidInputError: the record is not one.
        """
        if not isinstance(value, dict):
            raise InvalidInputError("calibration.json: expected a recorded sample, got none; run `sample` first")
        try:
            return Sample(
                directory=str(value["directory"]),
                strategy=str(value["strategy"]),
                seed=int(value["seed"]),
                candidates=int(value["candidates"]),
                images=tuple(SampledImage(**entry) for entry in value["images"]),
                refused=tuple(RefusedImage(**entry) for entry in value["refused"]),
            )
        except (KeyError, TypeError, ValueError) as cause:
            raise InvalidInputError(f"calibration.json: damaged sample ({cause}); run `sample` again") from cause


def sha256(path: Path) -> str:
    """Hex digest of a file's contents.

    Raises:
        InvalidInputError: the file cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as cause:
        raise InvalidInputError(f"{path}: expected a readable file, got: {cause.strerror}; check the path") from cause


def read_checked(directory: Path, image: SampledImage) -> npt.NDArray[np.uint8]:
    """Decode an image of the set after checking that the file is the one recorded.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InvalidInputError: the file is missing or has other contents.
    """
    path = directory / image.file
    digest = sha256(path)
    if digest != image.sha256:
        raise InvalidInputError(
            f"{path}: expected sha256 {image.sha256[:12]}…, got {digest[:12]}…; the calibration image was changed, "
            "run `sample` again"
        )
    return read_image(path)


def read_sample(bundle: Path) -> Sample:
    """The set recorded in a bundle's calibration.json.

    Raises:
        InvalidInputError: there is none or it is damaged.
    """
    return Sample.from_json(read_record(bundle).get("sample"))


def read_record(bundle: Path) -> dict[str, object]:
    """calibration.json of a bundle, empty where it has none.

    Raises:
        InvalidInputError: the file is not a record of this version.
    """
    path = bundle / "calibration.json"
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as cause:
        raise InvalidInputError(f"{path}: expected JSON, got: {cause}; run `sample` again") from cause
    if not isinstance(record, dict) or record.get("format") != FORMAT or record.get("version") != VERSION:
        raise InvalidInputError(f"{path}: expected {FORMAT} version {VERSION}, got something else; run `sample` again")
    return record


def network_input(image: npt.NDArray[np.uint8], spec: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """The runtime's own preprocessing of an (H, W, 3) RGB image: (3, height, width) float32."""
    how = spec["input"]
    tensor: npt.NDArray[np.float32] = preprocess(
        image,
        width=how["width"],
        height=how["height"],
        resize=how["resize"],
        filter=how["filter"],
        channels=how["channels"],
        mean=tuple(how["mean"]),
        std=tuple(how["std"]),
        pad_value=how["pad_value"],
    )
    return tensor


class CalibrationFeed:
    """The recorded images of a bundle as a calibrator takes them, read when they are asked for.

    Attributes:
        digest: of the images and how they are prepared.
        count: number of images.
    """

    def __init__(self, bundle: Path, spec: Mapping[str, Any], folder: Path | None) -> None:
        """Reads the record.

        folder: of the images, where it is not the recorded one.

        Raises:
            InvalidInputError: there is no record or it is damaged.
        """
        sample = read_sample(bundle)
        self._spec = spec
        self._folder = folder or Path(sample.directory)
        self._left = iter(sample.images)
        self.count = len(sample.images)
        content = {"images": [image.sha256 for image in sample.images], "input": spec["input"]}
        self.digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __call__(self, values: int) -> npt.NDArray[np.float32] | None:
        """The next batch, (N, 3, height, width) float32 of ``values`` numbers; None if fewer images are left.

        Raises:
            InvalidInputError: a file is missing or was changed, or the network's input is not that of model.json.
        """
        how = self._spec["input"]
        batch, rest = divmod(values, 3 * how["height"] * how["width"])
        if rest:
            raise InvalidInputError(
                f"expected a network with input {how['width']}x{how['height']} as in model.json, got one whose input "
                f"has {values} values; correct the size in model.json"
            )
        images = list(islice(self._left, batch))
        if len(images) < batch:
            return None
        return np.stack([network_input(read_checked(self._folder, image), self._spec) for image in images])

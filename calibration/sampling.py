"""Calibration sets: which images, why these, and proof that they are still the same files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edgedet import Error, InvalidInputError, read_image
from edgedet.bundle import sha256_of
from edgedet.coco_eval import load_annotations
from edgedet.images import find_images

Strategy = Literal["random"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class SampledImage:
    """One image of the set: file name relative to the folder, sha256 of the file, size in pixels as it is shown."""

    file: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class RefusedImage:
    """A candidate that was drawn and not taken."""

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
        images: the set, in the order drawn.
        refused: drawn and not taken, with reasons.
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


def draw(
    directory: Path,
    *,
    count: int,
    seed: int,
    strategy: Strategy = "random",
    annotations: Path | None = None,
    exclude: Sequence[str] = (),
    advance: Callable[[int], None] = lambda images: None,
) -> Sample:
    """Choose `count` images of a folder.

    Every image is decoded once, so that a broken file is found now. A broken file, a copy of a file already in the set
    and a file of the evaluation set are passed over, recorded with the reason, and replaced by the next one drawn.

    Args:
        directory: folder of images.
        count: number wanted, >= 1.
        seed: the same seed over the same files gives the same set.
        strategy: `random`, uniform without repeats.
        annotations: COCO file; only images it lists are candidates.
        exclude: sha256 digests of evaluation images.
        advance: told each image taken.

    Raises:
        InvalidInputError: fewer than `count` usable images; the message counts the reasons.
        ImageError: the folder holds no image.
    """
    if count < 1:
        raise InvalidInputError(f"expected a count >= 1, got {count}")
    if strategy not in STRATEGIES:
        raise InvalidInputError(f"expected a strategy of {', '.join(STRATEGIES)}, got '{strategy}'")
    names = _candidates(directory, annotations)
    order = np.random.default_rng(seed).permutation(len(names))
    evaluation = set(exclude)
    taken: list[SampledImage] = []
    refused: list[RefusedImage] = []
    digests: dict[str, str] = {}
    for position in order:
        if len(taken) == count:
            break
        name = names[position]
        path = directory / name
        try:
            digest = sha256(path)
            if digest in evaluation:
                refused.append(RefusedImage(name, "is an evaluation image"))
                continue
            if digest in digests:
                refused.append(RefusedImage(name, f"is a copy of {digests[digest]}"))
                continue
            height, width = read_image(path).shape[:2]
        except Error as cause:
            refused.append(RefusedImage(name, str(cause)))
            continue
        digests[digest] = name
        taken.append(SampledImage(name, digest, width, height))
        advance(1)
    if len(taken) < count:
        first = f", the first: {refused[0].file}: {refused[0].reason}" if refused else ""
        raise InvalidInputError(
            f"expected {count} usable images in {directory}, got {len(taken)} of {len(names)} "
            f"({len(refused)} refused{first}); ask for fewer or add images"
        )
    return Sample(str(directory), strategy, seed, len(names), tuple(taken), tuple(refused))


def evaluation_digests(source: Path) -> set[str]:
    """Digests of the images that must stay out of the set.

    Args:
        source: a folder of images, or a COCO annotation file with its images beside it or in `images/` beside it.

    Raises:
        InvalidInputError: neither, or the images of the annotation file are not there.
    """
    if source.is_dir():
        paths = find_images(source)
    else:
        dataset = load_annotations(source)
        folders = [source.parent, source.parent / "images"]
        first = dataset.images[0].file_name
        folder = next((folder for folder in folders if (folder / first).is_file()), None)
        if folder is None:
            raise InvalidInputError(
                f"{source}: expected its images beside it or in images/, got no '{first}' there; "
                "name their folder instead"
            )
        paths = [folder / image.file_name for image in dataset.images]
    with ThreadPoolExecutor(max_workers=2) as pool:
        return set(pool.map(sha256, paths))


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


def contact_sheet(directory: Path, sample: Sample, target: Path, *, columns: int = 10, side: int = 96) -> None:
    """Write a picture of the whole set, one `side` x `side` tile per image in the order drawn.

    Raises:
        InvalidInputError: an image changed since it was sampled, or `target` cannot be written.
    """
    from PIL import Image

    rows = -(-len(sample.images) // columns)
    sheet = Image.new("RGB", (min(columns, len(sample.images)) * side, rows * side), (32, 32, 32))
    for position, image in enumerate(sample.images):
        tile = Image.fromarray(read_checked(directory, image))
        tile.thumbnail((side - 2, side - 2))
        row, column = divmod(position, columns)
        sheet.paste(tile, (column * side + (side - tile.width) // 2, row * side + (side - tile.height) // 2))
    try:
        sheet.save(target, format="PNG")
    except OSError as cause:
        raise InvalidInputError(f"{target}: cannot be written ({cause.strerror}); choose another file") from cause


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


FORMAT = "edgedet.calibration"
VERSION = 1


def _candidates(directory: Path, annotations: Path | None) -> list[str]:
    if annotations is None:
        return [path.name for path in find_images(directory)]
    listed = sorted({image.file_name for image in load_annotations(annotations).images})
    present = [name for name in listed if (directory / name).is_file()]
    if not present:
        raise InvalidInputError(
            f"{annotations}: expected its images in {directory}, got none of {len(listed)} there; check --images"
        )
    return present

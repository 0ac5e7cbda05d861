"""Ultralytics datasets: a data.yaml that names classes and folders, and one txt of boxes per image."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedet import ImageError, InvalidInputError
from edgedet.images import SUFFIXES, ImageHeader, read_header
from training.data.coco import SPLIT_NAMES
from training.data.dataset import Categories, CocoDataset, Finding, OnFinding, SplitBuilder, refuse_errors, some

_MAX_YAML_BYTES = 4 << 20  # the names of a thousand classes take a hundredth of it
# Coordinates are fractions of the image. A box may stick out, but numbers beyond these are pixels by mistake.
_LEAST, _MOST = -1.0, 2.0


@dataclass(frozen=True)
class YoloSplit:
    """Where one split is, as a data.yaml says it.

    images: folders of images, and txt lists of images. pose: the rows go on with keypoints after the box.
    """

    name: str
    file: Path
    categories: Categories
    images: tuple[Path, ...]
    pose: bool


def find_yaml(root: Path) -> Path | None:
    """The data.yaml of a folder, under another name if it is the only yaml there; None if there is none."""
    files = sorted(path for path in root.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())
    named = [path for path in files if path.stem == "data"]
    if len(files) > 1 and len(named) != 1:
        raise InvalidInputError(
            f"{root}: expected one data.yaml, got {some(files)}; name the file instead of its folder"
        )
    return next(iter(named or files), None)


def read_yaml(file: Path) -> dict[str, YoloSplit]:
    """The splits that a data.yaml names: train, val, test.

    Folders are looked for from `path` (from the yaml's folder if there is none), from the yaml's folder, and without a
    leading `../`, which Roboflow writes one level too high. Class ids may have gaps.
    Raises InvalidInputError for what is not such a file, folders that do not exist, and classes that contradict `nc`.
    """
    content = _parsed(file)
    categories = _categories(content, file)
    splits = {}
    for split, names in SPLIT_NAMES.items():
        entry = next((content[name] for name in names if content.get(name)), None)
        if entry is not None:
            entries = entry if isinstance(entry, list) else [entry]
            images = tuple(_place(file, content.get("path"), each, split) for each in entries)
            splits[split] = YoloSplit(split, file, categories, images, pose="kpt_shape" in content)
    if not splits:
        raise InvalidInputError(f"{file}: expected train and val with the folders of the images, got neither")
    return splits


def load_yolo(
    split: YoloSplit, *, categories: Categories | None = None, on_finding: OnFinding = refuse_errors
) -> CocoDataset:
    """Reads one split.

    A row is `class x y width height`, centre and size in [0, 1] of the image as shown; or `class x1 y1 x2 y2 x3 y3 …`,
    a polygon, of which the surrounding box is taken. Boxes are clipped to their image, those of no area dropped. An
    image whose txt is empty or missing has no boxes. The txt of .../images/a/b.jpg is .../labels/a/b.txt.

    categories, on_finding: as in `load_coco`.
    Raises InvalidInputError, naming file and line, for rows of another form, ids that are not listed, and images whose
    header cannot be read.
    """
    where = f"{split.file} ({split.name})"
    own = split.categories
    if categories is not None and own.names != categories.names:
        raise InvalidInputError(
            f"{split.file}: expected the classes {some(categories.names)}, got {some(own.names)}; "
            f"use the data.yaml that the weights were trained with"
        )
    files = list(dict.fromkeys(file for place in split.images for file in _images_of(place)))
    if not files:
        raise InvalidInputError(f"{where}: expected images in {some(split.images)}, got none; check the paths")
    builder = SplitBuilder(own, where, on_finding)
    if own.ids != tuple(range(len(own.ids))):
        text = f"{split.file}: class ids {some(own.ids)} have gaps; they become labels 0 to {len(own.ids) - 1}"
        on_finding(Finding("note", "category-gaps", text))
    label_of = {number: label for label, number in enumerate(own.ids)}
    for image_id, (file, header) in enumerate(zip(files, _headers(files), strict=True), start=1):
        with builder.entry("broken-image"):
            if isinstance(header, ImageError):
                raise InvalidInputError(str(header)) from header
            builder.add_image(image_id, file, header.width, header.height, at=str(file))
            labels = label_file(file)
            rows: list[tuple[int, str]] = []
            with builder.entry("label-file"):
                rows = _rows(labels)
            for number, row in rows:
                at = f"{labels}:{number}"
                with builder.entry("label-row"):
                    label, (x, y, w, h) = _row(row, label_of, pose=split.pose, at=at)
                    pixels = (x * header.width, y * header.height, w * header.width, h * header.height)
                    builder.add_box(image_id, label, pixels, at=at)
    return builder.build()


def label_file(image: Path) -> Path:
    """Where the boxes of an image are: the last `images` folder of its path is `labels`, and the ending txt."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def is_image(path: Path) -> bool:
    """Whether a file has the name of an image; hidden ones, such as what macOS adds to archives, are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _parsed(file: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        size = file.stat().st_size
        if size > _MAX_YAML_BYTES:
            raise InvalidInputError(f"{file}: expected a data.yaml of a few kilobytes, got {size} bytes")
        # BaseLoader makes texts of all values: a class may be called "no" or 007, and nothing is ever run.
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise InvalidInputError(f"{file}: cannot be read ({error.strerror}); check the path and its rights") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file}: expected UTF-8 text, got byte {error.start} that is not") from error
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise InvalidInputError(f"{file}: expected yaml, got broken text ({problem})") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{file}: expected a mapping with train, val and names, got a {type(content).__name__}")
    return content


def _categories(content: dict[str, Any], file: Path) -> Categories:
    names, count = content.get("names"), content.get("nc")
    if count is not None and not (isinstance(count, str) and count.isascii() and count.isdigit() and int(count) > 0):
        raise InvalidInputError(f"{file}: expected nc, the number of classes, got {reprlib.repr(count)}")
    if names is None and count is not None:
        names = [f"class_{number}" for number in range(int(count))]
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) and name for name in names.values()):
        raise InvalidInputError(
            f"{file}: expected names, a list of class names or a mapping of ids to them, got {reprlib.repr(names)}"
        )
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() for key in names):
        raise InvalidInputError(
            f"{file}: expected class ids from 0 in names, got {some([reprlib.repr(name) for name in names])}"
        )
    if count is not None and int(count) != len(names):
        raise InvalidInputError(
            f"{file}: expected nc names, got nc {count} and {len(names)} names; correct one of them"
        )
    ids = sorted(int(key) for key in names)
    return Categories(names=tuple(names[str(number)] for number in ids), ids=tuple(ids))


def _place(file: Path, root: object, entry: object, split: str) -> Path:
    """Where an entry of train, val or test leads: a folder of images or a txt that lists them."""
    if not isinstance(entry, str) or not isinstance(root, str | None):
        raise InvalidInputError(
            f"{file}: expected folders or txt files under path and {split}, got {reprlib.repr([root, entry])}"
        )
    bases = [file.parent / (root or ""), file.parent]
    names = [entry, entry.removeprefix("../")]
    tried = list(dict.fromkeys(base / name for name in names for base in bases))
    for place in tried:
        if os.path.isdir(place) or (os.path.isfile(place) and place.suffix == ".txt"):
            return Path(os.path.normpath(place))
    raise InvalidInputError(
        f"{file}: expected the images of {split} at {some(tried)}, got no such folder or txt; "
        f"correct {split}, or path, to lead there from the folder of the yaml"
    )


def _images_of(place: Path) -> list[Path]:
    """The images of a folder, sub-folders included, or those that a txt lists; sorted by path."""
    if os.path.isdir(place):
        return sorted(path for path in place.rglob("*") if is_image(path))
    lines = (line.strip() for line in place.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
    return sorted({Path(os.path.normpath(place.parent / line)) for line in lines if line})


def _headers(files: Sequence[Path]) -> Iterator[ImageHeader | ImageError]:
    def header(file: Path) -> ImageHeader | ImageError:
        try:
            return read_header(file)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(thread_name_prefix="edgedet-headers") as pool:
        yield from pool.map(header, files)


def _rows(file: Path) -> list[tuple[int, str]]:
    """The lines of a txt that say something, with their numbers; none if there is no such file."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidInputError(f"{file}: cannot be read ({error.strerror}); check its rights") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file}: expected UTF-8 text, got byte {error.start} that is not") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _row(row: str, label_of: dict[int, int], *, pose: bool, at: str) -> tuple[int, tuple[float, float, float, float]]:
    """Label, and box as (left, top, width, height) in [0, 1], of one line."""
    try:
        number, *values = (float(part) for part in row.split())
    except ValueError:
        raise InvalidInputError(f"{at}: expected numbers, got {row[:80]!r}") from None
    polygon = len(values) >= 6 and len(values) % 2 == 0 and not pose
    if not polygon and len(values) != 4 and not (pose and len(values) > 4):
        raise InvalidInputError(
            f"{at}: expected class x y width height, or class and corners of a polygon, got {len(values) + 1} numbers"
        )
    if number not in label_of:
        raise InvalidInputError(
            f"{at}: expected a listed class id ({some(list(label_of))}), got {number:g}; correct the row or names"
        )
    values = values if polygon else values[:4]
    if not all(math.isfinite(value) and _LEAST <= value <= _MOST for value in values):
        raise InvalidInputError(
            f"{at}: expected fractions of the image in [0, 1], got {row[:80]!r}; divide pixels by its width and height"
        )
    if polygon:
        left, top, right, bottom = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
        return label_of[int(number)], (left, top, right - left, bottom - top)
    x, y, width, height = values
    return label_of[int(number)], (x - width / 2, y - height / 2, width, height)

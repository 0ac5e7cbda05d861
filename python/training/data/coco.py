"""COCO json datasets, read strictly: what can be repaired is repaired and counted, the rest is a precise error."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgedet import InvalidInputError
from training.data.dataset import (
    Categories,
    CocoDataset,
    Finding,
    OnFinding,
    SplitBuilder,
    refuse_errors,
    some,
)

#: What the splits are called in folder and file names. In each name a year may follow.
SPLIT_NAMES: Final = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}

_YEAR = "(?:[_-]?[0-9]+)?"
_ANY_SPLIT = f"(?:{'|'.join(name for names in SPLIT_NAMES.values() for name in reversed(names))}){_YEAR}"
_HUGE = 1e9  # pixels: more than any image has, and no overflow
_PROBED = 20  # images whose files are looked for to find out which folder they lie in


@dataclass(frozen=True)
class SplitPaths:
    """Where one split is: its json, and the folders in which its images may lie, the likeliest first."""

    annotations: Path
    images: tuple[Path, ...]


def find_splits(root: Path) -> dict[str, SplitPaths]:
    """The splits of a folder with COCO json, by their name: train, val, test; `all` for one json without a split.

    Layouts, of which the first that fits counts, for each split:

    * SPLIT/instances.json or SPLIT/_annotations.coco.json (Roboflow) or the only json in SPLIT/, with the images in
      SPLIT/images/ or SPLIT/;
    * annotations/instances_SPLIT.json or instances_SPLIT.json, with the images in SPLIT/, images/SPLIT/, images/ or
      beside the json.

    SPLIT may be called valid or validation and end in digits, as in train2017.
    Raises InvalidInputError where two files could be meant.
    """
    found = {}
    for split, names in SPLIT_NAMES.items():
        name = f"(?:{'|'.join(names)}){_YEAR}"
        inside = [file for folder in _matching(root, name) if (file := _json_in(folder))]
        files = [
            file
            for folder in (root / "annotations", root)
            for file in _matching(
                folder, rf"(?:instances|annotations)?[_.-]?{name}(?:[_.-](?:coco|annotations))*\.json"
            )
        ]
        if candidates := inside or files:
            found[split] = _split_of(_only(candidates, root, split))
    single = _json_in(root) or _json_in(root / "annotations")
    if not found and single is not None:
        found["all"] = _split_of(single)
    return found


def find_split(root: Path, split: str, *, annotations: Path | None = None) -> SplitPaths:
    """Finds one split of a dataset folder, see `find_splits`.

    annotations: another json file; its images are then looked for beside it, and where the layouts have them.
    Raises InvalidInputError if a part is missing.
    """
    if annotations is not None:
        if not annotations.is_file():
            raise InvalidInputError(
                f"dataset: expected COCO annotations at {annotations}, which is missing; check the path"
            )
        return _split_of(annotations)
    if not root.is_dir():
        raise InvalidInputError(f"dataset: expected a folder, got {root}, which does not exist; check the path")
    found = find_splits(root)
    if split not in found:
        raise InvalidInputError(
            f"dataset: expected COCO annotations at {root / split / 'instances.json'}, which is missing "
            f"(splits found: {', '.join(found) or 'none'}); lay the folder out as {split}/instances.json with "
            f"{split}/images/, or name the file with --{split}-json"
        )
    return found[split]


def read_categories(annotations: Path) -> Categories:
    """The classes of a COCO json, in ascending order of id. Raises InvalidInputError as `load_coco` does."""
    return _read_categories(_read_json(annotations), str(annotations))


def load_coco(
    paths: SplitPaths, *, categories: Categories | None = None, on_finding: OnFinding = refuse_errors
) -> CocoDataset:
    """Reads one split.

    Boxes are clipped to their image; boxes of no area are dropped; crowd regions are left out; images without boxes
    stay. Category ids are mapped to 0..classes-1 in ascending order of id.

    categories: the classes of the split that was trained on; this split must have boxes of no other ones.
    on_finding: told of every repair and error; if it returns after an error, the entry is left out.
    Raises InvalidInputError, naming the entry, for a missing or empty dataset, broken json, ill-typed entries, unknown
    or repeated ids, and image files that do not exist.
    """
    where = str(paths.annotations)
    content = _read_json(paths.annotations)
    annotations = _entries(content, "annotations", where)
    own = _read_categories(content, where)
    _check_gaps(own, where, on_finding)
    if categories is None:
        categories = own
    else:
        _check_same(own, categories, annotations, where)
    images = _entries(content, "images", where)
    if not images:
        raise InvalidInputError(f"{where}: expected at least one image, got none; check how the dataset was exported")

    folder = _image_folder(paths, images)
    split = SplitBuilder(categories, where, on_finding)
    for index, image in enumerate(images):
        at = f"{where}: images[{index}]"
        with split.entry("image-entry"):
            image_id = _integer(image, "id", at)
            width, height = _integer(image, "width", at), _integer(image, "height", at)
            # Annotation tools on Windows write the names with backslashes.
            name = _string(image, "file_name", at).replace("\\", "/")
            split.add_image(image_id, folder / name, width, height, at=at)
    split.check_files("images are looked for in images/ beside the json, beside it, and in the folders of the layout")

    label_of = {category_id: label for label, category_id in enumerate(categories.ids)}
    box_entry = split.entry("box-entry")
    for index, annotation in enumerate(annotations):
        at = f"{where}: annotations[{index}]"
        with box_entry:
            image_id = _integer(annotation, "image_id", at)
            category_id = _integer(annotation, "category_id", at)
            if category_id not in label_of:
                raise InvalidInputError(
                    f"{at}: expected a listed category id ({some(categories.ids)}), got {category_id}; "
                    f'add it to "categories" or correct the annotation'
                )
            crowd = bool(annotation.get("iscrowd", 0))
            split.add_box(image_id, label_of[category_id], _box(annotation, at), crowd=crowd, at=at)
    return split.build(paths.annotations)


def _matching(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder under a name that fits, sorted; nothing where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(pattern, path.name))


def _json_in(folder: Path) -> Path | None:
    """The json of a folder that holds one split: under a known name, or the only one."""
    for name in ("instances.json", "_annotations.coco.json"):
        if (folder / name).is_file():
            return folder / name
    files = _matching(folder, r".*\.json")
    return files[0] if len(files) == 1 else None


def _only(files: Sequence[Path], root: Path, split: str) -> Path:
    if len(files) > 1:
        raise InvalidInputError(
            f"{root}: expected one json for the {split} split, got {some(files)}; name the one you mean, "
            f"or move the others away"
        )
    return files[0]


def _split_of(annotations: Path) -> SplitPaths:
    """A json and where its images may lie."""
    beside = annotations.parent
    root = beside.parent if beside.name == "annotations" else beside
    match = re.search(rf"(?<![a-z]){_ANY_SPLIT}(?![a-z0-9])", annotations.stem)
    named = (root / match[0], root / "images" / match[0]) if match else ()
    return SplitPaths(annotations, (beside / "images", *named, root / "images", beside, root))


def _image_folder(paths: SplitPaths, images: Sequence[dict[str, Any]]) -> Path:
    """The folder that has the most of the first images; the first one if none has any."""
    names = [str(image.get("file_name", "")).replace("\\", "/") for image in images[:_PROBED]]
    return max(paths.images, key=lambda folder: sum(os.path.isfile(folder / name) for name in names if name))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"{file}: cannot be read ({error.strerror}); check the path and its rights") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file}: expected UTF-8 text, got byte {error.start} that is not") from error
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"{file}: expected json, got broken text at line {error.lineno} column {error.colno} ({error.msg}); "
            f"was the file cut short?"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists without end
        raise InvalidInputError(f"{file}: expected COCO json, got {error}") from error
    if not isinstance(content, dict):
        raise InvalidInputError(
            f"{file}: expected a COCO object with images, annotations and categories, got a {type(content).__name__}"
        )
    return content


def _entries(content: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        got = "nothing" if entries is None else f"a {type(entries).__name__}"
        raise InvalidInputError(f'{where}: expected a list of objects under "{key}", got {got}; is this COCO json?')
    return entries


def _integer(entry: dict[str, Any], key: str, at: str) -> int:
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(f'{at}: expected an integer "{key}", got {value!r}')
    return value


def _string(entry: dict[str, Any], key: str, at: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f'{at}: expected a text "{key}", got {value!r}')
    return value


def _read_categories(content: dict[str, Any], where: str) -> Categories:
    entries = _entries(content, "categories", where)
    return _without_groups(_categories(entries, where), entries, _entries(content, "annotations", where))


def _categories(entries: Sequence[dict[str, Any]], where: str) -> Categories:
    if not entries:
        raise InvalidInputError(f"{where}: expected at least one category, got none")
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        at = f"{where}: categories[{index}]"
        category_id = _integer(entry, "id", at)
        if category_id in names:
            raise InvalidInputError(f"{at}: expected unique category ids, got {category_id} again")
        names[category_id] = _string(entry, "name", at)
    ids = tuple(sorted(names))
    return Categories(names=tuple(names[category_id] for category_id in ids), ids=ids)


def _without_groups(own: Categories, entries: Sequence[dict[str, Any]], annotations: Sequence[Any]) -> Categories:
    """Leaves out categories that only group others: Roboflow exports list one, with id 0 and without annotations."""
    groups = [entry.get("supercategory") for entry in entries if entry.get("supercategory") != entry["name"]]
    used = _used(annotations)
    pairs = list(zip(own.names, own.ids, strict=True))
    kept = [(name, number) for name, number in pairs if name not in groups or number in used] or pairs
    return Categories(names=tuple(name for name, _ in kept), ids=tuple(number for _, number in kept))


def _check_gaps(own: Categories, where: str, on_finding: OnFinding) -> None:
    if own.ids[-1] - own.ids[0] >= len(own.ids):
        text = (
            f"{where}: category ids {own.ids[0]} to {own.ids[-1]} have gaps; they become labels 0 to {len(own.ids) - 1}"
        )
        on_finding(Finding("note", "category-gaps", text))


def _used(annotations: Sequence[dict[str, Any]]) -> set[float]:
    """The category ids of annotations; ill-typed ones are told where the boxes are read."""
    return {value for entry in annotations if isinstance(value := entry.get("category_id"), int | float)}


def _check_same(own: Categories, expected: Categories, annotations: Sequence[Any], where: str) -> None:
    if extra := sorted((set(own.ids) & _used(annotations)) - set(expected.ids)):
        raise InvalidInputError(
            f"{where}: expected the categories of the training split ({some(expected.ids)}), "
            f"got boxes of the further ids {some(extra)}; use the same categories in both files"
        )
    names = dict(zip(expected.ids, expected.names, strict=True))
    for category_id, name in zip(own.ids, own.names, strict=True):
        if names.get(category_id, name) != name:
            raise InvalidInputError(
                f"{where}: expected category {category_id} to be {names[category_id]!r} as in the training split, "
                f"got {name!r}; use the same categories in both files"
            )


def _box(annotation: dict[str, Any], at: str) -> tuple[float, float, float, float]:
    value = annotation.get("bbox")
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(isinstance(number, int | float) and abs(number) < _HUGE for number in value)
    ):
        raise InvalidInputError(f'{at}: expected "bbox" as four finite numbers [x, y, width, height], got {value!r}')
    x, y, width, height = (float(number) for number in value)
    return x, y, width, height

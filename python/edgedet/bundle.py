"""Writing bundles: the folder that is the unit of deployment, with model.json at its root.

What is valid is defined in one place, the reader of the compiled module (:func:`load_model_json`). Everything here
writes, then has that reader check the result. Files become visible whole or not at all: written beside their place,
flushed to disk, renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from edgedet import _core
from edgedet._core import BundleError
from edgedet.files import beside, flush, new_folder, write_atomically
from edgedet.onnx_metadata import copy_with_metadata

FORMAT: Final = "edgedet.bundle"
VERSION: Final = 1

#: Licence entry of a bundle whose maker did not say.
UNSTATED: Final = "not stated"

Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes network input: out = (pixel / 255 - mean) / std, NCHW.

    Attributes:
        width: Of the network input, pixels.
        height: Of the network input, pixels.
        name: The network's image input.
        resize: "stretch" or "letterbox" (aspect ratio kept, centred).
        filter: "bilinear" (two taps) or "antialias" (triangle filter, as Pillow and torchvision shrink).
        channels: "rgb" or "bgr", the order the network was trained with.
        mean: Per channel of the network, of pixels in [0, 1].
        std: Per channel of the network, of pixels in [0, 1].
        pad_value: Grey level of letterbox borders, 0..255.
    """

    width: int
    height: int
    name: str = "images"
    resize: Literal["stretch", "letterbox"] = "stretch"
    filter: Literal["bilinear", "antialias"] = "bilinear"
    channels: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad_value: int = 114


@dataclass(frozen=True)
class LogitsBoxes:
    """Names of the outputs of a raw head: logits (N, Q, C), boxes (N, Q, 4) cxcywh in [0, 1] of the network input."""

    logits: str = "logits"
    boxes: str = "boxes"
    top_k: int = 300


@dataclass(frozen=True)
class LabelsBoxesScores:
    """Names of the outputs of a post-processed head.

    labels (N, R) integers, boxes (N, R, 4) xyxy in pixels, scores (N, R) in [0, 1]. ``size_input`` names the second
    input of the RT-DETR lineage, (N, 2) width and height that boxes are scaled to; None if the network has none.
    """

    labels: str = "labels"
    boxes: str = "boxes"
    scores: str = "scores"
    top_k: int = 300
    size_input: str | None = None


def write_bundle(
    path: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    name: str,
    input: InputSpec,
    output: LogitsBoxes | LabelsBoxesScores,
    classes: Sequence[str],
    category_ids: Sequence[int] | None = None,
    licence: Mapping[str, str] | None = None,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Makes a bundle around a float ONNX model.

    Args:
        path: The bundle folder to make. Appears complete or not at all.
        model: The ONNX file, weights inside; it is copied, and its metadata says what model.json says.
        name: Of the model.
        input: How images become network input.
        output: The form of the head and the names of its outputs.
        classes: Name of each class, by label.
        category_ids: The dataset's id of each class, 1, 2, ... if not given.
        licence: Licences of "weights" and "data".
        overwrite: Replace a bundle that exists. A folder that is not a bundle is never replaced.
        check: Called with the finished folder before it moves to ``path``; what it raises stops the writing.

    Returns:
        ``path``.

    Raises:
        BundleError: ``path`` exists, the model is missing, or the bundle would not be valid.
        ModelError: The model is no ONNX file.
    """
    target = Path(path)
    source = Path(model)
    if not source.is_file():
        raise BundleError(f"{source}: expected an ONNX file, got nothing there; check the path")
    if target.exists() and not overwrite:
        raise BundleError(f"{target}: exists; choose another folder or allow overwriting")
    if target.exists() and not (target / "model.json").is_file():
        raise BundleError(f"{target}: exists and is not a bundle, so it is not overwritten; choose another folder")

    form = "logits_boxes" if isinstance(output, LogitsBoxes) else "labels_boxes_scores"
    outputs = {key: value for key, value in asdict(output).items() if value is not None}
    with new_folder(target) as staging:
        document: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "name": name,
            "input": asdict(input),
            "output": {"form": form, **outputs},
            "classes": list(classes),
            "category_ids": list(category_ids) if category_ids is not None else list(range(1, len(classes) + 1)),
            "models": {"fp32": {"*": "model.onnx"}},
            "best": {},
            "files": {},
            "licence": {"weights": UNSTATED, "data": UNSTATED, **(licence or {})},
        }
        copy_with_metadata(source, staging / "model.onnx", document, "fp32")
        flush(staging / "model.onnx")
        document["files"]["model.onnx"] = _fingerprint(staging / "model.onnx")
        _write_model_json(staging, document)
        try:
            load_model_json(staging)
            if check is not None:
                check(staging)
        except _core.Error as error:
            # The folder that the message names is about to go.
            raise type(error)(str(error).replace(str(staging), str(target))) from None
    return target


def copy_bundle(bundle: str | os.PathLike[str], target: Path, *, overwrite: bool = False) -> None:
    """Copies a bundle, and nothing else that its folder holds, and checks the copy. It appears complete or not at all.

    overwrite: Replace a bundle that exists. A folder that is not a bundle is never replaced.

    Raises:
        BundleError: It is damaged, the target exists, or it cannot be written.
    """
    if target.exists() and not (overwrite and (target / "model.json").is_file()):
        raise BundleError(f"{target}: exists; choose another folder, or allow overwriting if it is a bundle")
    spec = load_model_json(bundle)
    try:
        with new_folder(target) as staging:
            for name in ("model.json", *spec["files"]):
                shutil.copyfile(Path(bundle) / name, staging / name)
                flush(staging / name)
            load_model_json(staging)
    except OSError as error:
        raise BundleError(f"{target}: cannot be written ({error.strerror}); choose another folder") from None


def load_model_json(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks a bundle: version, keys, size and sha256 of every file.

    Returns:
        model.json with defaults filled in; see docs/bundles.md for its keys.

    Raises:
        BundleError: What is wrong, with what was expected.
    """
    return _core.load_spec(str(Path(bundle)))


def add_model(
    bundle: str | os.PathLike[str],
    precision: Precision,
    backend: str,
    path: str | os.PathLike[str],
) -> str:
    """Copies an ONNX file into a bundle as its model for one backend and precision, replacing an earlier one.

    Its metadata says what model.json says. A record that the replaced file was verified as best is removed: it was
    about that file.

    Args:
        bundle: The bundle folder.
        precision: "fp32", "bf16", "fp16" or "int8".
        backend: Name of a backend, or "*" for all of them.
        path: The ONNX file.

    Returns:
        Name of the file in the bundle.

    Raises:
        BundleError: The bundle is not valid or the file is missing.
        ModelError: It is no ONNX file.
    """
    folder = Path(bundle)
    parts = ["model", *([] if backend == "*" else [backend]), *([] if precision == "fp32" else [precision]), "onnx"]
    name = ".".join(parts)

    def change(document: dict[str, Any]) -> None:
        document["models"].setdefault(precision, {})[backend] = name
        _unprove(document, name)

    if not Path(path).is_file():
        raise BundleError(f"{path}: expected an ONNX file, got nothing there; check the path")
    document = _read_model_json(folder)
    _add_file(folder, name, lambda staging: copy_with_metadata(Path(path), staging, document, precision), change)
    return name


def name_model(bundle: str | os.PathLike[str], precision: Precision, backend: str, name: str) -> None:
    """Makes a file that a bundle has already its model of one more precision.

    OpenVINO runs a float32 file in a half type where the CPU has one: "bf16" and "fp16" are the float file again. A
    record that another file was verified as best is removed.

    Args:
        bundle: The bundle folder.
        precision: "fp32", "bf16", "fp16" or "int8".
        backend: Name of a backend, or "*" for all of them.
        name: Of a file in the bundle.

    Raises:
        BundleError: The bundle is not valid or has no such file.
    """
    folder = Path(bundle)
    document = _read_model_json(folder)
    if name not in document["files"]:
        raise BundleError(f"{folder}: expected one of {', '.join(document['files'])}, got '{name}'")
    files = document["models"].setdefault(precision, {})
    if document.get("best", {}).get(backend) == precision and files.get(backend, files.get("*")) != name:
        del document["best"][backend]
    files[backend] = name
    _write_model_json(folder, document)
    load_model_json(folder)


def add_json(bundle: str | os.PathLike[str], name: str, value: Mapping[str, Any]) -> None:
    """Writes a JSON document such as report.json or calibration.json into a bundle, replacing an earlier one.

    Raises:
        BundleError: The bundle is not valid.
        ValueError: ``value`` holds something JSON has no form for, NaN for one.
    """
    add_file(bundle, name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def add_file(bundle: str | os.PathLike[str], name: str, content: bytes) -> None:
    """Writes a file such as report.html into a bundle, replacing an earlier one.

    Raises:
        BundleError: The bundle is not valid or ``name`` is not a plain file name.
    """
    _add_file(Path(bundle), name, lambda staging: staging.write_bytes(content), lambda document: None)


def set_best(bundle: str | os.PathLike[str], backend: str, precision: Precision) -> None:
    """Records the precision that was verified as best on a backend; "auto" uses it from then on.

    Raises:
        BundleError: The bundle is not valid or has no such model.
    """
    folder = Path(bundle)
    document = _read_model_json(folder)
    have = document["models"].get(precision, {})
    if backend not in have and "*" not in have:
        raise BundleError(
            f"{folder}: expected a {precision} model for {backend}, got {_models_text(document)}; call add_model first",
        )
    document.setdefault("best", {})[backend] = precision
    _write_model_json(folder, document)
    load_model_json(folder)


def _models_text(document: Mapping[str, Any]) -> str:
    return ", ".join(f"{precision} for {', '.join(files)}" for precision, files in document["models"].items())


def _add_file(
    folder: Path,
    name: str,
    write: Callable[[Path], object],
    change: Callable[[dict[str, Any]], None],
) -> None:
    document = _read_model_json(folder)
    if Path(name).name != name or name in ("", "..", "model.json"):
        raise BundleError(
            f"expected a plain file name other than model.json, got {name!r}; a bundle has no sub-folders"
        )
    staging = beside(folder / name)
    try:
        write(staging)
        flush(staging)
        fingerprint = _fingerprint(staging)
        if document["files"].get(name) != fingerprint:
            if name in document["files"]:
                # A crash between the two renames below must not leave a file that contradicts its sha256.
                without = json.loads(json.dumps(document))
                _forget(without, name)
                _write_model_json(folder, without)
            document["files"][name] = fingerprint
            staging.replace(folder / name)
        change(document)
        _write_model_json(folder, document)
    finally:
        staging.unlink(missing_ok=True)
    load_model_json(folder)


def _unprove(document: dict[str, Any], name: str) -> None:
    """Drop every record that a precision is best whose model is this file."""
    best = document.get("best", {})
    for backend, precision in list(best.items()):
        files = document["models"].get(precision, {})
        if files.get(backend, files.get("*")) == name:
            del best[backend]


def _forget(document: dict[str, Any], name: str) -> None:
    _unprove(document, name)
    del document["files"][name]
    for precision, files in list(document["models"].items()):
        for backend in [backend for backend, file in files.items() if file == name]:
            del files[backend]
        if not files:
            del document["models"][precision]


def _read_model_json(folder: Path) -> dict[str, Any]:
    """The document as it is on disk, keys of newer writers kept, after the reader has found it valid."""
    load_model_json(folder)
    document: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return document


def _write_model_json(folder: Path, document: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    except ValueError:
        raise BundleError(f"{folder}: expected finite numbers in model.json, got NaN or infinity") from None
    write_atomically(folder / "model.json", text.encode())


def sha256_of(path: Path) -> str:
    """Hex digest of a file's contents. Raises OSError for a file that cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(path), "bytes": path.stat().st_size}

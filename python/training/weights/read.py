"""Tensors out of files whose origin is unknown: nothing is executed, and nothing grows beyond the file.

The format is recognised by content, never by the file's name:

    safetensors                      of this project (with a description in its metadata), DEIMv2, Hugging Face
    a PyTorch checkpoint             zip archive or the older bare pickle, read with `weights_only=True`
    a folder                         of Hugging Face: config.json and model.safetensors, also in shards

Names are left as the file has them; `names` and `huggingface` translate them.
"""

from __future__ import annotations

import json
import re
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgedet import InvalidInputError

MAX_BYTES = 4 << 30
_MAX_JSON_BYTES = 16 << 20
_MAX_TENSORS = 100_000
DESCRIPTION_KEY = "edgedet"  # the entry of a safetensors file's metadata that holds our description, as JSON

# Where checkpoints keep the state of their network: averaged weights are preferred, as evaluation prefers them.
_STATES = (("ema", "module"), ("ema",), ("model",), ("model_state_dict",), ("state_dict",), ())

# A random number generator's state, saved beside the weights by some trainers, is a NumPy array.
_ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "uint8", "uint32", "uint64", "float32", "float64")),
]
for _function, _name in ((np.zeros(1).__reduce__()[0], "_reconstruct"), (np.float64(1).__reduce__()[0], "scalar")):
    _ARRAYS += [(_function, f"numpy.{core}.multiarray.{_name}") for core in ("core", "_core")]


@dataclass(frozen=True)
class Stored:
    """What a file holds.

    tensors: by the file's own names. description: what `own.save_weights` was given, or None. config: of a Hugging
    Face folder, its config.json, or None. source: which state of a checkpoint was taken, in words; may be empty.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    description: Mapping[str, Any] | None = None
    config: Mapping[str, Any] | None = None
    source: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        """Shapes by name."""
        object.__setattr__(self, "shapes", {name: tuple(tensor.shape) for name, tensor in self.tensors.items()})


def read_weights(path: Path) -> Stored:
    """Reads a file or folder of weights.

    Raises InvalidInputError for a path that is not there, is no regular file, is of no known format, is damaged, wants
    code to be run, or holds more than its size can carry.
    """
    if path.is_dir():
        return _read_folder(path)
    return _read_checkpoint(path) if _is_checkpoint(_head(path)) else _read_safetensors(path)


def read_description(path: Path) -> dict[str, Any] | None:
    """What `own.save_weights` was given when it wrote the file, or None if something else wrote it.

    Raises InvalidInputError if there is no such file, or its metadata is damaged.
    """
    if path.is_dir() or _is_checkpoint(_head(path)):
        return None
    with _open(path) as handle:
        return _description(path, handle.metadata())


def _head(path: Path) -> bytes:
    """The first bytes of a regular file of an acceptable size."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInputError(f"{path}: expected a file or folder of weights, got something else; check the path")
        if status.st_size > MAX_BYTES:
            raise InvalidInputError(
                f"{path}: expected at most {MAX_BYTES} bytes, got {status.st_size}; this is no detector's file"
            )
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise InvalidInputError(
            f"{path}: expected a file or folder of weights, got none ({error.strerror}); check the path"
        ) from error


def _is_checkpoint(head: bytes) -> bool:
    """Whether a file is a zip archive or a pickle; safetensors may begin with the same byte, but its header is JSON."""
    return head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[8:9] != b"{")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(
            f"{path}: expected safetensors, a PyTorch checkpoint or a Hugging Face folder, got something else or a "
            f"damaged file ({error}); download it again, or convert it"
        ) from error


def _description(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any] | None:
    text = (metadata or {}).get(DESCRIPTION_KEY)
    if text is None:
        return None
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise InvalidInputError(
            f"{path}: expected a JSON object as metadata {DESCRIPTION_KEY!r}, got {text[:80]!r}; "
            "the file is damaged or not ours"
        )
    return description


def _read_safetensors(path: Path) -> Stored:
    with _open(path) as handle:
        description = _description(path, handle.metadata())
        names = list(handle.keys())
        _check_count(path, names)
        return Stored(path, {name: handle.get_tensor(name) for name in names}, description=description)


def _read_checkpoint(path: Path) -> Stored:
    archive = zipfile.is_zipfile(path)
    if archive:
        _check_archive(path)
    try:
        with torch.serialization.safe_globals(_ARRAYS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:
        # A damaged or hostile pickle raises whatever the part that is read last leads to.
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it wants to run {wanted[1]}" if wanted else f"{type(error).__name__}"
        raise InvalidInputError(
            f"{path}: expected a PyTorch checkpoint of tensors and plain values, got one that is damaged or holds "
            f"other things ({reason}); nothing was run. Download it again, or save its state_dict() alone"
        ) from None
    keys, state = _find_state(path, content)
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    if all(name.startswith("module.") for name in tensors):  # saved from within DistributedDataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    _check_tensors(path, tensors)
    return Stored(path, tensors, source=".".join(keys))


def _find_state(path: Path, content: object) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    for keys in _STATES:
        state = content
        for key in keys:
            state = state.get(key) if isinstance(state, Mapping) else None
        if isinstance(state, Mapping) and all(isinstance(name, str) for name in state):
            tensors = sum(isinstance(value, Tensor) for value in state.values())
            if tensors > len(state) / 2:
                return keys, state
    found = ", ".join(sorted(map(str, content))[:8]) if isinstance(content, Mapping) else type(content).__name__
    wanted = ", ".join(".".join(keys) for keys in _STATES if keys)
    raise InvalidInputError(
        f"{path}: expected a network's weights at one of {wanted} or at the top, got {found}; "
        "is this the checkpoint of a detector or backbone?"
    )


def _check_archive(path: Path) -> None:
    """Refuses archives with compressed entries: torch writes none, and one may unpack to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InvalidInputError(
            f"{path}: expected a PyTorch checkpoint, got a broken archive ({error}); download it again"
        ) from error
    if packed:
        raise InvalidInputError(
            f"{path}: expected an archive as torch.save writes it, got compressed entries such as {packed[0]!r}; "
            "unpack what you downloaded, or save it again with torch.save"
        )


def _check_count(path: Path, names: Iterable[str]) -> None:
    count = len(list(names))
    if not 0 < count <= _MAX_TENSORS:
        raise InvalidInputError(
            f"{path}: expected 1 to {_MAX_TENSORS} tensors, got {count}; is this a detector's or a backbone's file?"
        )


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors that are not plain arrays, or that repeat few stored values to a great size."""
    _check_count(path, tensors)
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise InvalidInputError(
                f"{path}: expected plain tensors, got {name} as {tensor.layout} {tensor.dtype} on {tensor.device}; "
                "save the network's float weights"
            )
        if tensor.numel() * tensor.element_size() > size:
            raise InvalidInputError(
                f"{path}: expected tensors no larger than the file ({size} bytes), got {name} of shape "
                f"{tuple(tensor.shape)}; the file is damaged or made to exhaust memory"
            )


def _read_folder(folder: Path) -> Stored:
    config = read_json(folder / "config.json")
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        files = [single]
    elif index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(
            isinstance(name, str) and Path(name).name == name for name in shards.values()
        ):
            raise InvalidInputError(
                f"{index}: expected weight_map with names of files beside it, got something else; download it again"
            )
        files = [folder / name for name in sorted(set(shards.values()))]
    else:
        raise InvalidInputError(
            f"{folder}: expected model.safetensors or its index beside config.json, got neither; "
            "save the model with save_pretrained(folder)"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        _head(file)
        tensors |= _read_safetensors(file).tensors
    return Stored(folder, tensors, config=config)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises InvalidInputError for anything else, for a file that is not there and for a huge one."""
    _head(file)
    try:
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"more than {_MAX_JSON_BYTES} bytes")
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{file}: expected JSON, got something else ({type(error).__name__}); download it again"
        ) from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{file}: expected a JSON object, got {type(content).__name__}; download it again")
    return content

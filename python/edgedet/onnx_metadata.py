"""What an ONNX file says of itself: keys of model.json in its metadata_props, as JSON, each behind "edgedet.".

So a network that is carried alone, or opened by another tool, still tells how images become its input and what its
outputs mean. Without the onnx package: the other fields of the file are copied as they are.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from edgedet._core import ModelError
from edgedet.protobuf import DamagedError, Field, fields, length_delimited, part, text

PREFIX: Final = "edgedet."
VERSION: Final = 1
#: Keys of model.json that a file carries.
KEYS: Final = ("name", "input", "output", "classes", "category_ids", "licence")

_DOC: Final = b"Object detector. Metadata edgedet.* says how images become its input and what its outputs mean."
_PRODUCER: Final = b"edgedet"
_PRODUCER_NAME, _DOC_STRING, _METADATA = 2, 6, 14  # fields of ModelProto
_MOST_FIELDS: Final = 100_000
_LONGEST: Final = 1 << 20  # bytes of all entries together


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The entries of a file that is or was in a bundle, by their keys without the prefix; empty for other files.

    Values are as JSON has them; whoever uses one checks its kind.

    Raises:
        ModelError: The file is missing or no ONNX file, or its entries are damaged, too large or of another version.
    """
    with _mapped(path) as content:
        entries = [entry for field in _top(content) if (entry := _entry(field)) is not None]
        if sum(len(value) for _, value in entries) > _LONGEST:
            raise DamagedError(f"its metadata {PREFIX}* has more than {_LONGEST} bytes")
        found = {key: _parsed(key, value) for key, value in entries}
        if found and found.get("version") != VERSION:
            raise DamagedError(f"its metadata is of version {str(found.get('version'))[:20]}, known is {VERSION}")
    return found


def copy_with_metadata(source: Path, target: Path, document: Mapping[str, Any], precision: str) -> None:
    """Copies an ONNX file with what model.json says of it instead of earlier entries. The same input, the same bytes.

    document: model.json. precision: of this file. Where the file names its producer and has a description, they stay.

    Raises:
        ModelError: The file is missing or no ONNX file.
    """
    with _mapped(source) as content, target.open("wb") as out:
        kept = [field for field in _top(content) if _entry(field) is None]
        for field in kept:
            out.write(field.whole)
        named = {field.number for field in kept if field.value}
        for number, value in ((_PRODUCER_NAME, _PRODUCER), (_DOC_STRING, _DOC)):
            if number not in named:
                out.write(length_delimited(number, value))
        said_of_it = {key: document[key] for key in KEYS if key in document}
        for key, said in {"version": VERSION, "precision": precision, **said_of_it}.items():
            pair = length_delimited(1, (PREFIX + key).encode())
            pair += length_delimited(2, json.dumps(said, ensure_ascii=False, sort_keys=True).encode())
            out.write(length_delimited(_METADATA, pair))


def _parsed(key: str, value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise DamagedError(f"its metadata {PREFIX}{key} is no JSON") from None


def _top(content: memoryview) -> Iterator[Field]:
    for index, field in enumerate(fields(content)):
        if index >= _MOST_FIELDS:
            raise DamagedError(f"it has more than {_MOST_FIELDS} parts")
        yield field


def _entry(field: Field) -> tuple[str, str] | None:
    """Key without the prefix and value, of a field that is an entry of ours."""
    if field.number != _METADATA or len(part(field.value)) > 2 * _LONGEST:
        return None
    pair = {inner.number: inner.value for inner in fields(part(field.value))}
    if not bytes(part(pair.get(1, _NOTHING))).startswith(PREFIX.encode()):
        return None
    return text(pair[1])[len(PREFIX) :], text(pair.get(2, _NOTHING), longest=2 * _LONGEST)


_NOTHING: Final = memoryview(b"")


@contextmanager
def _mapped(path: str | os.PathLike[str]) -> Iterator[memoryview]:
    """The bytes of a file. Inside, what is damaged becomes a ModelError with the file's name."""
    name = Path(path)
    try:
        with name.open("rb") as file:
            # Never closed by hand: parts of it are still held while an error is on its way.
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: expected an ONNX file, got: {error}") from None
    try:
        yield content
    except DamagedError as error:
        raise ModelError(
            f"{name}: expected an ONNX file, got one that is damaged or something else ({error}); export it again"
        ) from None

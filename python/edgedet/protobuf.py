"""The wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding), read without their package.

Files are hostile: every length is checked against what is there. Every function raises DamagedError for what it cannot
read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

_LONGEST_TEXT: Final = 4096  # bytes of a name


class DamagedError(ValueError):
    """What is wrong with a file, to be put behind its name."""


class Field(NamedTuple):
    """A field of a message. value: an integer of a varint, the bytes of everything else. whole: with key and length."""

    number: int
    value: int | memoryview
    whole: memoryview


def fields(view: memoryview) -> Iterator[Field]:
    """The fields of a message, in the order of the file."""
    at, end = 0, len(view)
    while at < end:
        start = at
        key, at = varint(view, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise DamagedError("a field has no number")
        if wire == 0:
            value, at = varint(view, at)
            yield Field(number, value, view[start:at])
            continue
        if wire == 2:
            size, at = varint(view, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise DamagedError(f"a field is of wire type {wire}")
        if size > end - at:
            raise DamagedError("it is cut off")
        yield Field(number, view[at : at + size], view[start : at + size])
        at += size


def varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number, and where the next thing starts."""
    value = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise DamagedError("it is cut off" if at >= len(view) else "a number is too long")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7


def part(value: int | memoryview) -> memoryview:
    """A field that is a message or text."""
    if isinstance(value, int):
        raise DamagedError("a number stands where a message is expected")
    return value


def signed(value: int | memoryview) -> int:
    """A field that is a number of type int32 or int64."""
    if not isinstance(value, int):
        raise DamagedError("a message stands where a number is expected")
    return value - (1 << 64) if value >> 63 else value


def text(value: int | memoryview, *, longest: int = _LONGEST_TEXT) -> str:
    """A field that is text, of at most `longest` bytes."""
    content = part(value)
    if len(content) > longest:
        raise DamagedError(f"a text has more than {longest} bytes")
    try:
        return bytes(content).decode()
    except UnicodeDecodeError:
        raise DamagedError("a text is not UTF-8") from None


def length_delimited(number: int, content: bytes) -> bytes:
    """A field that is a message or text, as it is written."""
    return _varint_bytes(number << 3 | 2) + _varint_bytes(len(content)) + content


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

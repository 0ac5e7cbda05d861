"""multipart/form-data (RFC 7578): files and fields of a body that is in memory as a whole."""

from __future__ import annotations

from typing import Any, NamedTuple

from edgedet.serve.refusal import RefusedError

_MAX_HEADERS = 16
_MAX_HEADER = 4096


class Form(NamedTuple):
    """The contents of each file, in order, and the fields by name."""

    files: list[bytes]
    fields: dict[str, str]


class _Collector:
    """What python-multipart calls."""

    def __init__(self, max_parts: int) -> None:
        self.files: list[bytes] = []
        self.fields: dict[str, str] = {}
        self._max_parts, self._parts = max_parts, 0
        self._header_name, self._header_value = bytearray(), bytearray()
        self._headers = 0
        self._disposition = b""
        self._data = bytearray()
        self.ended = False

    def part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._max_parts:
            raise RefusedError(
                413, "images", f"expected at most {self._max_parts} parts in a form, got more; send fewer"
            )
        self._headers, self._disposition, self._data = 0, b"", bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]
        self._check_header()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if self._headers >= _MAX_HEADERS or len(self._header_name) + len(self._header_value) > _MAX_HEADER:
            raise RefusedError(400, "malformed", "expected short headers in each part of the form, got long ones")

    def header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._headers += 1
        self._header_name.clear()
        self._header_value.clear()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def part_end(self) -> None:
        from python_multipart.multipart import parse_options_header

        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data":
            raise RefusedError(400, "malformed", "expected 'Content-Disposition: form-data' in each part of the form")
        if b"filename" in options:
            self.files.append(bytes(self._data))
            return
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if len(self._data) > _MAX_HEADER:
            raise RefusedError(
                400,
                "malformed",
                f"field {name!r}: expected a short value, got {len(self._data)} bytes; send images as files",
            )
        self.fields[name] = self._data.decode("utf-8", "replace")

    def end(self) -> None:
        self.ended = True


def read_form(body: bytes, boundary: bytes | None, max_parts: int) -> Form:
    """Takes a form apart.

    Args:
        body: All of it.
        boundary: From the Content-Type.
        max_parts: Files and fields together.

    Raises:
        RefusedError: It is not a form, is cut off, or has too many parts.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    if not boundary or len(boundary) > 70:  # RFC 2046, section 5.1.1
        raise RefusedError(400, "malformed", "expected a boundary of 1 to 70 letters in the Content-Type of the form")
    parts = _Collector(max_parts)
    callbacks: Any = {
        "on_part_begin": parts.part_begin,
        "on_header_field": parts.header_field,
        "on_header_value": parts.header_value,
        "on_header_end": parts.header_end,
        "on_part_data": parts.part_data,
        "on_part_end": parts.part_end,
        "on_end": parts.end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, "malformed", f"expected multipart/form-data, got something else: {error}") from None
    if not parts.ended:
        raise RefusedError(400, "malformed", "expected a whole form, got one that is cut off; send all of it")
    return Form(parts.files, parts.fields)


def boundary_of(content_type: str) -> tuple[str, bytes | None]:
    """The media type, lower case, and the boundary of a Content-Type."""
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(content_type)
    return kind.decode("latin-1").lower(), options.get(b"boundary")

"""How deep JSON is nested, found before it is parsed: a parser recurses."""

from __future__ import annotations

import re

_ESCAPES = re.compile(rb"\\.", re.DOTALL)
_STRINGS = re.compile(rb'"[^"]*"?')
_CLOSED = re.compile(rb"\[\]|\{\}")
_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))


def nested_deeper(text: bytes, limit: int) -> bool:
    """Whether arrays and objects are nested in more than `limit` levels, or are not closed in order.

    Every pass takes the innermost levels away, so the cost does not depend on the number of values.
    """
    if b"\\" in text:
        text = _ESCAPES.sub(b"", text)
    brackets = _STRINGS.sub(b"", text.translate(None, _OTHERS))
    for _ in range(limit):
        if not brackets:
            return False
        brackets = _CLOSED.sub(b"", brackets)
    return bool(brackets)

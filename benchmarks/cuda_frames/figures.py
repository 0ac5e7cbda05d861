"""Statistics, bytes and goals: what needs no device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# A row of a section: what was measured, and its figures, or "error" or "skipped" with the reason.
Row = dict[str, Any]

LEAST_OF_COPY = 0.70
MOST_DECODE_MICROSECONDS = {1: 15.0, 8: 25.0}  # by batch, 300 queries of 80 classes
LEAST_TIMES_FASTER = 5.0

_ELEMENT_BYTES = {"float32": 4, "float16": 2, "int8": 1}


def summary(samples: Sequence[float]) -> dict[str, float]:
    """p50 (the median), p99, least and number of samples."""
    p50, p99 = np.percentile(np.asarray(samples, np.float64), (50, 99)).tolist()
    return {"p50": p50, "p99": p99, "minimum": float(min(samples)), "count": len(samples)}


def rates(stamps: Sequence[float], window: int) -> list[float]:
    """Frames a second of each `window` of frames that follow each other; stamps: seconds at which each was done."""
    edges = stamps[::window]
    return [window / (later - earlier) for earlier, later in itertools.pairwise(edges)]


def image_bytes(width: int, height: int, format: str) -> int:
    """Bytes of a whole image."""
    return width * height * 3 // (2 if format == "nv12" else 1)


def linear_rows(height: int, side: int) -> set[int]:
    """Source rows that the bilinear filter reads to make `side` rows of `height`."""
    needed = set()
    for index in range(side):
        first = math.floor((index + 0.5) * height / side - 0.5)
        needed |= {min(max(first, 0), height - 1), min(first + 1, height - 1)}
    return needed


def linear_bytes(width: int, height: int, format: str, side: int) -> int:
    """Bytes of the rows that the bilinear filter needs: the least that whole rows come to."""
    rows = linear_rows(height, side)
    if format == "nv12":
        return width * (len(rows) + len({row // 2 for row in rows}))
    return 3 * width * len(rows)


def output_bytes(side: int, dtype: str) -> int:
    """Bytes of the network input of one image."""
    return 3 * side * side * _ELEMENT_BYTES[dtype]


def distinct_images(bytes_each: int, cache_bytes: int, batch: int) -> int:
    """How many images whose bytes come to four times the cache, in whole batches: none is there when its turn comes."""
    return -(-4 * cache_bytes // (bytes_each * batch)) * batch


def gigabytes_a_second(byte_count: float, microseconds: float) -> float:
    return byte_count / microseconds / 1e3


def rows_of(sections: Mapping[str, Any], name: str) -> Iterator[Row]:
    """The rows of a section that have figures."""
    for row in sections.get(name, {}).get("result", {}).get("rows", []):
        if "error" not in row and "skipped" not in row:
            yield row


def goals(sections: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was promised about the figures that are there, and whether it holds.

    sections: by name, {"result": {"rows": [...]}} or {"error": ...}.
    """

    def goal(text: str, got: float, *, at_least: float | None = None, at_most: float | None = None) -> dict[str, Any]:
        met = got >= at_least if at_least is not None else at_most is not None and got <= at_most
        limit = {"at_least": at_least} if at_least is not None else {"at_most": at_most}
        return {"goal": text, **limit, "got": got, "met": met}

    found = []
    for row in rows_of(sections, "preprocess"):
        if (row["source"], row["filter"], row["batch"]) == ("3840x2160", "antialias", 8):
            text = f"{row['source']} {row['format']}, antialias, to {row['side']} {row['dtype']}, batch 8: of copy"
            found.append(goal(text, row["of_copy"], at_least=LEAST_OF_COPY))
    for row in rows_of(sections, "decode"):
        most = MOST_DECODE_MICROSECONDS.get(row["batch"])
        if (row["rows"], row["classes"]) == (300, 80) and most is not None:
            text = f"decode 300x80 {row['dtype']}, batch {row['batch']}: microseconds"
            found.append(goal(text, row["microseconds"]["p50"], at_most=most))
    for row in rows_of(sections, "peers"):
        if row["name"] == "torch eager":
            text = f"1080p frame end to end, {row['filter']}: times faster than torch eager"
            found.append(goal(text, row["end_to_end"]["ratio_of_medians"], at_least=LEAST_TIMES_FASTER))
    return found

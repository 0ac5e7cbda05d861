"""Preprocessing against its peers: a BGR frame in memory to the RGB float32 network input, same threads, one run.

    python -m benchmarks.preprocess --threads 2 --markdown preprocess.md --json preprocess.json

The peers are what people write: OpenCV (resize, cvtColor) or Pillow or torch for the resize, then NumPy or torch to
normalise and transpose. Contenders take turns, so that a busy machine slows all of them; read the ratios of
medians, not the milliseconds. Every peer's result is compared with edgedet's, in grey levels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import edgedet

Frame = NDArray[np.uint8]
Tensor = NDArray[np.float32]
Contender = Callable[[Frame], Tensor]

SIZES = ((640, 480), (1920, 1080), (3840, 2160))
SIDE = 416


@dataclass(frozen=True)
class Row:
    """One peer on one size. Times are medians in milliseconds; ratio: the peer's over edgedet's."""

    filter: str
    peer: str
    width: int
    height: int
    threads: int
    edgedet_ms: float
    peer_ms: float
    ratio: float
    largest_difference: float
    equal: float


def _opencv(frame: Frame) -> Tensor:
    small = cv2.cvtColor(cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray((small.astype(np.float32) / np.float32(255)).transpose(2, 0, 1))


def _pillow(frame: Frame) -> Tensor:
    small = np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BILINEAR))[..., ::-1]
    return np.ascontiguousarray((small.astype(np.float32) / np.float32(255)).transpose(2, 0, 1))


def _torch(frame: Frame) -> Tensor:
    planes = torch.from_numpy(frame).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(planes, (SIDE, SIDE), mode="bilinear", antialias=True)
    result: Tensor = small[0].flip(0).float().div_(255).numpy()
    return result


PEERS: dict[str, dict[str, Contender]] = {
    "bilinear": {"OpenCV + NumPy": _opencv},
    "antialias": {"Pillow + NumPy": _pillow, "torch": _torch},
}


def _edgedet(filter_name: str, threads: int) -> Contender:
    def run(frame: Frame) -> Tensor:
        if filter_name == "bilinear":
            return edgedet.preprocess(frame, width=SIDE, height=SIDE, format="bgr", threads=threads)
        return edgedet.preprocess(frame, width=SIDE, height=SIDE, filter="antialias", format="bgr", threads=threads)

    return run


def _milliseconds(contenders: list[Contender], frame: Frame, repeats: int) -> list[float]:
    """Median of each; they take turns."""
    times = np.empty((repeats, len(contenders)))
    for contender in contenders:
        contender(frame)
    for row in times:
        for place, contender in enumerate(contenders):
            start = time.perf_counter()
            contender(frame)
            row[place] = time.perf_counter() - start
    medians: list[float] = (np.median(times, axis=0) * 1e3).tolist()
    return medians


def compare(threads: int, repeats: int) -> list[Row]:
    """Every peer on every size."""
    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)
    rows = []
    for width, height in SIZES:
        coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        frame: Frame = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
        for filter_name, peers in PEERS.items():
            ours = _edgedet(filter_name, threads)
            medians = _milliseconds([ours, *peers.values()], frame, repeats)
            for (peer, contender), peer_ms in zip(peers.items(), medians[1:], strict=True):
                difference = np.abs(ours(frame) - contender(frame)) * 255
                rows.append(
                    Row(
                        filter=filter_name,
                        peer=peer,
                        width=width,
                        height=height,
                        threads=threads,
                        edgedet_ms=medians[0],
                        peer_ms=peer_ms,
                        ratio=peer_ms / medians[0],
                        largest_difference=round(float(difference.max()), 3),
                        equal=float((difference < 0.5).mean()),
                    )
                )
    return rows


def markdown(rows: list[Row]) -> str:
    """The rows as a table."""
    lines = [
        "| filter | peer | frame | threads | edgedet ms | peer ms | peer / edgedet | largest difference | equal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.filter} | {row.peer} | {row.width}x{row.height} | {row.threads} | {row.edgedet_ms:.3f} "
        f"| {row.peer_ms:.3f} | {row.ratio:.1f} | {row.largest_difference:.0f} | {row.equal:.2%} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs, prints the table and writes the files asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--repeats", type=int, default=100, metavar="N", help="runs of each contender (default: 100)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    arguments = parser.parse_args()
    rows = [row for threads in arguments.threads for row in compare(threads, arguments.repeats)]
    table = markdown(rows)
    print(table, end="")
    if arguments.markdown is not None:
        arguments.markdown.write_text(table, encoding="utf-8")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

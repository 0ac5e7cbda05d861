"""Videos for tests, made by PyAV, and what PyAV reads in them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from cell_world import CELL, COLOURS, GRID, SIDE
from numpy.typing import NDArray


def scene(number: int, width: int = SIDE, height: int = SIDE) -> NDArray[np.uint8]:
    """Grey, with one coloured cell that moves from frame to frame: red in even ones, blue in odd ones."""
    image = np.full((height, width, 3), 110, np.uint8)
    row, column = divmod(number % GRID**2, GRID)
    colour = list(COLOURS.values())[number % 2]
    x, y = column * width // GRID, row * height // GRID
    image[y : y + height // GRID, x : x + width // GRID] = colour
    return image


def write_video(
    file: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 10),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    **options: str,
) -> Path:
    """times: of each frame, in ticks of the time base; None: 0, 1, 2, ..."""
    with av.open(str(file), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(10))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = time_base
        if codec == "libx264":
            stream.options = {"crf": "1", "g": "8"}
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def write_audio(file: Path) -> Path:
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def read_video(file: Path) -> tuple[list[NDArray[np.uint8]], list[Fraction]]:
    """The frames, not rotated, and their times."""
    images, times = [], []
    with av.open(str(file)) as container:
        for frame in container.decode(video=0):
            assert frame.pts is not None
            images.append(frame.to_ndarray(format="rgb24"))
            times.append(frame.pts * Fraction(frame.time_base))
    return images, times


def turn(file: Path, quarters: int) -> Path:
    """Writes a rotation into the header of an MP4 file: clockwise quarters (ISO/IEC 14496-12, 8.3.2, tkhd)."""
    data = bytearray(file.read_bytes())
    at = data.index(b"tkhd") + 4
    assert data[at] == 0  # version 0: the matrix is 40 bytes behind version and flags
    one, minus = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    nought = bytes(4)
    a, b, c, d = ((one, nought, nought, one), (nought, one, minus, nought), (minus, nought, nought, minus),
                  (nought, minus, one, nought))[quarters]  # fmt: skip
    data[at + 40 : at + 76] = a + b + nought + c + d + nought + nought + nought + (1 << 30).to_bytes(4, "big")
    file.write_bytes(data)
    return file


assert CELL * GRID == SIDE

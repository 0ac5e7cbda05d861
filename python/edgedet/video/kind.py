"""What kind of input a word of the command line is: told by its content, not by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from edgedet._core import ImageError
from edgedet.images import read_header

#: Endings of files that are said to be damaged videos, not damaged images, where their content says nothing.
_SUFFIXES: Final = frozenset({".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
# What the same boxes hold in image files (HEIF and AVIF).
_STILL_BRANDS: Final = frozenset({b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"})
_FIRST_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_MAGIC: Final = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
    b"OggS",
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG-1 and 2 video
    b"\x00\x00\x00\x01",  # H.264 and H.265 as they are
    b"YUV4MPEG2",
)


def is_url(source: str) -> bool:
    """Whether it is ``scheme://…``."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", source) is not None


def is_live(source: str) -> bool:
    """Whether frames that are not read in time are lost: cameras and streams, but not files over HTTP."""
    return is_camera(source) or (is_url(source) and not re.match(r"(file|https?)://", source.lower()))


def is_camera(source: str) -> bool:
    """Whether it is ``/dev/videoN``, or N where there is no such file."""
    return re.fullmatch(r"/dev/video\d+", source) is not None or (source.isdecimal() and not Path(source).exists())


def is_pipeline(source: str) -> bool:
    """Whether it is a pipeline of GStreamer, in which ``!`` links elements."""
    return " ! " in source and not Path(source).exists()


def is_video(source: str) -> bool:
    """Whether it is to be read as a video; what is neither that nor an image is taken for an image."""
    if is_url(source) or is_camera(source) or is_pipeline(source):
        return True
    path = Path(source)
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(2 * 188 + 1)
    except OSError:
        return False  # the reader of images says why
    if head[4:8] in _FIRST_BOXES:
        return head[4:8] != b"ftyp" or head[8:12] not in _STILL_BRANDS
    if head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return True
    if head[:1] == head[188:189] == head[376:377] == b"\x47":  # packets of an MPEG transport stream
        return True
    return path.suffix.lower() in _SUFFIXES and not _is_image(path)


def _is_image(path: Path) -> bool:
    try:
        read_header(path)
    except ImageError:
        return False
    return True

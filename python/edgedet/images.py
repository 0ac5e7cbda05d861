"""Image files to RGB arrays, through Pillow, with a limit on size that is checked before any pixel is decoded.

One reader for the detector, the command line, training validation and calibration, so that all of them see the same
pixels. What it does with each kind of file:

* EXIF orientation is applied, so boxes are in the frame a viewer shows.
* Grey, palette, CMYK and YCbCr images become RGB as Pillow's ``convert("RGB")`` does it; transparency is dropped the
  same way (the colour under a transparent pixel is kept).
* 16-bit colour PNG files lose their low byte, as Pillow does. Images with one 16-bit, 32-bit or float channel are
  refused: their range is not known (thermal cameras use 14 of 16 bits), and Pillow's conversion would turn most of
  them white. Scale them to 8 bits yourself and pass the array.
* Animations and multi-page files give their first frame.
* Truncated and corrupt files are an error, never a half-grey image.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgedet._core import ImageError, InvalidInputError

if TYPE_CHECKING:
    from PIL import Image

#: Largest width x height that :func:`read_image` decodes unless told otherwise; 300 MB as an RGB array.
MAX_PIXELS: Final = 100_000_000

#: Pillow's names of the formats that are read. Others (EPS runs Ghostscript, for one) are not even probed.
FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

#: File name endings of those formats, lower case.
SUFFIXES: Final = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"},
)

_EIGHT_BIT_MODES: Final = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})

# warnings.catch_warnings changes process-wide state; two readers must not interleave inside it.
_WARNINGS_LOCK: Final = threading.Lock()

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself before its pixels.

    width, height: pixels as shown, EXIF orientation applied. orientation: of EXIF, 1 (upright) to 8. format, mode: in
    Pillow's words, such as "JPEG" and "RGB".
    """

    width: int
    height: int
    orientation: int
    format: str
    mode: str


def read_header(file: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Reads the header of an image file and none of its pixels, which may still be broken.

    EXIF data that a PNG file has behind its pixels is not seen.

    Raises:
        ImageError: as `read_image` does for what the header tells.
    """
    return _read(file, str(Path(file)), max_pixels, _header)


def read_image(
    source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS, enough: int | None = None
) -> NDArray[np.uint8]:
    """Decodes an image file.

    Args:
        source: Path of the file, or its contents.
        max_pixels: Largest accepted width x height. Checked against the header, before pixels are allocated. Pillow's
            own limit (``PIL.Image.MAX_IMAGE_PIXELS``) stays in force.
        enough: Where both sides have at least this many pixels left, a JPEG file is decoded at a half, a quarter or an
            eighth of its size, several times faster. None: at its size, as other formats are.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous, EXIF orientation applied.

    Raises:
        ImageError: The file is missing, of another format, too large, truncated, corrupt, or of a pixel type without
            a defined 8-bit rendering.
        InvalidInputError: ``source`` is neither a path nor bytes.
    """
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise InvalidInputError(
            f"expected a path or the bytes of an image file, got {type(source).__name__}; "
            "arrays need no reading, pass them to the detector as they are",
        )
    name = f"{len(source)} bytes" if isinstance(source, bytes) else str(Path(source))
    return _read(source, name, max_pixels, partial(_pixels, enough=enough))


def from_pillow(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """The pixels of an image that the caller has open, as it is: (H, W, 3) uint8 RGB, not turned by its EXIF data.

    name: for messages.

    Raises:
        ImageError: It cannot be decoded, or its pixels have no defined 8-bit rendering.
    """
    _check_mode(image, name)
    try:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:
        raise ImageError(f"{name}: damaged or unsupported image: {error or type(error).__name__}") from error


def find_images(path: str | os.PathLike[str]) -> list[Path]:
    """Lists the image files of a folder, sorted by name, sub-folders left out; a file is returned as it is.

    Raises:
        ImageError: There is nothing at ``path``, or no image in the folder.
    """
    root = Path(path)
    if not root.is_dir():
        if not root.exists():
            raise ImageError(f"{root}: no such file or folder; check the path")
        return [root]
    found = sorted(entry for entry in root.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file())
    if not found:
        raise ImageError(f"{root}: no image in this folder; expected files ending in {', '.join(sorted(SUFFIXES))}")
    return found


def _stream(source: str | os.PathLike[str] | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


def _read(
    source: str | os.PathLike[str] | bytes, name: str, max_pixels: int, part: Callable[[Image.Image, str], _Result]
) -> _Result:
    """Opens an image, hands it to `part`, and turns all that can go wrong into an ImageError."""
    from PIL import UnidentifiedImageError

    try:
        with _stream(source) as file, _open(file, name, max_pixels) as image:
            return part(image, name)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that can be read; expected one of {', '.join(FORMATS)}") from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: expected an image file, got a folder") from None
    except PermissionError:
        raise ImageError(f"{name}: the file may not be read; check its permissions") from None
    except MemoryError:
        raise ImageError(f"{name}: not enough memory to decode the image; lower max_pixels or shrink it") from None
    except Exception as error:
        # Pillow's decoders raise whatever their parsers trip over (ValueError, SyntaxError, struct.error, ...).
        raise ImageError(f"{name}: damaged or unsupported image: {error or type(error).__name__}") from error


def _open(file: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    from PIL import Image

    _check_size(_webp_canvas(file), name, max_pixels)
    with _WARNINGS_LOCK, warnings.catch_warnings():
        # Pillow's own, higher limit, and remarks about metadata that has no influence on the pixels.
        warnings.simplefilter("ignore")
        try:
            image: Image.Image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError:
            raise ImageError(
                f"{name}: its header announces more pixels than Pillow accepts, the limit here is {max_pixels}; "
                "shrink the image",
            ) from None
    _check_size(image.size, name, max_pixels)
    _check_mode(image, name)
    return image


def _pixels(image: Image.Image, name: str, *, enough: int | None = None) -> NDArray[np.uint8]:
    from PIL import ImageOps

    if enough is not None:
        image.draft(None, (enough, enough))
    image.load()
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ImageOps.exif_transpose(image, in_place=True)
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.array(rgb)


def _header(image: Image.Image, name: str) -> ImageHeader:
    from PIL import ExifTags, Image

    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Not image.getexif(): for a PNG file without EXIF data that one decodes the pixels to look behind them.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    if orientation not in range(1, 9):
        orientation = 1
    width, height = image.size if orientation < 5 else image.size[::-1]
    return ImageHeader(width, height, orientation, image.format or "", image.mode)


def _check_mode(image: Image.Image, name: str) -> None:
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(
            f"{name}: pixels of type {image.mode!r} have no defined 8-bit rendering; scale them to 0..255 as your "
            "sensor needs it and pass the uint8 array",
        )


def _check_size(size: tuple[int, int] | None, name: str, max_pixels: int) -> None:
    if size is not None and size[0] * size[1] > max_pixels:
        raise ImageError(
            f"{name}: {size[0]}x{size[1]} is {size[0] * size[1]} pixels, the limit is {max_pixels}; "
            "shrink the image or raise max_pixels",
        )


def _webp_canvas(file: IO[bytes]) -> tuple[int, int] | None:
    """Width and height from the header of a WebP file, None for another format.

    Pillow allocates two whole canvases while it opens a WebP file, before its size can be asked for. Layout:
    RFC 9649, sections 2.5 to 2.7.
    """
    head = file.read(30)
    file.seek(0)
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    chunk = head[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return None

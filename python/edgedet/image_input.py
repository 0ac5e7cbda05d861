"""What a detector takes as an image, as arrays that the compiled module can address: checked, copied only at need."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Literal, Tuple, Union, cast

import numpy as np
from numpy.typing import NDArray

from edgedet._core import InvalidInputError
from edgedet.images import from_pillow, read_image

if TYPE_CHECKING:
    from PIL import Image

PixelFormat = Literal["rgb", "bgr", "gray", "nv12"]
Pixels = Union[NDArray[np.uint8], Tuple[NDArray[np.uint8], NDArray[np.uint8]]]
#: An array in the call's pixel format, the two planes (Y, UV) of an NV12 frame, a Pillow image, or the path of a file.
ImageInput = Union[Pixels, "Image.Image", str, "os.PathLike[str]"]

_DIMENSIONS = {"rgb": 3, "bgr": 3, "gray": 2, "nv12": 2}
_SHAPES = {
    "rgb": "(H, W, 3) uint8 array",
    "bgr": "(H, W, 3) uint8 array",
    "gray": "(H, W) uint8 array",
    "nv12": "(H * 3 / 2, W) uint8 array or a tuple of planes Y (H, W) and UV (H / 2, W)",
}


def check_format(format: str) -> None:
    """Raises InvalidInputError unless it is a pixel format."""
    if format not in _SHAPES:
        raise InvalidInputError(f"expected format {', '.join(_SHAPES)}, got {format!r}")


def as_pixels(image: object, format: PixelFormat, index: int) -> tuple[Pixels, bool]:
    """The pixels of an image, and whether they are RGB whatever the format: those of files and Pillow images.

    index: of the image in its call, for messages.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image), True
    # Without Pillow no image can be one of its; another thread may be loading it right now.
    pillow_image = getattr(sys.modules.get("PIL.Image"), "Image", None)
    if pillow_image is not None and isinstance(image, pillow_image):
        return from_pillow(image, f"image {index}"), True
    return _as_array(image, format, index), False


def as_rgb(image: ImageInput, format: PixelFormat) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, to draw on a copy of it."""
    check_format(format)
    pixels, is_rgb = as_pixels(image, format, 0)
    if not isinstance(pixels, np.ndarray) or (format == "nv12" and not is_rgb):
        raise InvalidInputError("expected an RGB, BGR or grey image in the host's memory, got another one; convert it")
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return pixels if is_rgb or format == "rgb" else np.ascontiguousarray(pixels[..., ::-1])


def _as_array(image: object, format: PixelFormat, index: int) -> Pixels:
    """Checks what the compiled module cannot name well; copies only what it cannot address."""
    if format == "nv12" and isinstance(image, tuple):
        return _check_planes(tuple(_host_array(plane, index) for plane in image), index)
    if _on_device(image):
        return cast("NDArray[np.uint8]", image)  # the compiled module asks it for its memory, and names what is wrong
    image = _host_array(image, index)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == _DIMENSIONS[format]:
        if image.ndim == 3 and image.shape[2] != 3 and image.shape[0] == 3:
            raise InvalidInputError(
                f"image {index}: expected a {_SHAPES[format]} (format={format!r}), got an array of shape "
                f"{image.shape}; put the channels last with .transpose(1, 2, 0), in torch .permute(1, 2, 0)"
            )
        return _addressable(image)
    if isinstance(image, np.ndarray):
        got = f"an array of shape {image.shape} and type {image.dtype}"
        if image.dtype != np.uint8:
            remedy = "scale the pixels to 0..255 and convert them with .astype(np.uint8)"
        elif image.ndim == 4:
            remedy = "pass a batch as a list of images"
        else:
            remedy = "name the pixel format with format='rgb', 'bgr', 'gray' or 'nv12'"
    else:
        kind = type(image)
        got = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        remedy = "pass a NumPy array, a path, a Pillow image, or a list of them"
    raise InvalidInputError(
        f"image {index}: expected a path or a {_SHAPES[format]} (format={format!r}), got {got}; {remedy}",
    )


def _host_array(image: object, index: int) -> object:
    """A view of an array of another library in the host's memory, by DLPack; anything else as it is."""
    if isinstance(image, np.ndarray) or not hasattr(image, "__dlpack__"):
        return image
    try:
        return np.from_dlpack(image)
    except Exception as error:
        # What a library raises where it cannot hand its memory out is its own.
        raise InvalidInputError(
            f"image {index}: expected an array that DLPack hands out to the CPU, got {type(image).__name__}: {error}; "
            "convert it to a NumPy array"
        ) from error


def _on_device(image: object) -> bool:
    """Whether it says that it is in the memory of a device (1 is the CPU of DLPack)."""
    device = getattr(image, "__dlpack_device__", None)
    if isinstance(image, np.ndarray) or device is None:
        return hasattr(image, "__cuda_array_interface__")
    return bool(device()[0] != 1)


def _addressable(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    packed = image.strides[1:] == ((3, 1) if image.ndim == 3 else (1,)) and image.strides[0] >= image[:1].size
    return image if packed else np.ascontiguousarray(image)


def _check_planes(planes: tuple[Any, ...], index: int) -> Pixels:
    if len(planes) == 2 and all(isinstance(plane, np.ndarray) and plane.dtype == np.uint8 for plane in planes):
        luma, chroma = planes
        if luma.ndim == 2 and chroma.size * 2 == luma.size and luma.shape[0] % 2 == 0 and luma.shape[1] % 2 == 0:
            # A view, unless (H / 2, W / 2, 2) has gaps inside a row.
            return _addressable(luma), _addressable(chroma.reshape(luma.shape[0] // 2, luma.shape[1]))
    got = ", ".join(f"{getattr(plane, 'shape', type(plane).__name__)}" for plane in planes)
    raise InvalidInputError(
        f"image {index}: expected uint8 planes Y (H, W) and UV (H / 2, W) or (H / 2, W / 2, 2) with even H and W, "
        f"got {got}",
    )

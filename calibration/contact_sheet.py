"""A picture of a whole calibration set."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Final

from calibration.sampling import Sample, read_checked
from edgedet import InvalidInputError
from edgedet.files import write_atomically

if TYPE_CHECKING:
    from PIL import ImageFont

#: Images on a sheet; of larger sets the first.
SHOWN: Final = 1000
_COLUMNS: Final = 10
_SIDE: Final = 144
_LINE: Final = 13
_LINES: Final = 2
_MARGIN: Final = 4
_HEADER: Final = 30
_PAPER, _INK, _FAINT = (24, 24, 24), (235, 235, 235), (165, 165, 165)


def contact_sheet(directory: Path, sample: Sample, target: Path) -> None:
    """Write a PNG with a heading and one tile per image, in the order chosen, each with the reason for it.

    Args:
        directory: folder of the images.
        sample: the set.
        target: file to write.

    Raises:
        InvalidInputError: an image changed since it was sampled, or `target` cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    images = sample.images[:SHOWN]
    columns = min(_COLUMNS, max(4, len(images)))
    height = _SIDE + _LINES * _LINE + _MARGIN
    sheet = Image.new("RGB", (columns * _SIDE, _HEADER - (-len(images) // columns) * height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(size=_LINE - 2), ImageFont.load_default(size=_LINE + 3)
    pen.text((_MARGIN, _MARGIN), heading(sample), font=large, fill=_INK)
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        left, top = column * _SIDE, _HEADER + row * height
        tile = Image.fromarray(read_checked(directory, image))
        tile.thumbnail((_SIDE - _MARGIN, _SIDE - _MARGIN))
        sheet.paste(tile, (left + (_SIDE - tile.width) // 2, top + _SIDE - _MARGIN - tile.height))
        for number, line in enumerate(_caption(image.reason, _SIDE - _MARGIN, small)):
            pen.text((left + _MARGIN, top + _SIDE - _MARGIN + number * _LINE), line, font=small, fill=_FAINT)
    encoded = io.BytesIO()
    sheet.save(encoded, format="PNG")
    try:
        write_atomically(target, encoded.getvalue())
    except OSError as cause:
        raise InvalidInputError(f"{target}: cannot be written ({cause.strerror}); choose another file") from cause


def heading(sample: Sample) -> str:
    """What the sheet shows, in a line."""
    count = len(sample.images)
    shown = f", the first {SHOWN} shown" if count > SHOWN else ""
    return f"{sample.strategy} · seed {sample.seed} · {count} of {sample.candidates} images{shown}"


def _caption(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Two lines at most, cut to `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > _LINES:
        lines[_LINES - 1] = " ".join(lines[_LINES - 1 :])
    return [_cut(line, width, font) for line in lines[:_LINES]]


def _cut(line: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"

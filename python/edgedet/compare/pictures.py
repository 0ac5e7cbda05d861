"""The images on which two sides disagree, A and B side by side."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from edgedet.compare.report import differences
from edgedet.compare.run import ComparedImage, Comparison
from edgedet.draw import draw_detections, fit
from edgedet.images import read_image

if TYPE_CHECKING:
    from PIL import Image

_WIDTH, _HEIGHT = 480, 360  # largest picture of one side, pixels
_GAP: Final = 8
_LINE: Final = 18
_PAPER, _INK, _FAINT = (250, 250, 250), (25, 25, 25), (95, 95, 95)


def draw_sides(image: ComparedImage) -> tuple[Image.Image, Image.Image]:
    """A and B: what differs in colour and by name, what both found as thin outlines."""
    pixels, agreement = read_image(image.path), image.agreement
    a, b = [i for i, _ in agreement.renamed], [j for _, j in agreement.renamed]
    return tuple(  # type: ignore[return-value]  # there are two
        draw_detections(
            *fit(pixels, found[sorted([*alone, *renamed])], width=_WIDTH, height=_HEIGHT),
            quiet=fit(pixels, found[agreement.pairs[:, side]], width=_WIDTH, height=_HEIGHT)[1],
        )
        for side, found, alone, renamed in ((0, image.a, agreement.only_a, a), (1, image.b, agreement.only_b, b))
    )


def contact_sheet(found: Comparison, worst: Sequence[ComparedImage]) -> bytes:
    """A PNG: pairs in up to two columns, each with its file's name and what differs."""
    from PIL import Image, ImageDraw, ImageFont

    font, bold = ImageFont.load_default(size=13), ImageFont.load_default(size=16)
    across = 2 * _WIDTH + _GAP
    columns = 2 if len(worst) > 3 else 1
    width = columns * across + (columns - 1) * 3 * _GAP + 2 * _GAP
    heading = [f"{name}: {side['name']}, {side['backend']} {side['precision']} ({side['bundle']})"
               for name, side in zip("AB", found.facts)]  # fmt: skip
    pairs = [draw_sides(image) for image in worst]
    captions = [
        [f"{number}  {image.path.name}", *_wrapped(differences(image), across, font.getlength)]
        for number, image in enumerate(worst, start=1)
    ]
    tall = [
        max(picture.height for picture in pair) + _LINE * len(lines) + 2 * _GAP for pair, lines in zip(pairs, captions)
    ]
    lanes = [range(column, len(worst), columns) for column in range(columns)]
    top = _GAP + 22 * len(heading) + _LINE + _GAP
    sheet = Image.new("RGB", (width, top + max(sum(tall[place] for place in lane) for lane in lanes)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        pen.text((_GAP, _GAP + 22 * number), line, font=bold, fill=_INK)
    legend = "Left A, right B. In colour what only one of them found, or named otherwise; thin grey what both found."
    pen.text((_GAP, _GAP + 22 * len(heading)), legend, font=font, fill=_FAINT)
    for column, lane in enumerate(lanes):
        left, y = _GAP + column * (across + 3 * _GAP), top
        for place in lane:
            for number, line in enumerate(captions[place]):
                ink = _FAINT if number else _INK
                pen.text((left, y + number * _LINE), line, font=font, fill=ink)
            below = y + _LINE * len(captions[place])
            first, second = pairs[place]
            sheet.paste(first, (left, below))
            sheet.paste(second, (left + first.width + _GAP, below))
            y += tall[place]
    return _encoded(sheet, "PNG")


def jpeg(picture: Image.Image) -> bytes:
    """A small JPEG without metadata."""
    return _encoded(picture, "JPEG")


def _encoded(picture: Image.Image, form: str) -> bytes:
    target = io.BytesIO()
    picture.save(target, format=form, quality=85, optimize=True)
    return target.getvalue()


def _wrapped(phrases: Sequence[str], width: int, length: Callable[[str], float]) -> list[str]:
    """One line a phrase, cut where it is too long."""
    lines = []
    for phrase in phrases:
        line = phrase
        while length(line) > width:
            line = line[: -2 if line.endswith("…") else -1].rstrip(", ") + "…"
        lines.append(line)
    return lines

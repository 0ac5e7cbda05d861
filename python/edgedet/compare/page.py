"""A comparison as a page that is one file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Final

from edgedet.compare.pictures import draw_sides, jpeg
from edgedet.compare.report import differences, rows, sentences
from edgedet.compare.run import ComparedImage, Comparison

_STYLE: Final = """
body { font: 16px/1.45 system-ui, sans-serif; max-width: 1040px; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b;
  background: #fff }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .9rem .25rem 0; text-align: left }
th { border-bottom: 2px solid #ccc } tr + tr td { border-top: 1px solid #eee }
figure { margin: 2rem 0 } figcaption { margin-bottom: .4rem; overflow-wrap: anywhere } figcaption span { color: #555 }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 8px } img { width: 100%; height: auto }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .8rem }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #161616 } th { border-color: #555 }
  tr + tr td { border-color: #333 } figcaption span { color: #aaa } pre { background: #222 } }
"""


def page(found: Comparison, worst: Sequence[ComparedImage]) -> str:
    """HTML with the pictures inside; everything that was read is escaped."""
    title = f"{found.sides[0].text} and {found.sides[1].text}"
    table = rows(found)
    head = "".join(f"<th scope=col>{html.escape(key)}</th>" for key in table[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row.values()) + "</tr>" for row in table
    )
    facts = "\n".join(sentences(found))
    figures = "".join(_figure(image) for image in worst) or "<p>They agree on every image.</p>"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<table><tr>{head}</tr>{body}</table><pre>{html.escape(facts)}</pre><h2>Worst disagreements</h2>"
        "<p>Left A, right B. In colour what only one of them found, or named otherwise; thin grey what both found.</p>"
        f"{figures}</html>\n"
    )


def _figure(image: ComparedImage) -> str:
    said = html.escape(" · ".join(differences(image)))
    name = html.escape(image.path.name)
    pictures = "".join(
        f"<img alt='{name}, {side}' src='data:image/jpeg;base64,{base64.b64encode(jpeg(picture)).decode()}'>"
        for side, picture in zip("AB", draw_sides(image))
    )
    return f"<figure><figcaption>{name}<br><span>{said}</span></figcaption><div class=pair>{pictures}</div></figure>"

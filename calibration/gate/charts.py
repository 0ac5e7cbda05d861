"""The drawings of report.html: SVG in the page's own colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_WIDTH: Final = 460
_LEFT, _RIGHT = 14, 14


def drop_chart(report: Mapping[str, Any]) -> str:
    """The loss of AP with its standard error on a line whose accepted part is shaded."""
    drop, error, allowed = report["ap_drop"], report["ap_drop_se"], report["ap_drop_allowed"]
    margin = max(allowed, 0.002)
    low, high = min(-margin, drop - error) - 0.3 * margin, max(allowed + margin, drop + error) + 0.3 * margin

    def at(value: float) -> float:
        return float(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low))

    middle, top, bottom = 52, 26, 78
    label = f"{drop:+.4f} ± {error:.4f}".replace("-", "\N{MINUS SIGN}")
    anchor = "middle" if 0.2 < (drop - low) / (high - low) < 0.8 else ("start" if at(drop) < _WIDTH / 2 else "end")
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} 116" role="img" aria-label="loss of AP {label}">',
        f'<rect class="ok" x="{_LEFT}" y="{top}" width="{at(allowed) - _LEFT:.1f}" height="{bottom - top}"/>',
        f'<rect class="not" x="{at(allowed):.1f}" y="{top}" width="{_WIDTH - _RIGHT - at(allowed):.1f}" '
        f'height="{bottom - top}"/>',
        f'<line class="limit" x1="{at(allowed):.1f}" x2="{at(allowed):.1f}" y1="{top}" y2="{bottom}"/>',
        f'<line class="axis" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{top}" y2="{bottom}"/>',
        f'<line class="mark" x1="{at(drop - error):.1f}" x2="{at(drop + error):.1f}" y1="{middle}" y2="{middle}"/>',
        f'<circle class="mark" cx="{at(drop):.1f}" cy="{middle}" r="5"/>',
        f'<text x="{at(drop):.1f}" y="18" text-anchor="{anchor}">{label}</text>',
        f'<text x="{at(0):.1f}" y="{bottom + 16}" text-anchor="middle">no loss</text>',
        f'<text x="{at(allowed):.1f}" y="{bottom + 31}" text-anchor="middle">up to {allowed:.4f}</text>',
        "</svg>",
    ]
    return "".join(parts)


def latency_chart(report: Mapping[str, Any]) -> str:
    """Frames per bin of milliseconds, both engines over each other."""
    histogram = report["latency_histogram"]
    edges, counts = histogram["edges_ms"], {"float": histogram["fp32"], "candidate": histogram[report["candidate"]]}
    tallest = max(1.0, *counts["float"], *counts["candidate"])
    top, bottom = 10, 140
    step = (_WIDTH - _LEFT - _RIGHT) / (len(edges) - 1)
    parts = [f'<svg viewBox="0 0 {_WIDTH} 164" role="img" aria-label="frames by milliseconds">']
    for engine, frames in counts.items():
        for place, count in enumerate(frames):
            if count:
                height = (bottom - top) * count / tallest
                parts.append(
                    f'<rect class="{engine}" x="{_LEFT + place * step:.1f}" y="{bottom - height:.1f}" '
                    f'width="{step - 1:.1f}" height="{height:.1f}"/>'
                )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        value = edges[0] + share * (edges[-1] - edges[0])
        x = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="{anchor}">{value:.3g} ms</text>')
    return "".join(parts) + "</svg>"

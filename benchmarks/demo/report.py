"""The demo's report: one HTML file that needs nothing else, light or dark, readable on a telephone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

Box = tuple[float, float, float, float]

_PALETTE = ("#e4572e", "#2e86de", "#f2a900", "#8e5bd0", "#17a589", "#d64591", "#6b8e23", "#546e7a")
_METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
_STAGES = (("preprocess", "one"), ("inference", "two"), ("decode", "three"))


@dataclass(frozen=True)
class Mark:
    """One box on a picture: xyxy in pixels, class index, score in [0, 1] or None for the ground truth."""

    box: Box
    label: int
    score: float | None = None


@dataclass(frozen=True)
class Picture:
    """A validation image (JPEG bytes, size in pixels) and what each source says is on it, in reading order."""

    jpeg: bytes
    width: int
    height: int
    truth: tuple[Mark, ...]
    found: tuple[tuple[str, tuple[Mark, ...]], ...]


@dataclass(frozen=True)
class Variant:
    """One precision of the bundle, measured on its engine.

    accuracy: AP figures in [0, 1], by name; one that no object bears on is negative. latency_ms: p50, p90, p99, mean.
    stages_ms: preprocess, inference, decode.
    """

    name: str
    accuracy: dict[str, float]
    latency_ms: dict[str, float]
    stages_ms: dict[str, float]
    fps: float
    size_bytes: int


@dataclass(frozen=True)
class Step:
    """One step of the demo: seconds it took, or reused from an earlier run; the command that does it by hand."""

    name: str
    seconds: float
    command: str
    reused: bool = False


@dataclass(frozen=True)
class Curve:
    """A training curve: x in seconds, y in the unit of its title."""

    title: str
    seconds: tuple[float, ...]
    values: tuple[float, ...]
    style: str = ""


@dataclass(frozen=True)
class Report:
    """Everything the report shows.

    best: name of the variant that verification recommends; reason: why. speed: how many times as fast the second
    variant is as the first, frame by frame in turn, so that a machine whose speed changes is fair to both. shown: the
    least score of the detections on the pictures.
    """

    classes: tuple[str, ...]
    dataset: str
    best: str
    reason: str
    speed: float
    shown: float
    variants: tuple[Variant, ...]
    pictures: tuple[Picture, ...]
    curves: tuple[Curve, ...]
    steps: tuple[Step, ...]
    checks: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two xyxy boxes, in [0, 1]."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


def missed(truth: Sequence[Mark], found: Sequence[Mark]) -> list[Mark]:
    """Objects that no detection of their class covers with an overlap of at least 0.5; one detection, one object."""
    left = list(truth)
    for mark in sorted(found, key=lambda item: -(item.score or 0.0)):
        same = [item for item in left if item.label == mark.label and overlap(item.box, mark.box) >= 0.5]
        if same:
            left.remove(max(same, key=lambda item: overlap(item.box, mark.box)))
    return left


def _colour(label: int) -> str:
    return _PALETTE[label % len(_PALETTE)]


def _rectangle(box: Box, css: str, extra: str = "") -> str:
    x0, y0, x1, y1 = box
    return f'<rect class="{css}" x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" rx="2"{extra}/>'


def _panel(picture: Picture, index: int, marks: Sequence[Mark], lost: Sequence[Mark], classes: Sequence[str]) -> str:
    parts = [f'<svg viewBox="0 0 {picture.width} {picture.height}" role="img"><use href="#scene{index}"/>']
    parts += [_rectangle(mark.box, "missed") for mark in lost]
    for mark in marks:
        colour = _colour(mark.label)
        name = classes[mark.label]
        text = name if mark.score is None else f"{name} {mark.score:.2f}"
        x, y = max(mark.box[0], 0.0), max(mark.box[1] - 11, 0.0)
        width = 6.3 * len(text) + 6
        x = max(min(x, picture.width - width), 0.0)
        parts.append(_rectangle(mark.box, "box", f' stroke="{colour}"'))
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="11" rx="2" fill="{colour}"/>')
        parts.append(f'<text class="label" x="{x + 2.5:.1f}" y="{y + 8.5:.1f}">{escape(text)}</text>')
    return "".join(parts) + "</svg>"


def _gallery(report: Report) -> str:
    images, rows = [], []
    for index, picture in enumerate(report.pictures):
        data = base64.b64encode(picture.jpeg).decode()
        images.append(
            f'<image id="scene{index}" width="{picture.width}" height="{picture.height}" '
            f'href="data:image/jpeg;base64,{data}"/>'
        )
        panels = [
            (f"ground truth, {len(picture.truth)} objects", _panel(picture, index, picture.truth, (), report.classes))
        ]
        for name, marks in picture.found:
            lost = missed(picture.truth, marks)
            caption = f"{name}, found {len(picture.truth) - len(lost)} of {len(picture.truth)}"
            panels.append((caption, _panel(picture, index, marks, lost, report.classes)))
        figures = "".join(f"<figure>{svg}<figcaption>{escape(text)}</figcaption></figure>" for text, svg in panels)
        rows.append(f'<div class="scene">{figures}</div>')
    legend = "".join(
        f'<span><i style="background:{_colour(label)}"></i>{escape(name)}</span>'
        for label, name in enumerate(report.classes)
    )
    return (
        f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{"".join(images)}</defs></svg>'
        f'<div class="legend">{legend}<span><i class="dash"></i>missed</span></div>{"".join(rows)}'
    )


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span [low, high], about `count` steps of them."""
    span = max(high - low, 1e-9)
    for step in (m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)):
        if span / step <= count + 0.5:
            break
    first = int(low // step)
    last = first
    while last * step < high - 1e-9:
        last += 1
    return [round(index * step, 9) for index in range(first, last + 1)]


def _chart(curve: Curve) -> str:
    width, height, left, right, top, bottom = 400, 210, 38, 16, 12, 26
    end = max(curve.seconds, default=1.0)
    xs = [value for value in ticks(0.0, end) if value <= end]
    ys = ticks(0.0, max(curve.values, default=1.0))

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (width - left - right) * x / end
        return across, height - bottom - (height - top - bottom) * y / ys[-1]

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(curve.title)}">']
    for value in ys:
        x, y = place(0, value)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in xs:
        x, y = place(value, 0)
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{value:g} s</text>')
    points = [place(x, y) for x, y in zip(curve.seconds, curve.values, strict=True)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(f'<polyline class="curve {curve.style}" points="{line}"/>')
    if points and not curve.style:
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
    return f'<div class="panel"><b>{escape(curve.title)}</b>{"".join(parts)}</svg></div>'


def _figure(value: float) -> str:
    return "no such objects" if value < 0 else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of ready-made cells; the caller escapes them."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="panel scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _change(before: float, after: float, *, less_is_better: bool) -> str:
    difference = after - before
    text = f"{difference:+.3f}".replace("-", "&minus;")
    if abs(difference) < 0.0005:
        return "0.000"
    return f'<span class="{"good" if (difference < 0) == less_is_better else "bad"}">{text}</span>'


def _accuracy(variants: Sequence[Variant]) -> str:
    names = [name for name in _METRICS if name in variants[0].accuracy]
    head = ["on the validation scenes", *names]
    rows = [[escape(item.name), *(_figure(item.accuracy[name]) for name in names)] for item in variants]
    for item in variants[1:]:
        first = variants[0]
        changes = [
            "" if first.accuracy[name] < 0 else _change(first.accuracy[name], item.accuracy[name], less_is_better=False)
            for name in names
        ]
        rows.append([f"{escape(item.name)} against {escape(first.name)}", *changes])
    return _table(head, rows)


def _latency(variants: Sequence[Variant]) -> str:
    longest = max(sum(item.stages_ms.values()) for item in variants)
    bars = []
    for item in variants:
        spans = "".join(
            f'<span class="{css}" style="width:{100 * item.stages_ms[stage] / longest:.2f}%" '
            f'title="{stage} {item.stages_ms[stage]:.3f} ms"></span>'
            for stage, css in _STAGES
        )
        bars.append(
            f'<span>{escape(item.name)}</span><div class="bar">{spans}</div><b>{item.latency_ms["p50"]:.2f} ms</b>'
        )
    legend = "".join(f'<span><i class="{css}"></i>{stage}</span>' for stage, css in _STAGES)
    head = ["milliseconds", *(escape(item.name) for item in variants)]
    rows = [[stage, *(f"{item.stages_ms[stage]:.3f}" for item in variants)] for stage, _ in _STAGES]
    rows += [
        [f"end to end, {name}", *(f"{item.latency_ms[name]:.3f}" for item in variants)]
        for name in ("p50", "p90", "p99")
    ]
    rows.append(["frames per second", *(f"{item.fps:.0f}" for item in variants)])
    rows.append(["model file, kB", *(f"{item.size_bytes / 1000:.0f}" for item in variants)])
    return (
        f'<div class="panel"><div class="bars">{"".join(bars)}</div></div><div class="legend">{legend}</div>'
        + _table(head, rows)
    )


def _headline(report: Report) -> str:
    first = report.variants[0]
    if len(report.variants) < 2:
        return f"A detector with an AP of {first.accuracy['AP']:.2f}, trained while you watched"
    other = report.variants[1]
    points = 100 * (other.accuracy["AP"] - first.accuracy["AP"])
    cost = f"{-points:.1f} points of AP lost" if points <= -0.05 else "no AP lost"  # a gain would be noise
    return f"{other.name} is {report.speed:.2f} times as fast, with {cost}. Best on this device: {report.best}."


def _tiles(report: Report) -> str:
    best = next(item for item in report.variants if item.name == report.best)
    total = sum(step.seconds for step in report.steps if not step.reused)
    tiles = [
        (f"{best.accuracy['AP']:.3f}", f"AP of {best.name}"),
        (f"{best.accuracy['AP50']:.3f}", f"AP50 of {best.name}"),
        (f"{best.latency_ms['p50']:.2f} ms", "a frame, end to end, median"),
        (f"{best.fps:.0f}", "frames per second"),
        (f"{best.size_bytes / 1e6:.1f} MB", "model file"),
        (f"{total:.0f} s", "for this run of the demo"),
    ]
    cells = "".join(f'<div class="tile"><b>{value}</b><span>{escape(text)}</span></div>' for value, text in tiles)
    return f'<div class="tiles">{cells}</div>'


def _steps(steps: Sequence[Step]) -> str:
    items = []
    for step in steps:
        took = "reused" if step.reused else f"{step.seconds:.1f} s"
        items.append(f"<li><b>{escape(step.name)}</b><span>{took}</span><code>{escape(step.command)}</code></li>")
    return f'<div class="panel"><ol class="steps">{"".join(items)}</ol></div>'


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><td>{escape(name)}</td><td class="wrap">{escape(value)}</td></tr>' for name, value in pairs)
    return f'<div class="panel scroll"><table><tbody>{rows}</tbody></table></div>'


def render(report: Report) -> str:
    """The whole report as HTML; style, pictures and charts are inside."""
    style = Path(__file__).with_name("report.css").read_text()
    kind = "" if report.best != report.variants[0].name else " float"
    lines = []
    for remark, command in report.commands:
        lines += [f'<span class="remark"># {escape(remark)}</span>'] if remark else []
        lines.append(escape(command))
    commands = "\n".join(lines)
    title = "edgedet demo"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<p class="brand">{title}</p>
<h1>{escape(_headline(report))}</h1>
<span class="verdict{kind}">verified best precision: {escape(report.best)}</span>
<p class="lead">{escape(report.dataset)} {escape(report.reason)}</p>
{_tiles(report)}
<h2>What it sees</h2>
<p>The first validation scenes, which training never saw, and the detections that score {report.shown:g} or more.</p>
{_gallery(report)}
<h2>How it learned</h2>
<div class="charts">{"".join(_chart(curve) for curve in report.curves)}</div>
<h2>How accurate it is</h2>
<p>COCO metrics of the engines that run, through the same runtime and preprocessing as in production.</p>
{_accuracy(report.variants)}
<h2>How fast it is</h2>
<p>One frame at a time, from pixels in memory to detections; each precision in a run of its own.</p>
{_latency(report.variants)}
<h2>Why this precision</h2>
{_pairs(report.checks)}
<h2>What was done</h2>
{_steps(report.steps)}
<h2>Where it was measured</h2>
{_pairs(report.environment)}
<h2>Your own data</h2>
<pre>{commands}</pre>
</main>
</body>
</html>
"""

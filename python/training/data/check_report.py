"""The linter's report as lines of text, coloured where a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from training.data.check import KINDS, CheckReport, FindingGroup, Spread

_LISTED = 5  # examples shown of each kind
_CLASSES = 100  # classes listed
_BAR = 24  # characters of the longest bar

#: A line and its style in rich's words ("" for plain).
Line = tuple[str, str]

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def report_lines(report: CheckReport) -> Iterator[Line]:
    """The whole report, top to bottom."""
    yield from _figures(report)
    yield "", ""
    yield from _classes(report)
    yield "", ""
    for group in report.findings:
        yield from _findings(group)
    errors, warnings = report.count("error"), report.count("warning")
    if errors:
        yield f"{errors} errors, {warnings} warnings: correct the errors before training", _STYLES["error"]
    elif warnings:
        yield f"no errors, {warnings} warnings: the dataset can be trained on", _STYLES["warning"]
    else:
        yield "no errors, no warnings", "green"


def _figures(report: CheckReport) -> Iterator[Line]:
    splits = report.splits.values()
    rows: list[tuple[str, Sequence[str]]] = [
        ("", list(report.splits)),
        ("images", [f"{split.images}" for split in splits]),
        ("  without boxes", [f"{split.without_boxes}" for split in splits]),
        ("  width, px", [_spread(split.width) for split in splits]),
        ("  height, px", [_spread(split.height) for split in splits]),
        ("  file formats", [_counts(split.formats) for split in splits]),
        ("  pixel modes", [_counts(split.modes) for split in splits]),
        ("boxes", [f"{split.boxes}" for split in splits]),
        ("  per image", [_spread(split.boxes_per_image) for split in splits]),
        ("  small (< 32² px)", [_share(split.small, split.boxes) for split in splits]),
        ("  medium (< 96² px)", [_share(split.medium, split.boxes) for split in splits]),
        ("  large", [_share(split.large, split.boxes) for split in splits]),
        (f"  < 1 px at {report.size}", [_share(split.below_pixel, split.boxes) for split in splits]),
        (f"  < 8 px at {report.size}", [_share(split.below_stride, split.boxes) for split in splits]),
        ("  crowd, left out", [f"{split.crowd}" for split in splits]),
    ]
    for index, line in enumerate(_table(rows)):
        yield line, "bold" if index == 0 else ""


def _classes(report: CheckReport) -> Iterator[Line]:
    per_split = [split.boxes_per_class for split in report.splits.values()]
    names = list(dict.fromkeys(name for counts in per_split for name in counts))
    total = {name: sum(counts.get(name, 0) for counts in per_split) for name in names}
    order = sorted(names, key=lambda name: -total[name])
    most = max(total.values(), default=0) or 1
    rows: list[tuple[str, Sequence[str]]] = [("class", [*report.splits, ""])]
    for name in order[:_CLASSES]:
        bar = "█" * max(round(_BAR * total[name] / most), 1 if total[name] else 0)
        rows.append((name, [*(f"{counts.get(name, 0)}" for counts in per_split), bar]))
    for index, line in enumerate(_table(rows)):
        yield line, "bold" if index == 0 else ""
    if len(order) > _CLASSES:
        yield f"… {len(order) - _CLASSES} more classes", ""


def _findings(group: FindingGroup) -> Iterator[Line]:
    yield f"{group.level}: {KINDS[group.kind]}: {group.count} [{group.kind}]", _STYLES[group.level]
    for message in group.examples[:_LISTED]:
        yield f"  {message}", ""
    if group.count > _LISTED:
        yield f"  … {group.count - _LISTED} more", ""


def _table(rows: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Aligned columns: the first to the left, the others with a little more room than they need."""
    head = max(len(name) for name, _ in rows)
    widths = [max(len(cell) for cell in column) for column in zip(*(cells for _, cells in rows), strict=True)]
    for name, cells in rows:
        columns = "   ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"{name.ljust(head)}   {columns}".rstrip()


def _spread(spread: Spread) -> str:
    if spread.least == spread.most:
        return f"{spread.least:g}"
    return f"{spread.least:g} to {spread.most:g}, median {spread.median:g}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f} %)" if whole else "0"

"""report.html: the verdict and its evidence on one page that needs nothing but itself."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from calibration.gate.charts import drop_chart, latency_chart
from calibration.gate.report import where

_CLASSES: Final = 15  # rows of the table of classes before the rest is folded away
_KERNELS: Final = 12

# No script, no request: the page shows what is in it even if a name in the bundle tries otherwise.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_page(report: Mapping[str, Any], pictures: Sequence[Sequence[bytes]]) -> str:
    """The report as one HTML file.

    Args:
        report: as `build_report` gives it.
        pictures: per image of `report["worst"]` the JPEG of the float engine and of the candidate; empty for a page
            without pictures.
    """
    passed = report["verdict"]["passed"]
    title = f"{report['name']}: {report['candidate'].upper()} {'passed' if passed else 'refused'}"
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    sections = [
        _section("What was checked", _checks(report["checks"])),
        _section("Accuracy", _accuracy(report)),
        _section("Classes", _classes(report)),
        _section("Time", _time(report)),
        _section("Images that changed most", _worst(report, pictures)),
        _section("What the engine runs", _kernels(report["execution"])),
        _section("About this report", _facts(report)),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{_head(report, title)}
{_tiles(report)}
{"".join(sections)}
<footer>Written by edgedet {escape(report["versions"]["edgedet"])} on {escape(report["created"])}. The same figures are
in report.json.</footer>
</main>
</body>
</html>
"""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n"


def _head(report: Mapping[str, Any], title: str) -> str:
    state = "passed" if report["verdict"]["passed"] else "refused"
    best = f"Best verified precision on this device: {report['verdict']['best'].upper()}."
    lists = "".join(
        f'<ul class="{kind}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'
        for kind, lines in (("reasons", report["verdict"]["reasons"]), ("notes", report["notes"]))
        if lines
    )
    return (
        f'<header class="{state}"><span class="badge">{state.upper()}</span><h1>{escape(title)}</h1>'
        f"<p>{escape(best)} {escape(where(report))}.</p>{lists}</header>"
    )


def _tiles(report: Mapping[str, Any]) -> str:
    ap, moved, execution, candidate = report["ap"], report["drift"], report["execution"], report["candidate"]
    tiles = [
        (f"{ap['fp32']['AP']:.3f} → {ap[candidate]['AP']:.3f}", f"AP, float → {candidate.upper()}"),
        (f"{_signed(-report['ap_drop'], 4)}", f"change of AP, ± {report['ap_drop_se']:.4f}"),
        (f"\N{MULTIPLICATION SIGN}{report['latency_ratio']:.2f}", "of the float time, frame to detections"),
        (f"{moved['matched']:.1%}", "of confident detections found again"),
        (f"{moved['box_mean_px']:.1f} px", "boxes moved, mean"),
        (f"{execution[candidate]} of {execution['weighted']}", f"layers on {candidate} kernels"),
    ]
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr{'' if check['passed'] else ' class=failed'}>"
        f'<td class="{"yes" if check["passed"] else "no"}">{"✓" if check["passed"] else "✗"}</td>'
        f"<td>{escape(check['name'])}</td><td>{escape(check['found'])}</td><td>{escape(check['asked'])}</td></tr>"
        for check in checks
    )
    head = "<tr><th></th><th>check</th><th>found</th><th>asked</th></tr>"
    return f'<div class="panel"><table class="checks"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _accuracy(report: Mapping[str, Any]) -> str:
    ap, candidate = report["ap"], report["candidate"]
    rows = []
    for name, before in ap["fp32"].items():
        after = ap[candidate][name]
        if before >= 0.0:  # -1: there is no object of that size
            rows.append((name.replace("_", " "), f"{before:.4f}", f"{after:.4f}", _signed(after - before, 4)))
    moved, title = report["drift"], candidate.upper()
    text = (
        f"Of {moved['detections']:.0f} float detections with a score of {moved['score']:g} and up, "
        f"{moved['matched']:.1%} are found again by {title}. Boxes moved by {moved['box_mean_px']:.2f} px on average, "
        f"the 95th percentile is {moved['box_p95_px']:.2f} px; their scores moved by {moved['score_mean']:.3f} and "
        f"{moved['score_p95']:.3f}."
    )
    return (
        f'<div class="pair">{_table(("", "float", title, "change"), rows)}'
        f'<div class="panel">{drop_chart(report)}<p class="hint">The loss of AP with its standard error. It may reach '
        "the dashed line: the accepted loss and one standard error, at most twice the accepted loss.</p></div></div>"
        f'<p class="hint">{escape(text)}</p>'
    )


def _classes(report: Mapping[str, Any]) -> str:
    classes, candidate = report["classes"], report["candidate"]
    largest = max((abs(entry["drop"]) for entry in classes), default=0.0) or 1.0
    rows = []
    for entry in classes:
        error = "" if entry["drop_se"] is None else f" ± {entry['drop_se']:.3f}"
        kind = "loss" if entry["drop"] > 0 else "gain"
        bar = f'<span class="bar {kind}" style="width:{100 * abs(entry["drop"]) / largest:.1f}%"></span>'
        rows.append(
            f"<tr><td>{escape(entry['name'])}</td><td>{entry['objects']}</td><td>{entry['fp32']:.3f}</td>"
            f"<td>{entry[candidate]:.3f}</td><td>{_signed(-entry['drop'], 3)}{error}</td>"
            f'<td class="bars">{bar}</td></tr>'
        )
    names = ("class", "objects", "float", candidate.upper(), "change of AP", "")
    head = f"<thead><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr></thead>"
    shown = f"<table>{head}<tbody>{''.join(rows[:_CLASSES])}</tbody></table>"
    if rest := rows[_CLASSES:]:
        shown += (
            f"<details><summary>{len(rest)} more classes</summary>"
            f"<table>{head}<tbody>{''.join(rest)}</tbody></table></details>"
        )
    hint = "Largest loss first. A class with few objects swings by itself: read the change beside its standard error."
    return f'<div class="panel">{shown}</div><p class="hint">{hint}</p>'


def _time(report: Mapping[str, Any]) -> str:
    latency, candidate = report["latency_ms"], report["candidate"]
    names = [("p50", "median"), ("p90", "p90"), ("p99", "p99"), ("mean", "mean"), ("inference_p50", "network, median")]
    rows = [
        (text, *(f"{latency[engine][key]:.2f}" for engine in ("fp32", candidate)), _ratio(latency, candidate, key))
        for key, text in names
    ]
    legend = f'<p class="legend"><i class="float"></i>float<i class="candidate"></i>{candidate.upper()}</p>'
    return (
        f'<div class="pair">{_table(("milliseconds", "float", candidate.upper(), "ratio"), rows)}'
        f'<div class="panel">{latency_chart(report)}{legend}</div></div>'
        '<p class="hint">From frame in memory to detections; the engines take turns on every image.</p>'
    )


def _ratio(latency: Mapping[str, Mapping[str, float]], candidate: str, key: str) -> str:
    before, after = latency["fp32"][key], latency[candidate][key]
    return f"\N{MULTIPLICATION SIGN}{after / before:.2f}" if before else ""


def _worst(report: Mapping[str, Any], pictures: Sequence[Sequence[bytes]]) -> str:
    worst = report["worst"]
    if not worst:
        return '<p class="hint">No confident detection changed.</p>'
    parts = []
    for at, image in enumerate(worst):
        text = (
            f"{image['lost']} of {image['detections']} confident detections lost, {image['added']} added, "
            f"the others moved by {image['moved_px']:.1f} px"
        )
        shown = ""
        if at < len(pictures):
            shown = "".join(
                f'<figure><img alt="{name}" src="data:image/jpeg;base64,{b64encode(jpeg).decode()}">'
                f"<figcaption>{name}</figcaption></figure>"
                for name, jpeg in zip(("float", report["candidate"].upper()), pictures[at], strict=True)
            )
            shown = f'<div class="sides">{shown}</div>'
        parts.append(f'<div class="panel worst"><p><b>{escape(image["file"])}</b>: {text}</p>{shown}</div>')
    return "".join(parts)


def _kernels(execution: Mapping[str, Any]) -> str:
    rows = [tuple(escape(part) for part in (key, str(count))) for key, count in execution["primitives"].items()]
    shown = _table(("type, kernel, precision", "layers"), rows[:_KERNELS])
    if rest := rows[_KERNELS:]:
        more = _table(("type, kernel, precision", "layers"), rest)
        shown += f"<details><summary>{len(rest)} more kinds</summary>{more}</details>"
    return shown


def _facts(report: Mapping[str, Any]) -> str:
    evaluation, versions = report["evaluation"], report["versions"]
    facts = [
        ("measured on", f"{where(report)}, {report['machine']}"),
        ("images", f"{evaluation['images']} of {evaluation['of']} in the annotations, from {evaluation['first']}"),
        *((f"{key} model", f"{entry['file']}, sha256 {entry['sha256']}") for key, entry in report["models"].items()),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts)
    return f'<div class="panel"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of ready-made cells; the caller escapes them."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="panel"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return text if float(f"{value:.{digits}f}") else f"{0:.{digits}f}"

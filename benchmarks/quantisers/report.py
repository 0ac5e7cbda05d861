"""`table`: what was made, evaluated and timed, as JSON, Markdown and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quantisers.contenders import FLOAT, OURS, Contender, Engine
from benchmarks.quantisers.workspace import Subject, calibration_digest, file_digest, read_json
from edgedet.files import write_atomically

_SHOWN: tuple[Engine, ...] = ("openvino", "onnxruntime")  # a column of each
_COLOURS = {FLOAT: "black", OURS: "tab:green", "onnxruntime": "tab:blue", "modelopt": "tab:orange", "nncf": "tab:red"}
_MARKERS = {"openvino": "o", "onnxruntime": "^"}

Row = dict[str, Any]


def write_report(subjects: Sequence[Subject], contenders: Sequence[Contender], folder: Path) -> None:
    """Write quantisers.json, quantisers.md and, once there are times, quantisers.png."""
    document = gather(subjects, contenders)
    write_atomically(folder / "quantisers.json", (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(folder / "quantisers.md", markdown(document).encode())
    if all(model["timing"] for model in document["models"].values()):
        draw(document, folder / "quantisers.png")


def gather(subjects: Sequence[Subject], contenders: Sequence[Contender]) -> dict[str, Any]:
    """All figures. Times and APs of another file than the one that is there now are left out."""
    sample = subjects[0].sample
    models = {}
    for subject in subjects:
        times = read_json(subject.folder / "times.json")
        entries = times.pop("entries", {})
        models[subject.name] = {
            "float_sha256": file_digest(subject.float_file),
            "timing": times or None,
            "contenders": [_row(subject, contender, entries) for contender in contenders],
        }
    return {
        "calibration": {
            "images": len(sample.images),
            "strategy": sample.strategy,
            "seed": sample.seed,
            "candidates": sample.candidates,
            "sha256": calibration_digest(sample),
            "files": {image.file: image.sha256 for image in sample.images},
        },
        "models": models,
    }


def _row(subject: Subject, contender: Contender, times: Mapping[str, Any]) -> Row:
    folder = subject.of(contender)
    record = read_json(folder / "record.json")
    model = subject.model(contender)
    digest = file_digest(model) if model is not None else None
    engines: dict[str, Any] = {}
    for engine in contender.engines:
        found = read_json(folder / f"ap.{engine}.json")
        if digest is None or found.pop("request", {}).get("sha256") != digest:
            continue
        timed = times.get(f"{contender.key} {engine}", {})
        engines[engine] = {**found, "time": timed if timed.get("sha256") == digest else None}
    return {
        "key": contender.key,
        "title": contender.title,
        "tool": contender.tool,
        "made_for": contender.engines[0],
        "settings": record.get("request", {}).get("settings", {}),
        "seconds": record.get("seconds"),
        "versions": record.get("versions", {}),
        "error": record.get("error"),
        "sha256": digest,
        "engines": engines,
    }


def exceptions(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Where a peer keeps "better than every one in AP at equal or lower latency" from being true of ours.

    Ours is what it is in OpenVINO; a peer is looked at in every engine that it was measured in.

    Returns:
        "accuracy": peers with at least our AP; "time": peers that are faster; each "title in engine". "both": peers
        on both lists.
    """
    ours = next((row for row in rows if row["key"] == OURS), None)
    here = (ours or {"engines": {}})["engines"].get("openvino", {})
    found: dict[str, list[str]] = {"accuracy": [], "time": [], "both": []}
    if "AP" not in here:
        return found
    for row in rows:
        if row["tool"] is None:
            continue
        for engine, figures in row["engines"].items():
            name = f"{row['title']} in {engine}"
            accurate = figures.get("AP", -1.0) >= here["AP"]
            timed = figures.get("time") and here["time"]
            fast = bool(timed) and figures["time"]["p50"] < here["time"]["p50"]
            for kind, holds in (("accuracy", accurate), ("time", fast), ("both", accurate and fast)):
                if holds:
                    found[kind].append(name)
    return found


def markdown(document: Mapping[str, Any]) -> str:
    """The tables. Bold: the engine that a quantiser's files are made for."""
    calibration = document["calibration"]
    lines = [f"{calibration['images']} calibration images (digest of the set {calibration['sha256'][:12]})."]
    for name, model in document["models"].items():
        rows = model["contenders"]
        timing = model["timing"]
        lines += ["", f"## {name}", ""]
        if timing:
            lines += [
                f"{timing['device']}, {timing['threads']} threads, {timing['rounds']} rounds of {timing['calls']} runs "
                "in turns; time is the median against FP32 in OpenVINO, lowest and highest round in brackets.",
                "",
            ]
        lines += [
            f"| quantiser{' | AP in {} | AP50 | time | int8 layers' * len(_SHOWN)} |".format(*_SHOWN),
            "|---" * (1 + 4 * len(_SHOWN)) + "|",
        ]
        for row in rows:
            cells = [row["title"] if row["key"] != OURS else f"**{row['title']}**"]
            for engine in _SHOWN:
                cells += _cells(row, engine)
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *(f"{row['title']} failed: {row['error']}" for row in rows if row["error"])]
        against = exceptions(rows)
        lines += [
            f"Peers with at least the AP of edgedet in OpenVINO: {_listed(against['accuracy'])}.",
            *(
                [f"Peers that are faster: {_listed(against['time'])}. Both: {_listed(against['both'])}."]
                if timing
                else []
            ),
        ]
    return "\n".join(lines) + "\n"


def _cells(row: Row, engine: Engine) -> list[str]:
    """AP, AP50, time and int8 layers of a row in one engine."""
    figures = row["engines"].get(engine)
    if figures is None:
        return [""] * 4
    if "error" in figures:
        return ["does not load", "", "", ""]
    mark = "**" if row["made_for"] == engine else ""
    time = figures["time"]
    shown = (
        f"{time['ratio_of_medians']:.2f} ({time['lowest_round']:.2f} to {time['highest_round']:.2f})" if time else ""
    )
    return [
        f"{mark}{figures['AP']:.4f}{mark}",
        f"{figures['AP50']:.4f}",
        f"{mark}{shown}{mark}" if shown else "",
        f"{figures['int8']} of {figures['weighted']}",
    ]


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names) if names else "none"


def draw(document: Mapping[str, Any], target: Path) -> None:
    """AP over time, one panel a model, every contender in every engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    models = document["models"]
    figure, panels = pyplot.subplots(1, len(models), figsize=(6.5 * len(models), 4.6), squeeze=False, dpi=120)
    for panel, (name, model) in zip(panels[0], models.items(), strict=True):
        for row in model["contenders"]:
            kind = row["tool"] or row["key"]
            for engine, figures in row["engines"].items():
                if not figures.get("time"):
                    continue
                style = {"color": _COLOURS[kind], "marker": _MARKERS[engine], "s": 90 if kind == OURS else 40}
                panel.scatter(figures["time"]["ratio_of_medians"], figures["AP"], **style, alpha=0.8)
        panel.set_title(name)
        panel.set_xlabel("time of the network, FP32 in OpenVINO = 1")
        panel.set_ylabel("AP")
        panel.grid(alpha=0.3)
    titles = {FLOAT: "FP32", OURS: "edgedet", "onnxruntime": "onnxruntime", "modelopt": "ModelOpt", "nncf": "NNCF"}
    handles = [Line2D([], [], ls="", marker="s", color=_COLOURS[kind], label=title) for kind, title in titles.items()]
    handles += [
        Line2D([], [], ls="", marker=mark, color="grey", label=f"in {engine}") for engine, mark in _MARKERS.items()
    ]
    panels[0][-1].legend(handles=handles, fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(target)
    pyplot.close(figure)

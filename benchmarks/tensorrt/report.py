"""The results for people: Markdown, and a plot of accuracy against latency."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.cuda_frames.report import number, rows_table, table
from benchmarks.tensorrt.goals import goals
from benchmarks.tensorrt.plan import SECTIONS
from benchmarks.tensorrt.record import Row, measured
from benchmarks.tensorrt.speed import DEVICE, ENGINE, HOST

_MIB = 2**20


def markdown(record: Mapping[str, Any]) -> str:
    """Verdicts first, then every section, then how it was run."""
    parts = [f"# TensorRT on {_device(record)}", _verdicts(record)]
    for plan in SECTIONS:
        entry = record["sections"].get(plan.name)
        if entry is None:
            continue
        title = f"## {plan.name}: {plan.text}"
        if "error" in entry:
            parts.append(f"{title}\n\n{entry['error']}")
            continue
        write = _TABLES.get(plan.name, _plain)
        parts.append(f"{title}\n\n{write(entry['rows'])}")
    commands = "\n".join(f"    {command}" for command in record.get("commands", []))
    parts.append(f"## Commands\n\n{commands}")
    return "\n\n".join(parts) + "\n"


def _device(record: Mapping[str, Any]) -> str:
    machine = measured(record, "environment").get("machine", {})
    backend = measured(record, "environment").get("tensorrt", {}).get("backend", "TensorRT unknown")
    smi = machine.get("nvidia_smi", {})
    known = [f"driver {smi['driver_version']}"] if "driver_version" in smi else []
    known += [f"CUDA {machine['cuda_runtime']}"] if machine.get("cuda_runtime") else []
    return ", ".join([str(backend), *known])


def _verdicts(record: Mapping[str, Any]) -> str:
    lines = []
    for goal in goals(record):
        lines.append(f"- **{goal.verdict}**: {goal.text}: {goal.got}")
        lines += [f"  - {note}" for note in goal.why]
    return "\n".join(lines)


def _rows(rows: Mapping[str, Row], head: tuple[str, ...], cells: Callable[[Row], list[str]]) -> str:
    return rows_table([{"engine": step, **row} for step, row in rows.items()], ("engine",), head, cells)


def _build(rows: Mapping[str, Row]) -> str:
    def cells(row: Row) -> list[str]:
        layers = row["layers"]
        kinds = ", ".join(f"{kind} {count}" for kind, count in layers["by_precision"].items())
        megabytes = "" if row["megabytes"] is None else number(row["megabytes"])
        seconds = [number(row["seconds"]), number(row["open_seconds"])]
        return [*seconds, megabytes, str(layers["layers"]), kinds, str(layers["reformats"])]

    head = ("build s", "open s", "engine MB", "layers", "computing layers by type read", "reformats")
    return _rows(rows, head, cells)


def _accuracy(rows: Mapping[str, Row]) -> str:
    engines = {step: row for step, row in rows.items() if not step.startswith("verify ")}
    verdicts = {step: row for step, row in rows.items() if step.startswith("verify ")}

    def cells(row: Row) -> list[str]:
        boxes = row["boxes"]
        moved = [f"{boxes['matched']:.1%}", f"{boxes['box_mean_px']:.3f}", f"{boxes['box_p95_px']:.3f}"]
        return [f"{row['AP']:.4f}", f"{row['reference_AP']:.4f}", f"{-row['drop']:+.4f}", *moved, str(row["images"])]

    def judged(row: Row) -> list[str]:
        verdict = row["verdict"]
        return ["passed" if verdict["passed"] else "refused: " + "; ".join(verdict.get("reasons", []))]

    head = ("AP", "onnxruntime FP32", "difference", "found again", "boxes moved, mean px", "p95 px", "images")
    parts = [_rows(engines, head, cells)] if engines else []
    parts += [_rows(verdicts, ("verdict",), judged)] if verdicts else []
    return "\n\n".join(parts)


def _speed(rows: Mapping[str, Row]) -> str:
    def cells(row: Row) -> list[str]:
        times, ratios = row["milliseconds"], row.get("of_engine", {})
        found = []
        for name in (DEVICE, HOST, ENGINE):
            found += [number(times[name][key]) if name in times else "" for key in ("p50", "p99")]
        found += [f"{ratios[name]:.3f}" if name in ratios else "" for name in (DEVICE, HOST)]
        stages = row.get("stages", {})
        found += [number(stages[name]["p50"]) if name in stages else "" for name in ("preprocess", "decode")]
        return [*found, "" if row["device_bytes"] is None else number(row["device_bytes"] / _MIB)]

    head = tuple(f"{name} {key} ms" for name in (DEVICE, HOST, ENGINE) for key in ("p50", "p99"))
    head += ("device / engine", "host / engine", "preprocess us", "decode us", "VRAM MiB")
    text = _rows(rows, head, cells)
    reasons = sorted({reason for row in rows.values() for reason in row.get("not_measured", {}).values()})
    return "\n".join([text, *(f"\nNot measured: {reason}" for reason in reasons)])


def _peers(rows: Mapping[str, Row]) -> str:
    lines, notes = [], []
    for step, row in rows.items():
        if "ways" in row:
            for name, way in row["ways"].items():
                times = way["milliseconds"]
                cells = [number(times["p50"]), number(times["p99"]), f"{way['ratio_of_medians']:.2f}"]
                lines.append([step, name, *cells, f"{way['boxes']['matched']:.1%}"])
            notes += [f"{step}, {name}: {reason}" for name, reason in row["not_measured"].items()]
        elif "milliseconds" in row:
            for name, times in row["milliseconds"].items():
                if "p50" in times:
                    lines.append([step, name, number(times["p50"]), number(times.get("p99", 0.0)), "", ""])
                else:
                    notes.append(f"{step}, {name}: {times.get('skipped') or times.get('error')}")
        else:
            notes.append(f"{step}: {row.get('skipped') or row.get('error')}")
    head = ("engine", "way", "p50 ms", "p99 ms", "/ edgedet", "detections found again")
    return "\n".join([table(head, lines), "", *(f"- {note}" for note in dict.fromkeys(notes))])


def _plain(rows: Mapping[str, Row]) -> str:
    """A line a step: what matters most of it."""
    lines = []
    for step, row in rows.items():
        if "error" in row or "skipped" in row:
            lines.append(f"- {step}: {str(row.get('error') or row.get('skipped')).splitlines()[0]}")
            continue
        simple = {key: value for key, value in row.items() if isinstance(value, (bool, int, float, str))}
        simple.pop("step_seconds", None)
        lines.append(f"- {step}: " + ", ".join(f"{key} {_short(value)}" for key, value in simple.items()))
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_TABLES: dict[str, Callable[[Mapping[str, Row]], str]] = {
    "build": _build,
    "accuracy": _accuracy,
    "speed": _speed,
    "peers": _peers,
}


def points(record: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Milliseconds of an engine of batch 1 end to end, from the device where that was measured, and its AP."""
    speed, accuracy = measured(record, "speed"), measured(record, "accuracy")
    found = {}
    for step in accuracy:
        if step in speed:
            times = speed[step]["milliseconds"]
            found[step] = (times.get(DEVICE, times[HOST])["p50"], accuracy[step]["AP"])
    return found


def plot(record: Mapping[str, Any], file: Path) -> None:
    """AP against latency, and what surrounds the engine as a share of it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, (milliseconds, ap) in points(record).items():
        left.plot(milliseconds, ap, "o")
        left.annotate(name, (milliseconds, ap), textcoords="offset points", xytext=(5, 4), fontsize=8)
    left.set(xlabel="end to end, ms (p50, 1080p frame)", ylabel="AP", title="accuracy against latency")
    ratios = {
        step: ratio
        for step, row in measured(record, "speed").items()
        if (ratio := row.get("of_engine", {}).get(DEVICE, row.get("of_engine", {}).get(HOST))) is not None
    }
    right.barh(list(ratios), list(ratios.values()))
    right.axvline(1.08, color="grey", linestyle=":")
    right.set(xlabel="end to end / engine alone (dotted: 1.08)", title="what surrounds the engine")
    right.tick_params(labelsize=8)
    if ratios:
        right.set_xlim(min(1.0, *ratios.values()) * 0.95, max(statistics.median(ratios.values()) * 1.5, 1.1))
    figure.suptitle(_device(record), fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)

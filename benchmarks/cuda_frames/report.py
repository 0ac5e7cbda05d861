"""The results as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.cuda_frames.figures import Row
from benchmarks.cuda_frames.tools import METRICS

# The heads of the columns of a section, and the cells of a row that has figures.
Table = tuple[Sequence[str], Callable[[Row], Sequence[str]]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown whose columns stand under each other in a terminal too; a short row's last cell may be long."""
    full = [row for row in rows if len(row) == len(head)]
    widths = [max(len(row[i]) for row in [head, *full]) for i in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=False)] for row in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Three digits or more, without an exponent."""
    for digits, least in ((0, 1000), (1, 100), (2, 10)):
        if abs(value) >= least:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


def times(summary: Mapping[str, float]) -> list[str]:
    return [number(summary[key]) for key in ("p50", "p99", "minimum")]


TIMES = ("p50 us", "p99 us", "least us")


def _case(row: Row, keys: Sequence[str]) -> list[str]:
    return [str(row.get(key, "")) for key in keys]


def rows_table(rows: Sequence[Row], case: Sequence[str], head: Sequence[str], cells: Callable[[Row], list[str]]) -> str:
    """A line a row: its case, then its figures, or what stopped it."""
    lines = []
    for row in rows:
        stopped = row.get("error", row.get("skipped"))
        lines.append([*_case(row, case), *(cells(row) if stopped is None else [str(stopped).splitlines()[0]])])
    return table([*case, *head], lines)


def _preprocess(result: Mapping[str, Any]) -> str:
    def cells(row: Row) -> list[str]:
        needed = f"{row['needed_of_copy']:.2f}" if "needed_of_copy" in row else ""
        rest = [number(row["gigabytes_a_second"]), f"{row['of_copy']:.2f}", needed, str(row["equal_to_cpu"])]
        return [*times(row["microseconds"]), *rest, _timed(row["timed"])]

    head = (*TIMES, "GB/s", "of copy", "of copy, rows needed", "equal to CPU", "timed")
    return rows_table(result["rows"], ("source", "format", "filter", "side", "batch", "dtype"), head, cells)


def _timed(text: str) -> str:
    return text.partition(",")[0]


def _decode(result: Mapping[str, Any]) -> str:
    def cells(row: Row) -> list[str]:
        peer = [number(row["torch_microseconds"]["p50"]), f"{row['torch_ratio_of_medians']:.1f}"]
        same = f"{row['agreement'].get('same_labels', 0.0):.4f}"
        return [*times(row["microseconds"]), *peer, same, _timed(row["timed"])]

    head = (*TIMES, "torch p50 us", "torch / edgedet", "labels as on the CPU", "timed")
    return rows_table(result["rows"], ("rows", "classes", "batch", "dtype"), head, cells)


def _frame(result: Mapping[str, Any]) -> str:
    def latency(row: Row) -> list[str]:
        cpu = [number(row[f"{kind}_cpu_microseconds"]["p50"]) for kind in ("thread", "process")]
        return [*times(row["microseconds"]), *cpu, *memory(row)]

    def throughput(row: Row) -> list[str]:
        taken = row["frames_a_second"]
        return [number(taken["p50"]), number(taken["minimum"]), *memory(row)]

    def memory(row: Row) -> list[str]:
        return [number(row[f"{kind}_bytes"] / 2**20) for kind in ("device", "pinned")]

    alone = [row for row in result["rows"] if row["paths"] == 0]
    flowing = [row for row in result["rows"] if row["paths"] > 0]
    held = ("device MiB", "pinned MiB")
    first = rows_table(
        alone, ("source", "place", "graph", "outputs"), (*TIMES, "thread CPU us", "process CPU us", *held), latency
    )
    second = rows_table(
        flowing, ("source", "place", "graph", "paths"), ("frames/s p50", "frames/s least", *held), throughput
    )
    return f"{first}\n\n{second}"


def _peers(result: Mapping[str, Any]) -> str:
    def kind(row: Row, name: str) -> list[str]:
        measured = row[name]
        ratio = f"{measured['ratio_of_medians']:.2f}" if "ratio_of_medians" in measured else ""
        return [number(measured["microseconds"]["p50"]), number(measured["microseconds"]["p99"]), ratio]

    def cells(row: Row) -> list[str]:
        agreement = row["agreement"]
        levels = [f"{agreement['largest_levels']:.2f}", f"{agreement['mean_levels']:.3f}"]
        labels = f"{agreement.get('same_labels', 0.0):.3f}"
        return [*kind(row, "end_to_end"), *kind(row, "preprocess"), *levels, labels]

    whole = ("end to end p50 us", "p99 us", "/ edgedet")
    alone = ("preprocess p50 us", "p99 us", "/ edgedet")
    head = (*whole, *alone, "largest difference, levels", "mean", "same labels")
    return rows_table(result["rows"], ("name", "filter"), head, cells)


def _nsight(result: Mapping[str, Any]) -> str:
    def cells(row: Row) -> list[str]:
        values = [row.get(metric, {}).get("value", "") for metric in METRICS]
        return [number(value) if isinstance(value, float) else str(value) for value in values]

    lines = [str(result["skipped"])] if "skipped" in result else []
    for kind in ("preprocess", "decode"):
        lines += result.get(kind, {}).get("messages", [])
        lines += [f"{kind}: {result[kind]['error']}"] if "error" in result.get(kind, {}) else []
    if result["rows"]:
        lines.append(rows_table(result["rows"], ("case",), METRICS, cells))
    return "\n".join(lines)


def _copy(result: Mapping[str, Any]) -> str:
    return f"{number(result['gigabytes_a_second'])} GB/s, bytes read and written"


def _tests(result: Mapping[str, Any]) -> str:
    ran = result["pytest"]
    lines = [f"pytest: {ran['closing_line']} (status {ran.get('status', 'none: out of time')})"]
    lines += ran.get("failures", [])
    for tool, check in result["sanitizer"].items():
        if isinstance(check, dict):
            said = check["summary"] or "no summary"
            lines.append(f"{tool}: {'passed' if check['passed'] else 'FAILED'}, {said}{_ended(check)}")
        elif tool == "skipped":
            lines.append(f"sanitizer: {check}")
    return "\n".join(lines)


def _ended(check: Mapping[str, Any]) -> str:
    return ", out of time" if check.get("timed_out") else f", status {check['status']}"


_SECTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "tests": _tests,
    "copy": _copy,
    "preprocess": _preprocess,
    "decode": _decode,
    "frame": _frame,
    "peers": _peers,
    "nsight": _nsight,
}


def report(record: Mapping[str, Any]) -> str:
    """Every section that ran, then the goals."""
    device = record["environment"].get("device", {})
    versions = record["environment"].get("versions", {})
    known = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [f"{device.get('name', 'CUDA device')}: {known}"]
    for name, section in record["sections"].items():
        text = section["error"] if "error" in section else _SECTIONS[name](section["result"])
        parts.append(f"## {name} ({section['seconds']:.1f} s)\n\n{text}")
    if record.get("goals"):
        lines = []
        for goal in record["goals"]:
            limit = f">= {goal['at_least']:g}" if "at_least" in goal else f"<= {goal['at_most']:g}"
            lines.append([goal["goal"], limit, number(goal["got"]), "met" if goal["met"] else "MISSED"])
        parts.append("## goals\n\n" + table(("goal", "limit", "got", ""), lines))
    return "\n\n".join(parts) + "\n"

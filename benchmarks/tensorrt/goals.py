"""What was promised, and whether the figures that are there hold it: met, missed or not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.tensorrt.building import explanation
from benchmarks.tensorrt.models import TRAINED
from benchmarks.tensorrt.record import NotMeasured, measured
from benchmarks.tensorrt.speed import DEVICE, ENGINE, HOST
from benchmarks.tensorrt.stress import FRAMES

MOST_DROP = {"fp32": 0.003, "fp16": 0.003, "int8": 0.005}
MOST_OF_ENGINE = 1.08
LARGE = "rtdetrv2-r18"


@dataclass(frozen=True)
class Goal:
    """A promise. got: what was measured, in words. why: notes on a miss, or what it takes to measure."""

    text: str
    verdict: Literal["met", "missed", "not measured"]
    got: str
    why: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        return f"{self.verdict}: {self.text}: {self.got}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "line": self.line}


def goals(record: Mapping[str, Any]) -> list[Goal]:
    """Every promise, in the order of the issue."""
    return [
        *(_drop(record, model, variant) for model in TRAINED for variant in MOST_DROP),
        *(_of_engine(record, model, variant) for model in TRAINED for variant in ("fp32", "fp16", "int8")),
        _int8_faster(record),
        *(_verified(record, model) for model in TRAINED),
        _oracle(record),
        *(_stress(record, step) for step in _STRESS),
        _plugin(record),
        _tests(record),
    ]


_STRESS = (
    "four threads, a detector each",
    "eight threads, one detector",
    f"{FRAMES} frames",
    "memory limit",
    "swap under traffic",
    "several engines",
)


def _missing(record: Mapping[str, Any], section: str, step: str) -> str:
    """Why a step has no figures."""
    entry = record["sections"].get(section)
    if entry is None:
        return f"section {section} did not run"
    row = entry.get("rows", {}).get(step)
    if row is None:
        return str(entry.get("error", "did not run"))
    return str(row.get("error") or row.get("skipped") or "did not run").splitlines()[0]


def _judge(text: str, holds: bool, got: str, why: tuple[str, ...] = ()) -> Goal:
    return Goal(text, "met" if holds else "missed", got, () if holds else why)


def _drop(record: Mapping[str, Any], model: str, variant: str) -> Goal:
    limit = MOST_DROP[variant]
    text = f"{model} {variant}: AP within {limit:g} of onnxruntime FP32"
    row = measured(record, "accuracy").get(f"{model} {variant}")
    if row is None:
        return Goal(text, "not measured", _missing(record, "accuracy", f"{model} {variant}"))
    got = f"{row['AP']:.4f} against {row['reference_AP']:.4f} ({-row['drop']:+.4f}), {row['images']} images"
    return _judge(text, abs(row["drop"]) <= limit, got)


def _of_engine(record: Mapping[str, Any], model: str, variant: str) -> Goal:
    text = f"{model} {variant}: end to end from a 1080p device frame <= {MOST_OF_ENGINE:g} of the engine alone"
    row = measured(record, "speed").get(f"{model} {variant}")
    if row is None:
        return Goal(text, "not measured", _missing(record, "speed", f"{model} {variant}"))
    ratios = row.get("of_engine", {})
    if DEVICE not in ratios:
        reasons = row.get("not_measured", {})
        host = f"; from a host frame {ratios[HOST]:.3f}" if HOST in ratios else ""
        return Goal(text, "not measured", str(reasons.get(ENGINE) or reasons.get(DEVICE)) + host)
    times = row["milliseconds"]
    got = f"{ratios[DEVICE]:.3f} ({times[DEVICE]['p50']:.3f} against {times[ENGINE]['p50']:.3f} ms)"
    return _judge(text, ratios[DEVICE] <= MOST_OF_ENGINE, got)


def _engine_ms(row: Mapping[str, Any]) -> float:
    times = row["milliseconds"]
    return float(times.get(ENGINE, times[HOST])["p50"])


def _int8_faster(record: Mapping[str, Any]) -> Goal:
    """Met also if the report can say why not: the promise is the one or the other."""
    text = f"{LARGE}: INT8 faster than FP16, or why not from the layer information"
    rows = measured(record, "speed")
    half = rows.get(f"{LARGE} fp16")
    int8 = {name: row for name in ("int8", "int8+fp16") if (row := rows.get(f"{LARGE} {name}")) is not None}
    if half is None or not int8:
        return Goal(text, "not measured", _missing(record, "speed", f"{LARGE} {'fp16' if half is None else 'int8'}"))
    name, best = min(int8.items(), key=lambda entry: _engine_ms(entry[1]))
    got = f"{name} {_engine_ms(best):.3f} ms, fp16 {_engine_ms(half):.3f} ms"
    if _engine_ms(best) < _engine_ms(half):
        return Goal(text, "met", got)
    tried = tuple(f"tried: {name} {_engine_ms(row):.3f} ms" for name, row in int8.items())
    try:
        why = tuple(explanation(measured(record, "build"), LARGE))
    except NotMeasured as reason:
        return Goal(text, "missed", f"{got}; no reason: {reason}", tried)
    return Goal(text, "met", f"{got}: not faster, the reasons follow", (*tried, *why))


def _verified(record: Mapping[str, Any], model: str) -> Goal:
    text = f"{model}: `calibration verify --backend tensorrt` runs on the engines"
    said = {
        precision: measured(record, "accuracy").get(f"verify {model} {precision}") for precision in ("fp16", "int8")
    }
    if None in said.values():
        step = next(f"verify {model} {precision}" for precision, row in said.items() if row is None)
        return Goal(text, "not measured", _missing(record, "accuracy", step))
    words = [f"{name} {_verdict_text(row)}" for name, row in said.items() if row is not None]
    return Goal(text, "met", "; ".join(words))


def _verdict_text(row: Mapping[str, Any]) -> str:
    found = row["verdict"]
    return "passed" if found["passed"] else "refused: " + "; ".join(found.get("reasons", []))


def _oracle(record: Mapping[str, Any]) -> Goal:
    text = "another program on the same plan gives the same output tensors"
    rows = measured(record, "oracle")
    if not rows:
        entry = record["sections"].get("oracle", {}).get("rows", {})
        return Goal(text, "not measured", _missing(record, "oracle", next(iter(entry), "")))
    worst = max(row["difference"] for row in rows.values())
    equal = sum(row["equal"] for row in rows.values())
    wrong = tuple(f"{step}: {row['difference']:.2e}" for step, row in rows.items() if not row["passed"])
    got = f"{equal} of {len(rows)} to the bit, largest difference {worst:.1e} of the largest value"
    return _judge(text, not wrong, got, wrong)


def _stress(record: Mapping[str, Any], step: str) -> Goal:
    row = measured(record, "stress").get(step)
    if row is None:
        return Goal(step, "not measured", _missing(record, "stress", step))
    if "limit_bytes" in row and "frames" in row:
        lines = [
            f"{name} {row[f'{name}_bytes']['total'] / 2**20:+.2f} ± {row[f'{name}_bytes']['total_error'] / 2**20:.2f}"
            for name in ("resident", "device")
            if f"{name}_bytes" in row
        ]
        return _judge(
            f"{step} leave memory flat, limit {row['limit_bytes'] / 2**20:g} MiB",
            row["passed"],
            f"MiB over {row['frames']} frames: {', '.join(lines)}",
        )
    if "most_bytes" in row:
        got = f"{row['most_bytes'] / 2**20:.0f} of {row['limit_bytes'] / 2**20:.0f} MiB"
        return _judge("a memory limit of 4 GiB holds in build and run", row["passed"], got)
    got = str(row["answers"]) if "answers" in row else f"{row.get('wrong', 0)} wrong"
    return _judge(f"{step}: the detections of one thread alone", row["passed"], got)


def _plugin(record: Mapping[str, Any]) -> Goal:
    text = "fused deformable attention is faster than gather end to end"
    rows = measured(record, "plugin")
    if not rows:
        entry = record["sections"].get("plugin", {}).get("rows", {})
        return Goal(text, "not measured", _missing(record, "plugin", next(iter(entry), "")))
    got = ", ".join(f"{step} {row['fused_of_gather']:.3f} of gather" for step, row in rows.items())
    return _judge(text, all(row["fused_of_gather"] < 1 for row in rows.values()), got)


def _tests(record: Mapping[str, Any]) -> Goal:
    text = "the tests that need TensorRT pass"
    row = measured(record, "tests").get("pytest")
    if row is None:
        return Goal(text, "not measured", _missing(record, "tests", "pytest"))
    return _judge(text, row["passed"], row["closing_line"], tuple(row.get("failures", ())))


def proofs_failed(record: Mapping[str, Any]) -> bool:
    """Whether something that must never be wrong is: answers of threads, of another program, of tests."""
    rows = [row for section in ("oracle", "stress", "tests") for row in measured(record, section).values()]
    return any(row.get("passed") is False for row in rows)

"""report.json, and the same in a few lines for a terminal."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime

from calibration.gate.binding import Binding
from calibration.gate.checks import Check, time_ratio
from calibration.gate.evidence import EngineRun, Evidence
from calibration.gate.options import VerifyOptions
from calibration.gate.pictures import WorstImage
from edgedet import __version__
from edgedet.coco_compare import Accuracy, allowed_drop
from edgedet.matching import Drift
from edgedet.verdict import FORMAT, VERSION, model_file, spec_digests

_BINS: Final = 40


def build_report(
    *,
    spec: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, float]],
    accuracy: Accuracy,
    found: Drift,
    evidence: Evidence,
    binding: Binding | None,
    worst: Sequence[WorstImage],
    checks: Sequence[Check],
    options: VerifyOptions,
) -> dict[str, Any]:
    """Everything that was found, as it is written into the bundle.

    Args:
        spec: model.json of the bundle.
        evaluation: which images.
        figures: pycocotools' figures per engine.
        accuracy: AP with standard errors.
        found: confident detections found again.
        evidence: what both engines did.
        binding: whether the INT8 model belongs to the bundle; None for a candidate that was not calibrated.
        worst: images that changed most.
        checks: the rule, applied.
        options: its limits.
    """
    candidate = evidence.precision
    files = {precision: str(model_file(spec, precision, options.backend)) for precision in ("fp32", candidate)}
    reasons = [check.reason for check in checks if not check.passed]
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "name": spec["name"],
        "backend": options.backend,
        "candidate": candidate,
        "device": evidence.device,
        "machine": platform.machine(),
        "threads": evidence.threads,
        "versions": {
            "edgedet": __version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
        "models": {
            precision: {"file": file, "sha256": spec["files"][file]["sha256"]} for precision, file in files.items()
        },
        "spec_sha256": spec_digests(spec),
        "evaluation": dict(evaluation),
        "limits": options.limits(),
        "ap": {name: {key: round(value, 5) for key, value in values.items()} for name, values in figures.items()},
        "ap_se": round(accuracy.fp32_se, 5),
        "ap_drop": round(accuracy.drop, 5),
        "ap_drop_se": round(accuracy.drop_se, 5),
        "ap_drop_allowed": round(allowed_drop(options.max_drop, accuracy.drop_se), 5),
        "classes": [entry.to_json(candidate) for entry in accuracy.classes],
        "drift": found.to_json(),
        "latency_ms": {name: _latency(run) for name, run in evidence.runs.items()},
        "latency_ratio": round(time_ratio(evidence, "total_ms"), 4),
        "inference_ratio": round(time_ratio(evidence, "inference_ms"), 4),
        "latency_histogram": _histogram(evidence.runs),
        "execution": evidence.execution,
        "deterministic": evidence.deterministic,
        "batches": [batch.to_json() for batch in evidence.batches],
        "float_reference": None if evidence.reference is None else evidence.reference.to_json(),
        "worst": [image.to_json() for image in worst],
        "checks": [check.to_json() for check in checks],
        "notes": _notes(accuracy, evidence, binding, options),
        "verdict": {"passed": not reasons, "best": "fp32" if reasons else candidate, "reasons": reasons},
    }


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few lines for a terminal."""
    ap, latency, moved = report["ap"], report["latency_ms"], report["drift"]
    execution, verdict, candidate = report["execution"], report["verdict"], report["candidate"]
    time_share = execution["time_share"]
    share = "" if time_share is None else f" and {time_share:.0%} of the network's time"
    lines = [
        where(report),
        "          AP     AP50    median ms",
        *(
            f"  {name}  {ap[name]['AP']:.4f}  {ap[name]['AP50']:.4f}  {latency[name]['p50']:9.2f}"
            for name in ("fp32", candidate)
        ),
        f"  AP drop {report['ap_drop']:+.4f} ± {report['ap_drop_se']:.4f}, time x{report['latency_ratio']:.2f} "
        f"(network alone x{report['inference_ratio']:.2f})",
        f"  {moved['matched']:.1%} of {moved['detections']:.0f} confident float detections found again, boxes moved by "
        f"{moved['box_mean_px']:.2f} px (p95 {moved['box_p95_px']:.2f}), scores by {moved['score_mean']:.3f}",
        f"  {candidate} kernels run {execution[candidate]} of {execution['weighted']} layers{share}",
        *(f"  note: {note}" for note in report["notes"]),
    ]
    if verdict["passed"]:
        lines.append(f"PASSED: {candidate} is recorded as best for this backend")
    else:
        lines.append(f"REFUSED: fp32 stays best, not {candidate}, because " + "; ".join(verdict["reasons"]))
    return "\n".join(lines)


def where(report: Mapping[str, Any]) -> str:
    """On how much, and on what, in a few words."""
    threads = report["threads"]
    return f"{report['evaluation']['images']} images, {report['device']}, {threads} thread{'s' if threads != 1 else ''}"


def _notes(accuracy: Accuracy, evidence: Evidence, binding: Binding | None, options: VerifyOptions) -> list[str]:
    """What a reader should know of a verdict, passed or not."""
    notes = ["" if binding is None else binding.note, *(batch.note for batch in evidence.batches)]
    notes += [f"known of this combination: {text}" for text in evidence.known]
    if accuracy.drop_se > options.max_drop:
        notes.append(
            f"these images tell a loss of AP to ± {accuracy.drop_se:.4f} only, while {options.max_drop:.4f} are "
            "accepted; more images make the verdict surer"
        )
    elif options.max_drop < accuracy.drop <= allowed_drop(options.max_drop, accuracy.drop_se):
        notes.append(f"AP falls by more than {options.max_drop:.4f}, but by no more than its own uncertainty beyond it")
    return [note for note in notes if note]


def _latency(run: EngineRun) -> dict[str, float]:
    values = np.array(run.total_ms)
    named = {f"p{level}": float(np.percentile(values, level)) for level in (50, 90, 99)}
    return {
        **{name: round(value, 3) for name, value in named.items()},
        "mean": round(float(values.mean()), 3),
        "inference_p50": round(float(np.median(run.inference_ms)), 3),
    }


def _histogram(runs: Mapping[str, EngineRun]) -> dict[str, list[float]]:
    """Frames per bin of both engines up to the 98th percentile: what is slower was another program."""
    both = np.concatenate([run.total_ms for run in runs.values()])
    edges = np.linspace(both.min(), max(np.percentile(both, 98), both.min() + 1e-3), _BINS + 1)
    counts = {name: np.histogram(run.total_ms, edges)[0].tolist() for name, run in runs.items()}
    return {"edges_ms": [round(float(edge), 4) for edge in edges], **counts}

"""The gate: the INT8 engine against the float engine of the same bundle, on the backend that ships, and a verdict."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from calibration.execution import int8_share, int8_time
from calibration.matching import drift
from calibration.quantize import float_model, network_feed, network_input
from calibration.render import BackendName
from calibration.sampling import read_record, read_sample, sha256
from edgedet import Detections, Detector, InvalidInputError, __version__, read_image
from edgedet.bundle import add_json, load_model_json, set_best
from edgedet.coco_eval import CocoDataset, evaluate, load_annotations, match_categories

FORMAT = "edgedet.report"
VERSION = 1

_WARM_UP = 3
_REPEATED = 8


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What the verdict asks for.

    Attributes:
        backend: where both models run.
        max_drop: largest accepted loss of AP against the float model, in [0, 1].
        min_matched: smallest accepted share of confident float detections that INT8 finds too, in [0, 1].
        max_time_ratio: INT8 must need less than this share of the float time, end to end.
        limit: first images of the annotation file only, 0 for all.
        threads: CPU threads for both, 0 for the backend's choice.
    """

    backend: BackendName = "openvino"
    max_drop: float = 0.01
    min_matched: float = 0.75
    max_time_ratio: float = 1.0
    limit: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (0.0 <= self.max_drop <= 1.0 and 0.0 <= self.min_matched <= 1.0):
            raise InvalidInputError(f"expected max_drop and min_matched in [0, 1], got {self}")
        if self.max_time_ratio <= 0.0:
            raise InvalidInputError(f"expected max_time_ratio > 0, got {self.max_time_ratio}")
        if self.limit < 0 or self.threads < 0:
            raise InvalidInputError(f"expected limit >= 0 and threads >= 0, got {self}")


@dataclass(frozen=True)
class ReportState:
    """Whether a bundle's report still speaks of the models in the bundle, and what it says."""

    passed: bool
    text: str


@dataclass
class _Run:
    """What one engine did on the evaluation images, in their order."""

    detections: list[Detections]
    total_ms: list[float]
    inference_ms: list[float]

    def time(self, detector: Detector, image: npt.NDArray[np.uint8]) -> None:
        start = time.perf_counter()
        found, stages = detector.detect_timed([image])
        self.total_ms.append((time.perf_counter() - start) * 1e3)
        self.inference_ms.append(stages.inference)
        self.detections.append(found[0])


def verify(
    bundle: Path,
    *,
    images: Path | None,
    annotations: Path | None,
    options: VerifyOptions,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Run both engines on labelled images in one pass, write report.json and record the best precision in the bundle.

    The images are taken in turn by both engines, so that a change in the machine's speed meets both.

    Returns:
        The report as it is written; `["verdict"]["passed"]` says whether INT8 is recorded as best.

    Raises:
        InvalidInputError: no INT8 model, no evaluation data, or calibration images among the evaluation images.
    """
    if images is None or annotations is None:
        raise InvalidInputError("expected --images and --annotations of the evaluation set, got none")
    spec = load_model_json(bundle)
    int8_file = spec["models"].get("int8", {}).get(options.backend)
    if int8_file is None:
        raise InvalidInputError(
            f"{bundle}: expected an int8 model for {options.backend}, got none; run `quantize` first"
        )
    dataset = load_annotations(annotations)
    chosen = dataset.images[: options.limit or None]
    ids = {image.id for image in chosen}
    if not any(entry["image_id"] in ids for entry in dataset.document["annotations"]):
        raise InvalidInputError(
            f"{annotations}: expected objects in the first {len(chosen)} images, got none; raise --limit"
        )
    paths = [images / image.file_name for image in chosen]
    digests = _digests(paths)
    _refuse_overlap(bundle, paths, digests)
    categories = match_categories(dataset, spec["classes"], spec["category_ids"])

    reference = Detector(bundle, backend=options.backend, precision="fp32", threads=options.threads)
    candidate = Detector(bundle, backend=options.backend, precision="int8", threads=options.threads)
    runs = {"fp32": _Run([], [], []), "int8": _Run([], [], [])}
    engines = [("fp32", reference), ("int8", candidate)]
    first = read_image(paths[0])
    for _, engine in engines * _WARM_UP:
        engine(first)
    for number, path in enumerate(paths):
        image = read_image(path)
        for name, engine in engines if number % 2 else reversed(engines):
            runs[name].time(engine, image)
        progress("both engines", number + 1, len(paths))
    repeated = [candidate(read_image(path)) for path in paths[:_REPEATED]]

    ap = {name: _average_precision(run.detections, dataset, chosen, categories) for name, run in runs.items()}
    execution = int8_share(candidate.execution_graph()).to_json()
    feed = network_feed(network_input(first, spec)[None], spec)
    execution["time_share"] = round(int8_time(bundle / int8_file, feed), 4)
    figures: dict[str, Any] = {
        "ap": {name: {key: round(value, 5) for key, value in values.items()} for name, values in ap.items()},
        "ap_drop": round(ap["fp32"]["AP"] - ap["int8"]["AP"], 5),
        "drift": drift(runs["fp32"].detections, runs["int8"].detections).to_json(),
        "latency_ms": {name: _latency(run) for name, run in runs.items()},
        "latency_ratio": round(_ratio(runs, "total_ms"), 4),
        "inference_ratio": round(_ratio(runs, "inference_ms"), 4),
        "execution": execution,
        "deterministic": _same(runs["int8"].detections[:_REPEATED], repeated),
    }
    reasons = _reasons(figures, options)
    passed = not reasons
    report: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "backend": options.backend,
        "device": candidate.info.device,
        "machine": platform.machine(),
        "threads": candidate.info.threads,
        "versions": {
            "edgedet": __version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
        "models": {
            precision: {"file": file, "sha256": spec["files"][file]["sha256"]}
            for precision, file in (("fp32", float_model(spec, options.backend)), ("int8", int8_file))
        },
        "evaluation": {"images": len(chosen), "of": len(dataset.images), "first": chosen[0].file_name},
        "limits": {
            "max_drop": options.max_drop,
            "min_matched": options.min_matched,
            "max_time_ratio": options.max_time_ratio,
        },
        **figures,
        "verdict": {"passed": passed, "best": "int8" if passed else "fp32", "reasons": reasons},
    }
    add_json(bundle, "report.json", report)
    set_best(bundle, options.backend, "int8" if passed else "fp32")
    return report


def check_report(bundle: Path) -> ReportState:
    """Whether report.json was made for the models that are in the bundle now.

    Raises:
        InvalidInputError: there is no report or it is not one of this version.
    """
    spec = load_model_json(bundle)
    path = bundle / "report.json"
    if not path.is_file():
        raise InvalidInputError(f"{bundle}: expected report.json, got none; run `verify`")
    report = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(report, dict) or report.get("format") != FORMAT or report.get("version") != VERSION:
        raise InvalidInputError(f"{path}: expected {FORMAT} version {VERSION}, got something else; run `verify` again")
    backend = report["backend"]
    present = {"fp32": float_model(spec, backend), "int8": spec["models"].get("int8", {}).get(backend)}
    for precision, file in present.items():
        if file is None or spec["files"][file]["sha256"] != report["models"][precision]["sha256"]:
            return ReportState(
                False, f"stale: the {precision} model is not the one that was verified; run `verify` again"
            )
    verdict = report["verdict"]
    if not verdict["passed"]:
        return ReportState(False, "refused: " + "; ".join(verdict["reasons"]))
    return ReportState(True, f"passed on {report['device']} with {report['evaluation']['images']} images")


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few lines for a terminal."""
    ap, latency, moved = report["ap"], report["latency_ms"], report["drift"]
    execution, verdict = report["execution"], report["verdict"]
    lines = [
        f"{report['evaluation']['images']} images, {report['device']}, {report['threads']} threads",
        "          AP     AP50    median ms",
        *(
            f"  {name}  {ap[name]['AP']:.4f}  {ap[name]['AP50']:.4f}  {latency[name]['p50']:9.2f}"
            for name in ("fp32", "int8")
        ),
        f"  AP drop {report['ap_drop']:+.4f}, time x{report['latency_ratio']:.2f} "
        f"(network alone x{report['inference_ratio']:.2f})",
        f"  {moved['matched']:.1%} of {moved['detections']:.0f} confident float detections found again, boxes moved by "
        f"{moved['box_mean_px']:.2f} px (p95 {moved['box_p95_px']:.2f}), scores by {moved['score_mean']:.3f}",
        f"  int8 kernels run {execution['int8']} of {execution['weighted']} layers and "
        f"{execution['time_share']:.0%} of the network's time",
    ]
    if verdict["passed"]:
        lines.append("PASSED: int8 is recorded as best for this backend")
    else:
        lines.append("REFUSED: fp32 stays best, because " + "; ".join(verdict["reasons"]))
    return "\n".join(lines)


def _reasons(figures: Mapping[str, Any], options: VerifyOptions) -> list[str]:
    """Why INT8 is not to be used; empty where it is."""
    reasons = []
    float_ap = figures["ap"]["fp32"]["AP"]
    if float_ap <= options.max_drop:
        reasons.append(
            f"the float model has AP {float_ap:.4f} on these images, too little to see a loss; "
            "check images, annotations and class names"
        )
    if figures["ap_drop"] > options.max_drop:
        reasons.append(f"AP falls by {figures['ap_drop']:.4f}, accepted are {options.max_drop:.4f}")
    matched = figures["drift"]["matched"]
    if matched < options.min_matched:
        reasons.append(
            f"only {matched:.1%} of confident detections are found again, {options.min_matched:.0%} are asked"
        )
    if figures["execution"]["int8"] == 0:
        reasons.append("the engine runs no layer in int8")
    if figures["latency_ratio"] >= options.max_time_ratio:
        asked = f"less than x{options.max_time_ratio:.2f} is asked"
        reasons.append(f"it is not fast enough: x{figures['latency_ratio']:.2f} of the float time, {asked}")
    if not figures["deterministic"]:
        reasons.append("the same image gives different detections")
    return reasons


def _digests(paths: list[Path]) -> list[str]:
    if not paths:
        raise InvalidInputError("expected evaluation images, got none")
    return [sha256(path) for path in paths]


def _refuse_overlap(bundle: Path, paths: list[Path], digests: list[str]) -> None:
    if "sample" not in read_record(bundle):
        return
    calibration = {image.sha256 for image in read_sample(bundle).images}
    shared = [path for path, digest in zip(paths, digests, strict=True) if digest in calibration]
    if shared:
        raise InvalidInputError(
            f"expected evaluation images that were not calibrated on, got {len(shared)} that were, "
            f"the first: {shared[0]}; "
            "run `sample` with --exclude"
        )


def _average_precision(
    detections: list[Detections], dataset: CocoDataset, chosen: tuple[Any, ...], categories: list[int]
) -> dict[str, float]:
    results = [
        entry
        for found, image in zip(detections, chosen, strict=True)
        for entry in found.to_coco(image.id, categories)
        if entry["category_id"] >= 0
    ]
    return evaluate(results, dataset, image_ids=[image.id for image in chosen])


def _latency(run: _Run) -> dict[str, float]:
    values = np.array(run.total_ms)
    named = {f"p{level}": float(np.percentile(values, level)) for level in (50, 90, 99)}
    return {
        **{name: round(value, 3) for name, value in named.items()},
        "mean": round(float(values.mean()), 3),
        "inference_p50": round(float(np.median(run.inference_ms)), 3),
    }


def _ratio(runs: Mapping[str, _Run], field: str) -> float:
    return float(np.median(getattr(runs["int8"], field)) / np.median(getattr(runs["fp32"], field)))


def _same(first: list[Detections], second: list[Detections]) -> bool:
    return all(
        np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores) and np.array_equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )

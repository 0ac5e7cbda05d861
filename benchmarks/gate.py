"""Does the gate pass honest INT8 models on any images, and refuse every fault that is planted into them?

    python -m benchmarks.gate BUNDLE [BUNDLE ...] --images DIR --annotations FILE

BUNDLE holds a float and an INT8 model of OpenVINO, made by `sample` and `quantize`, and is not changed. Both engines
run once for the honest bundle and once for each fault; ten random halves of the images are then judged from what they
found. Writes benchmarks/results/gate.json and gate.md; entries of bundles that are not named stay as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks import gate_faults as faults
from calibration.gate.binding import calibration_binding
from calibration.gate.checks import Check, judge
from calibration.gate.evidence import EngineRun, Evidence, gather
from calibration.gate.options import VerifyOptions
from calibration.gate.report import build_report
from calibration.inputs import network_feed, network_input
from calibration.verify import evaluation_images
from edgedet import read_image
from edgedet.bundle import add_json, add_model, load_model_json
from edgedet.coco_compare import Accuracy, compare, match_run
from edgedet.coco_eval import CocoDataset, load_annotations, match_categories
from edgedet.coco_subsets import SubsetAP
from edgedet.matching import confusions, drift
from edgedet.verdict import read_verdict

RESULTS = Path(__file__).parent / "results"
BACKEND = "openvino"
HALVES = 10
TIME = "time against float"  # a busy machine may fail it, so it refuses no fault here


@dataclass(frozen=True)
class Data:
    """The evaluation set."""

    dataset: CocoDataset
    images: Path


@dataclass(frozen=True)
class Judged:
    """One bundle, honest or not, on all images and on halves of them.

    Attributes:
        evidence: what both engines did.
        matched: AP of any part of the images, per engine.
        figures: pycocotools' figures, per engine.
        accuracy: on all images.
        checks: on all images.
        halves: the checks of each half, and its loss of AP.
    """

    evidence: Evidence
    matched: dict[str, SubsetAP]
    figures: dict[str, dict[str, float]]
    accuracy: Accuracy
    checks: list[Check]
    halves: list[tuple[list[Check], float, float]]


def examine(bundle: Path, data: Data, options: VerifyOptions, honest: Judged | None = None) -> Judged:
    """Run both engines and judge all images and ten halves. `honest`: float results that may be used again."""
    spec = load_model_json(bundle)
    chosen, paths = evaluation_images(bundle, data.dataset, data.images)
    categories = match_categories(data.dataset, spec["classes"], spec["category_ids"])
    evidence = gather(
        bundle,
        spec,
        paths,
        precision="int8",
        backend=BACKEND,
        threads=options.threads,
        progress=lambda stage, done, total: None,
    )
    matched, figures = {}, {}
    for name, run in evidence.runs.items():
        if honest is not None and _same(run, honest.evidence.runs[name]):
            matched[name], figures[name] = honest.matched[name], honest.figures[name]
        else:
            matched[name], figures[name] = match_run(run.detections, data.dataset, chosen, categories)
    order = {number: at for at, number in enumerate(matched["fp32"].image_ids)}

    def decide(positions: npt.NDArray[np.intp]) -> tuple[Accuracy, list[Check]]:
        keep = np.zeros(len(chosen), bool)
        keep[[order[chosen[at].id] for at in positions]] = True
        accuracy = compare(matched, data.dataset.categories, keep)
        part = replace(evidence, runs={name: _part(run, positions) for name, run in evidence.runs.items()})
        ours, theirs = part.runs["fp32"].detections, part.runs["int8"].detections
        checks = judge(
            accuracy=accuracy,
            found=drift(ours, theirs),
            confused=confusions(ours, theirs),
            classes=spec["classes"],
            evidence=part,
            binding=calibration_binding(bundle, spec, BACKEND),
            options=options,
        )
        return accuracy, checks

    accuracy, checks = decide(np.arange(len(chosen)))
    halves = []
    for seed in range(HALVES):
        half = np.sort(np.random.default_rng(seed).permutation(len(chosen))[: len(chosen) // 2])
        part, decided = decide(half)
        halves.append((decided, part.drop, part.drop_se))
    return Judged(evidence, matched, figures, accuracy, checks, halves)


def model_faults(
    spec: Mapping[str, Any], honest: Judged, model: onnx.ModelProto, feeds: faults.Feeds
) -> dict[str, Callable[[onnx.ModelProto], None]]:
    """What is done to the INT8 model, as far as it has what a fault is about."""
    mean, std = faults.IMAGENET
    classes = len(spec["classes"])
    kinds = {node.op_type for node in model.graph.node}
    has = {
        "GridSample turned to nearest": "GridSample" in kinds,
        "LayerNorm in int8": bool(faults.normalised(model)),
        "padded pool on integers": "AveragePool" in kinds,
    }
    changes: dict[str, Callable[[onnx.ModelProto], None]] = {
        "swapped channels": faults.swapped_channels,
        "wrong normalisation": partial(faults.wrong_normalisation, mean=mean, std=std),
        "zeroed scale": faults.scaled_activations(1e-9),
        "saturated scale": faults.scaled_activations(0.02),
        "decoder layer of garbage": faults.garbage_layer,
        "GridSample turned to nearest": faults.nearest_sampling,
        "permuted labels": partial(faults.permuted_labels, classes=classes),
        "two rare labels swapped": partial(faults.permuted_labels, classes=classes, swap=rare_classes(spec, honest)),
        "batch-2 bug": faults.batch_bug,
        "LayerNorm in int8": partial(faults.int8_layernorm, feeds=feeds),
        "padded pool on integers": partial(faults.padded_pool, feeds=feeds),
    }
    return {fault: change for fault, change in changes.items() if has.get(fault, True)}


def spec_faults(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What is done to model.json."""
    image, classes = spec["input"], spec["classes"]
    mean, std = faults.IMAGENET
    return {
        "model.json: channels swapped": {
            "input": {**image, "channels": {"rgb": "bgr", "bgr": "rgb"}[image["channels"]]}
        },
        "model.json: wrong normalisation": {"input": {**image, "mean": list(mean), "std": list(std)}},
        "model.json: classes permuted": {"classes": [*classes[1:], classes[0]]},
    }


def rare_classes(spec: Mapping[str, Any], honest: Judged) -> tuple[int, int]:
    """The two rarest classes with at least ten objects that the float model knows well."""
    known = [entry for entry in honest.accuracy.classes if entry.objects >= 10 and entry.fp32 > 0.2]
    rarest = sorted(known, key=lambda entry: (entry.objects, entry.name))[:2]
    first, second = (spec["classes"].index(entry.name) for entry in rarest)
    return first, second


def refused(checks: Sequence[Check]) -> list[Check]:
    """The checks that refuse, time aside."""
    return [check for check in checks if not check.passed and check.name != TIME]


def row(model: str, fault: str, judged: Judged) -> dict[str, Any]:
    """One line of the table."""
    accuracy = judged.accuracy
    runs = judged.evidence.runs
    return {
        "model": model,
        "fault": fault,
        "fp32": round(accuracy.fp32, 4),
        "int8": round(accuracy.candidate, 4),
        "drop": round(accuracy.drop, 4),
        "drop_se": round(accuracy.drop_se, 4),
        "found_again": round(drift(runs["fp32"].detections, runs["int8"].detections).matched, 4),
        "passed": all(check.passed for check in judged.checks),
        "refused_by": [check.name for check in refused(judged.checks)],
        "reasons": [check.reason for check in judged.checks if not check.passed],
        "halves_passed": sum(all(check.passed for check in checks) for checks, _, _ in judged.halves),
        "halves_refused": sum(bool(refused(checks)) for checks, _, _ in judged.halves),
        "halves": [{"drop": round(drop, 4), "drop_se": round(error, 4)} for _, drop, error in judged.halves],
    }


def run(bundle: Path, data: Data, options: VerifyOptions) -> list[dict[str, Any]]:
    """The honest bundle and every fault."""
    name = load_model_json(bundle)["name"]
    honest = examine(bundle, data, options)
    rows = [row(name, "none", honest)]
    print(line(rows[-1]), flush=True)
    spec = load_model_json(bundle)
    _, paths = evaluation_images(bundle, data.dataset, data.images, limit=8)
    feeds = [network_feed(network_input(read_image(path), spec)[None], spec) for path in paths]
    model = onnx.load(str(bundle / spec["models"]["int8"][BACKEND]))
    with tempfile.TemporaryDirectory() as scratch:
        for fault, change in model_faults(spec, honest, model, feeds).items():
            copy = Path(shutil.copytree(bundle, Path(scratch) / f"{len(rows)}"))
            plant(copy, change)
            rows.append(row(name, fault, examine(copy, data, options, honest)))
            print(line(rows[-1]), flush=True)
        expecting = replace(options, expect_ap=round(honest.accuracy.fp32, 4))
        for fault, keys in spec_faults(spec).items():
            copy = Path(shutil.copytree(bundle, Path(scratch) / f"{len(rows)}"))
            document = json.loads((copy / "model.json").read_text(encoding="utf-8"))
            (copy / "model.json").write_text(json.dumps({**document, **keys}), encoding="utf-8")
            rows.append(row(name, fault, examine(copy, data, expecting, honest)))
            print(line(rows[-1]), flush=True)
        copy = Path(shutil.copytree(bundle, Path(scratch) / "stale"))
        rows.append({"model": name, "fault": "report for another ONNX", "verdict": stale(copy, honest, options)})
        print(line(rows[-1]), flush=True)
    return rows


def plant(bundle: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change the INT8 model by the front door."""
    model = onnx.load(str(bundle / load_model_json(bundle)["models"]["int8"][BACKEND]))
    change(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(bundle.with_suffix(".onnx")))
    add_model(bundle, "int8", BACKEND, bundle.with_suffix(".onnx"))


def stale(bundle: Path, honest: Judged, options: VerifyOptions) -> str:
    """What is said of an honest report after the INT8 model was replaced."""
    spec = load_model_json(bundle)
    report = build_report(
        spec=spec,
        evaluation={"images": len(honest.evidence.runs["fp32"].detections)},
        figures=honest.figures,
        accuracy=honest.accuracy,
        found=drift(*(run.detections for run in honest.evidence.runs.values())),
        evidence=honest.evidence,
        binding=calibration_binding(bundle, spec, BACKEND),
        worst=[],
        checks=honest.checks,
        options=options,
    )
    add_json(bundle, "report.json", report)
    plant(bundle, lambda model: setattr(model, "producer_name", "another"))
    return read_verdict(bundle, load_model_json(bundle), BACKEND).text


def line(entry: Mapping[str, Any]) -> str:
    """A row in Markdown."""
    if "verdict" in entry:
        return f"| {entry['model']} | {entry['fault']} | | | | refused: {entry['verdict']} | |"
    honest = entry["fault"] == "none"
    verdict = "passed" if entry["passed"] else f"refused: {', '.join(entry['refused_by']) or TIME}"
    halves = f"{entry['halves_passed']} passed" if honest else f"{entry['halves_refused']} refused"
    return (
        f"| {entry['model']} | {entry['fault']} | {entry['fp32']:.4f} → {entry['int8']:.4f} | {entry['drop']:+.4f} ± "
        f"{entry['drop_se']:.4f} | {entry['found_again']:.1%} | {verdict} | {halves} |"
    )


def write(document: Mapping[str, Any], folder: Path) -> None:
    """Keep the figures."""
    head = "| model | fault | AP float → INT8 | loss of AP | found again | verdict, all images | ten halves |\n"
    table = head + "|---|---|---|---|---|---|---|\n"
    table += "".join(f"{line(entry)}\n" for rows in document["models"].values() for entry in rows["rows"])
    (folder / "gate.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / "gate.md").write_text(table, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="evaluation images")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE")
    parser.add_argument("--max-drop", type=float, default=VerifyOptions().max_drop, metavar="AP")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    options = parser.parse_args()

    target = options.out / "gate.json"
    document = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {"models": {}}
    data = Data(load_annotations(options.annotations), options.images)
    settings = VerifyOptions(max_drop=options.max_drop, threads=options.threads)
    for bundle in options.bundles:
        rows = run(bundle, data, settings)
        spec = load_model_json(bundle)
        document["models"][spec["name"]] = {
            "sha256": {name: entry["sha256"] for name, entry in spec["files"].items() if name.endswith(".onnx")},
            "limits": settings.limits(),
            "images": len(data.dataset.images),
            "rows": rows,
        }
        write(document, options.out)


def _same(first: EngineRun, second: EngineRun) -> bool:
    return all(
        np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores) and a.names == b.names
        for a, b in zip(first.detections, second.detections, strict=True)
    )


def _part(run: EngineRun, positions: npt.NDArray[np.intp]) -> EngineRun:
    fields = (run.detections, run.total_ms, run.inference_ms)
    detections, total, inference = ([values[at] for at in positions] for values in fields)
    return EngineRun(detections, total, inference)


if __name__ == "__main__":
    main()

"""`accuracy`: AP of the engine that runs, its boxes beside onnxruntime's, and the verdict of `verify`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.cuda_frames.tools import run_tool
from benchmarks.tensorrt.models import Engine
from benchmarks.tensorrt.record import NotMeasured, Row, Step
from benchmarks.tensorrt.reference import load_reference, run_dataset
from benchmarks.tensorrt.runtime import Scene, cache_of, open_detector
from edgedet.coco_eval import load_annotations
from edgedet.matching import drift

_VERIFY_SECONDS = 120.0
_LINES_KEPT = 12


def steps(scene: Scene) -> dict[str, Step]:
    """One for each engine of batch 1 with trained weights, then the verdicts."""
    trained = [engine for engine in scene.engines if scene.prepared.facts(engine.model)["trained"]]
    found: dict[str, Step] = {engine.key: _accuracy_step(scene, engine) for engine in trained if engine.batch == 1}
    for name in dict.fromkeys(engine.model for engine in trained):
        for precision in ("fp16", "int8"):
            found[f"verify {name} {precision}"] = _verify_step(scene, name, precision)
    return found


def _accuracy_step(scene: Scene, engine: Engine) -> Step:
    return lambda: accuracy(scene, engine)


def _verify_step(scene: Scene, name: str, precision: Any) -> Step:
    return lambda: verdict(scene, name, precision)


def accuracy(scene: Scene, engine: Engine) -> Row:
    detector = open_detector(scene, engine)
    spec = detector.info.spec
    wanted, reference = load_reference(scene.prepared.reference(engine.model), spec["classes"])
    dataset = load_annotations(scene.annotations)
    if len(wanted) != len(dataset.images):
        raise NotMeasured(
            f"the reference is of {len(wanted)} images, {scene.annotations.name} lists {len(dataset.images)}; "
            "prepare with the same annotations"
        )
    found, figures = run_dataset(detector, spec, dataset, scene.images)
    return {
        "images": len(found),
        "AP": figures["AP"],
        "reference_AP": reference,
        "drop": reference - figures["AP"],
        "boxes": drift(wanted, found).to_json(),
        "figures": figures,
    }


def verdict(scene: Scene, name: str, precision: Any) -> Row:
    """`python -m calibration verify` on a copy of the bundle, as a user would run it."""
    source = scene.prepared.bundle(Engine(name, precision))
    bundle = scene.work / "verified" / f"{name}-{precision}"
    shutil.rmtree(bundle, ignore_errors=True)
    bundle.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, bundle)
    arguments = ["verify", str(bundle), "--backend", scene.backend, "--precision", precision, "--no-pictures"]
    arguments += ["--images", str(scene.images), "--annotations", str(scene.annotations)]
    engines = {"XDG_CACHE_HOME": str(_users_cache(scene, name, precision))}
    outcome = run_tool([sys.executable, "-m", "calibration", *arguments], _VERIFY_SECONDS, engines)
    row: Row = {**outcome.told(), "output_tail": outcome.output.splitlines()[-_LINES_KEPT:]}
    report = bundle / "report.json"
    if not report.is_file():
        return {**row, "error": f"no report was written: {' '.join(row['output_tail'][-1:])}"}
    said = json.loads(report.read_text(encoding="utf-8"))
    kept = ("ap", "ap_drop", "ap_drop_se", "latency_ratio", "inference_ratio", "verdict")
    return {**row, **{key: said[key] for key in kept if key in said}}


def _users_cache(scene: Scene, name: str, precision: Any) -> Path:
    """A cache folder of a user who has both engines already, so that they are not built once more."""
    cache = scene.work / "cache"
    (cache / "edgedet").mkdir(parents=True, exist_ok=True)
    for engine in (Engine(name, "fp32"), Engine(name, precision)):
        for file in cache_of(scene, engine).glob("*.engine"):
            shutil.copyfile(file, cache / "edgedet" / file.name)
    return cache

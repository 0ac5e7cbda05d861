"""`python -m benchmarks.demo`: draws a data set, trains, exports, quantises, verifies, measures, reports."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import edgedet
from edgedet import Detector, _core, read_image
from edgedet.bundle import load_model_json

from .dataset import DatasetConfig, write_dataset
from .pipeline import Pipeline, StepError
from .report import Curve, Mark, Picture, Report, Variant, render
from .scenes import CLASSES

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path("demo")
DATA, RUN, BUNDLE = DEMO / "data", DEMO / "run", DEMO / "bundle"
SCENES = DatasetConfig()

# The smallest model on a small input, few denoising queries, small batches: many cheap steps.
TRAINING = [
    *("--model", "atto", "--size", "192", "--denoising", "20", "--epochs", "20", "--batch", "8"),
    *("--lr", "0.004", "--backbone-lr", "0.004", "--vertical-flip", "0.5", "--eval-every", "4"),
]
LICENCES = ("--licence", "Apache-2.0", "--data-licence", "Apache-2.0, drawn by this project")
PICTURES = 6
SHOWN_SCORE = 0.5
COMMANDS = (
    (
        "train/ and val/ in it, with instances.json (COCO) and images/",
        "python -m training train DATA --out runs/mine",
    ),
    ("a bundle: network, preprocessing, classes", "python -m training export runs/mine --out mine"),
    ("objects on the terminal, boxes drawn into drawn/", "edgedet predict mine photo.jpg --out drawn"),
)
MORE_COMMANDS = (
    ("INT8, and whether it may be used", "python -m calibration sample mine --images DATA/train/images"),
    ("", "python -m calibration quantize mine"),
    ("", "python -m calibration verify mine --images DATA/val/images --annotations DATA/val/instances.json"),
)


def main() -> int:
    """Run the demo. Returns 0, or 1 after a step that failed."""
    os.chdir(ROOT)
    started = time.perf_counter()
    pipeline = Pipeline(DEMO)
    try:
        run_steps(pipeline)
    except StepError as error:
        print(f"error: {error}; the steps before it are kept, so `make demo` goes on from there", file=sys.stderr)
        return 1
    report = collect(pipeline)
    target = DEMO / "report.html"
    target.write_text(render(report), encoding="utf-8")
    say_what_next(report, target, time.perf_counter() - started)
    return 0


def run_steps(pipeline: Pipeline) -> None:
    """Everything but the report."""
    edgedet_sources = ROOT / "python" / "edgedet"
    images, annotations = str(DATA / "val" / "images"), str(DATA / "val" / "instances.json")
    pipeline.call(
        f"Draw {SCENES.train} scenes to learn from and {SCENES.val} to judge by",
        "python -m benchmarks.demo",
        lambda: write_dataset(DATA, SCENES),
        depends=json.dumps(asdict(SCENES)),
    )
    pipeline.run(
        "Train a detector from scratch",
        ["training", "train", str(DATA), "--out", str(RUN), *TRAINING],
        sources=[ROOT / "python" / "training", edgedet_sources, ROOT / "benchmarks" / "demo" / "scenes.py"],
        replaces=[RUN],
        makes=[RUN / "best.safetensors", RUN / "metrics.jsonl"],
    )
    pipeline.run(
        "Export it as a bundle",
        ["training", "export", str(RUN), "--out", str(BUNDLE), "--name", "workshop", *LICENCES],
        replaces=[BUNDLE],
        makes=[BUNDLE / "model.json"],
    )
    pipeline.run(
        "Choose calibration images",
        ["calibration", "sample", str(BUNDLE), "--images", str(DATA / "train" / "images"), "--count", "100"],
        sources=[ROOT / "calibration"],
        makes=[BUNDLE / "calibration.json"],
    )
    pipeline.run(
        "Quantise to INT8", ["calibration", "quantize", str(BUNDLE)], makes=[BUNDLE / "model.openvino.int8.onnx"]
    )
    pipeline.run(
        "Verify the INT8 engine against the float one",
        ["calibration", "verify", str(BUNDLE), "--images", images, "--annotations", annotations],
        verdict=True,
        always=True,
    )
    for precision in ("fp32", "int8"):
        target = str(DEMO / f"bench.{precision}.json")
        pipeline.run(
            f"Measure {precision.upper()}",
            ["edgedet", "bench", str(BUNDLE), "--precision", precision, "--images", images, "--json", target],
            always=True,
        )


def collect(pipeline: Pipeline) -> Report:
    """Put together what the steps have left in the demo folder."""
    spec = load_model_json(BUNDLE)
    verdict = json.loads((BUNDLE / "report.json").read_text())
    variants = []
    for precision in ("fp32", "int8"):
        figures = json.loads((DEMO / f"bench.{precision}.json").read_text())
        file = verdict["models"][precision]["file"]
        variants.append(
            Variant(
                name=precision.upper(),
                accuracy=verdict["ap"][precision],
                latency_ms=figures["latency_ms"],
                stages_ms=figures["stages_ms"],
                fps=figures["fps"],
                size_bytes=spec["files"][file]["bytes"],
            )
        )
    records = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    validations = [record for record in records if record["kind"] == "validation"]
    steps = [record for record in records if record["kind"] == "step"]
    return Report(
        classes=tuple(spec["classes"]),
        dataset=f"{SCENES.train} drawn scenes of {len(CLASSES)} parts for training, {SCENES.val} for validation.",
        best=verdict["verdict"]["best"].upper(),
        reason=reason(verdict),
        speed=1.0 / verdict["latency_ratio"],
        shown=SHOWN_SCORE,
        variants=tuple(variants),
        pictures=tuple(pictures()),
        curves=(
            Curve(
                "AP on the validation scenes",
                tuple(record["seconds"] for record in validations),
                tuple(record["AP"] for record in validations),
            ),
            Curve(
                "Training loss",
                tuple(record["seconds"] for record in steps),
                tuple(record["loss"] for record in steps),
                "loss",
            ),
        ),
        steps=tuple(pipeline.steps),
        checks=tuple(checks(verdict)),
        environment=tuple(environment(verdict)),
        commands=(*COMMANDS, *MORE_COMMANDS),
    )


def reason(verdict: dict[str, Any]) -> str:
    """Why the recommended precision is the recommended one, in a sentence."""
    if verdict["verdict"]["passed"]:
        lost, accepted = verdict["ap_drop"], verdict["limits"]["max_drop"]
        fall = (
            f"its AP falls by {lost:.3f} where {accepted:.3f} is accepted" if lost >= 0.0005 else "its AP does not fall"
        )
        return f"INT8 passed verification: {fall}, and it is faster."
    return f"FP32 stays: {'; '.join(verdict['verdict']['reasons'])}."


def checks(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    """What verification looked at, and what it saw."""
    drift, execution, limits = verdict["drift"], verdict["execution"], verdict["limits"]
    return [
        ("verdict", "INT8 passed" if verdict["verdict"]["passed"] else "INT8 refused"),
        ("AP lost", f"{verdict['ap_drop']:+.4f}, accepted up to {limits['max_drop']:.4f}"),
        (
            "confident float detections found again",
            f"{drift['matched']:.1%} of {drift['detections']:.0f}, at least {limits['min_matched']:.0%} asked",
        ),
        (
            "boxes moved by",
            f"{drift['box_mean_px']:.2f} px on average, {drift['box_p95_px']:.2f} px at the 95th percentile",
        ),
        (
            "time against float",
            f"{verdict['latency_ratio']:.2f} of it, the network alone {verdict['inference_ratio']:.2f}",
        ),
        (
            "layers the engine really runs in int8",
            f"{execution['int8']} of {execution['weighted']}, {execution['time_share']:.0%} of the network's time",
        ),
        ("same image, same detections", "yes" if verdict["deterministic"] else "no"),
    ]


def environment(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    """Device and versions."""
    build = _core.build_info()
    return [
        ("device", f"{verdict['device']}, {verdict['threads']} threads"),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("edgedet", f"{edgedet.__version__}, built with {build['compiler']}, {build['build_type']}"),
        ("OpenVINO", build["openvino"]),
        ("Python", f"{platform.python_version()}, torch {version('torch')}, onnx {version('onnx')}"),
        ("date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
    ]


def pictures() -> list[Picture]:
    """The first scenes of the validation split with what is on them and what each precision finds."""
    content = json.loads((DATA / "val" / "instances.json").read_text())
    label_of = {category["id"]: label for label, category in enumerate(content["categories"])}
    detectors = [(name.upper(), Detector(BUNDLE, precision=name)) for name in ("fp32", "int8")]
    found = []
    for image in content["images"][:PICTURES]:
        path = DATA / "val" / "images" / image["file_name"]
        pixels = read_image(path)
        truth = []
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                x, y, width, height = annotation["bbox"]
                truth.append(Mark((x, y, x + width, y + height), label_of[annotation["category_id"]]))
        seen = tuple(
            (name, tuple(Mark(item.box, item.label, item.score) for item in detector(pixels).filter(SHOWN_SCORE)))
            for name, detector in detectors
        )
        found.append(Picture(path.read_bytes(), image["width"], image["height"], tuple(truth), seen))
    return found


def say_what_next(report: Report, target: Path, seconds: float) -> None:
    """The end of the demo: what came out, where to look, what to type."""
    print(f"\n{'':6}{'AP':>8}{'AP50':>8}{'ms/frame':>10}{'frames/s':>10}")
    for item in report.variants:
        print(
            f"{item.name:6}{item.accuracy['AP']:8.3f}{item.accuracy['AP50']:8.3f}"
            f"{item.latency_ms['p50']:10.2f}{item.fps:10.0f}"
        )
    print(f"{report.reason}\n\nDone in {seconds:.0f} s. Look at {target.resolve()}\n\nNext, with your own data:\n")
    print("    source .venv/bin/activate  # once per terminal")
    for remark, command in COMMANDS:
        print(f"    {command:47}  # {remark}")
    print("\nINT8 for it: python -m calibration --help, or the end of the report.")


if __name__ == "__main__":
    sys.exit(main())

"""INT8 of the published detectors: every observer with and without equalisation, judged end to end by `calibration`.

    python -m benchmarks.quantisation MODEL.onnx [MODEL.onnx ...] --calibrate DIR --images DIR --annotations FILE

Writes benchmarks/results/quantisation.json and quantisation.md.

MODEL.onnx is a COCO model in one of the forms that `edgedet import` reads. Each row is one run of `sample`, `quantize`
and `verify` on a bundle of its own: same calibration images, same evaluation images, same threads. Float and INT8 take
turns on every image; ratios are of medians within the run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibration.collect import CollectOptions
from calibration.observers import Method
from calibration.placement import PlacementOptions, Scope
from calibration.quantize import QuantizeOptions, quantize, record_sample
from calibration.sampling import draw, evaluation_images
from calibration.verify import VerifyOptions, verify
from edgedet.labels import COCO80
from edgedet.onnx_import import import_model

# (observer, alpha of the equalisation, bias correction, scope): plain quantisation first, the default last.
SETTINGS: tuple[tuple[Method, float, bool, Scope], ...] = (
    ("minmax", 0.0, False, "conv"),
    ("entropy", 0.0, False, "conv"),
    ("percentile", 0.0, False, "conv"),
    ("minmax", 0.5, True, "conv"),
    ("entropy", 0.5, True, "conv"),
    ("mse", 0.5, True, "conv"),
    ("percentile", 0.5, True, "all"),
    ("percentile", 0.5, True, "conv"),
)
COLUMNS = (
    "model | observer | equalised | layers | AP fp32 | AP int8 | drop | time | network alone | int8 layers | int8 time "
    "| found again | boxes moved px | verdict"
)


def row(model: str, options: QuantizeOptions, images: int, report: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    kept = ("ap", "ap_drop", "latency_ms", "latency_ratio", "inference_ratio", "drift", "deterministic", "verdict")
    execution = {key: value for key, value in report["execution"].items() if key != "primitives"}
    return {
        "model": model,
        "observer": options.observer,
        "alpha": options.alpha,
        "correct_bias": options.correct_bias,
        "scope": options.placement.scope,
        "calibration_images": images,
        **{key: report[key] for key in kept},
        "execution": execution,
        "device": report["device"],
        "threads": report["threads"],
        "versions": report["versions"],
        "images": report["evaluation"]["images"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [f"| {COLUMNS} |", "|" + "---|" * (COLUMNS.count("|") + 1)]
    for entry in rows:
        execution, drift = entry["execution"], entry["drift"]
        cells = (
            entry["model"],
            entry["observer"],
            "yes" if entry["alpha"] else "no",
            {"conv": "convolutions", "all": "all", "linear": "linear"}[entry["scope"]],
            f"{entry['ap']['fp32']['AP']:.4f}",
            f"{entry['ap']['int8']['AP']:.4f}",
            f"{entry['ap_drop']:.4f}",
            f"{entry['latency_ratio']:.2f}",
            f"{entry['inference_ratio']:.2f}",
            f"{execution['int8']} of {execution['weighted']}",
            f"{execution['time_share']:.0%}",
            f"{drift['matched']:.1%}",
            f"{drift['box_mean_px']:.2f}",
            "passed" if entry["verdict"]["passed"] else "refused",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.onnx")
    parser.add_argument("--calibrate", type=Path, required=True, metavar="DIR", help="calibration images")
    parser.add_argument("--count", type=int, default=200, help="how many of them (default: 200)")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="evaluation images")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    sample = draw(options.calibrate, count=options.count, seed=0, exclude=evaluation_images([options.images]))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            for number, (observer, alpha, correct_bias, scope) in enumerate(SETTINGS):
                bundle = import_model(model, Path(folder) / f"{model.stem}.{number}", labels=COCO80)
                record_sample(bundle, sample)
                settings = QuantizeOptions(
                    observer=observer,
                    alpha=alpha,
                    correct_bias=correct_bias,
                    placement=PlacementOptions(scope=scope),
                    collect=CollectOptions(threads=options.threads),
                )
                quantize(bundle, backend="openvino", options=settings)
                report = verify(
                    bundle,
                    images=options.images,
                    annotations=options.annotations,
                    options=VerifyOptions(threads=options.threads),
                )
                rows.append(row(model.stem, settings, len(sample.images), report))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    write(rows)


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Keep the figures."""
    results = Path(__file__).parent / "results"
    (results / "quantisation.json").write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    (results / "quantisation.md").write_text(table(rows))


if __name__ == "__main__":
    main()

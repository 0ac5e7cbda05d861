"""Fine-tunes detectors on BCCD and draws validation AP over seconds of training.

    python benchmarks/bccd_curve.py --data BCCD --weights deimv2_hgnetv2_atto_coco.safetensors
    python benchmarks/bccd_curve.py --model deimv2-n --data BCCD --weights deimv2_hgnetv2_atto_coco.safetensors

atto starts from its COCO weights and is shown beside the official code's curve; DEIMv2-N starts from the stages that it
shares with atto, and from scratch. Writes benchmarks/results/bccd_MODEL.json and bccd_MODEL.png. Needs the extra
`train`; takes the whole of two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.files import write_json
from training.reporting import read_metrics
from training.study.machine import cpu_name

# Seconds of training, AP, AP50 of the official DEIMv2 code (commit 0fff8d4) on two AVX-512 cores: AdamW, one cycle over
# 30 epochs, flips, EMA, batch 16, 2.27 s per step.
OFFICIAL = [
    (210, 0.444, 0.756),
    (418, 0.528, 0.839),
    (626, 0.553, 0.872),
    (833, 0.568, 0.882),
    (1256, 0.579, 0.891),
]
OFFICIAL_SECONDS_PER_STEP = 2.27

COMMON = ("--vertical-flip", "0.5", "--threads", "2", "--workers", "0")


@dataclass(frozen=True)
class Experiment:
    """Runs to be shown side by side. starts: what each run is called, and the option that takes the weights, if any."""

    model: str
    starts: dict[str, str | None]
    options: tuple[str, ...]


EXPERIMENTS = {
    "atto": Experiment(
        "atto", {"from COCO": "--weights"}, ("--epochs", "10", "--batch", "8", "--lr", "0.004", *COMMON)
    ),
    "deimv2-n": Experiment(
        "deimv2-n",
        {"stem and two stages of atto": "--backbone-weights", "from scratch": None},
        ("--size", "320", "--epochs", "8", "--batch", "8", "--lr", "0.002", *COMMON),
    ),
}


def main() -> None:
    """Trains (or takes finished runs), then writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=EXPERIMENTS, default="atto")
    parser.add_argument("--data", type=Path, help="BCCD as COCO json, train/ and val/")
    parser.add_argument("--weights", type=Path, help="COCO checkpoint of atto")
    parser.add_argument("--runs", type=Path, nargs="+", help="finished runs, in the order shown, instead of training")
    parser.add_argument(
        "--official-step",
        type=float,
        help="seconds of the official code's bare step on this machine (benchmarks/train_step.py), to scale its curve",
    )
    parser.add_argument("--note", help="a remark on how the seconds were measured, kept with the results")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    experiment = EXPERIMENTS[arguments.model]
    if arguments.runs is not None:
        if len(arguments.runs) != len(experiment.starts):
            parser.error(f"--runs: expected {len(experiment.starts)} folders, got {len(arguments.runs)}")
        runs = dict(zip(experiment.starts, arguments.runs, strict=True))
        report(experiment, runs, arguments.out, official_step=arguments.official_step, note=arguments.note)
        return
    if arguments.data is None or arguments.weights is None:
        parser.error("--data and --weights are needed to train")
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for number, (start, option) in enumerate(experiment.starts.items()):
            runs[start] = Path(folder) / str(number)
            paths = [str(arguments.data), "--out", str(runs[start]), "--model", experiment.model]
            given = [option, str(arguments.weights)] if option else []
            command = [sys.executable, "-m", "training", "train", *paths, *given, *experiment.options]
            subprocess.run(command, check=True)
        report(experiment, runs, arguments.out, official_step=arguments.official_step, note=arguments.note)


def report(
    experiment: Experiment, runs: dict[str, Path], out: Path, *, official_step: float | None, note: str | None
) -> None:
    """Writes the json and the plot of runs. official_step: seconds per step of the official code on this machine."""
    results: dict[str, Any] = {
        "dataset": "BCCD, 292 training and 72 validation images, 320x320, EMA weights",
        "command": " ".join(["python -m training train DATA --out RUN --model", experiment.model, *experiment.options]),
        "runs": {start: run_result(folder, experiment.starts[start]) for start, folder in runs.items()},
        "note": note,
        "machine": {"cpu": cpu_name(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "numpy", "pycocotools")},
    }
    official: list[dict[str, Any]] = []
    if experiment.model == "atto":
        slowdown = official_step / OFFICIAL_SECONDS_PER_STEP if official_step else 1.0
        official = [{"seconds": round(s * slowdown, 1), "AP": ap, "AP50": ap50} for s, ap, ap50 in OFFICIAL]
        results["official"] = {
            "seconds_per_step_when_its_curve_was_measured": OFFICIAL_SECONDS_PER_STEP,
            "bare_seconds_per_step_beside_this_run": official_step,
            "curve_scaled_to_this_machine": official,
        }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"bccd_{experiment.model}.json", results)
    curves = {f"edgedet, {start}": result["curve"] for start, result in results["runs"].items()}
    if official:
        curves["official code, scaled to its step on this machine"] = official
    draw(curves, out / f"bccd_{experiment.model}.png")
    for start, result in results["runs"].items():
        last = result["curve"][-1]
        print(f"{start}: AP {last['AP']:.3f}, AP50 {last['AP50']:.3f} after {last['seconds']:.0f} s")


def run_result(run: Path, option: str | None) -> dict[str, Any]:
    """What is kept of a run: its settings without private paths, and its validations."""
    config: dict[str, Any] = json.loads((run / "config.json").read_text(encoding="utf-8"))
    for private in ("data", "train_json", "val_json", "weights", "backbone_weights", "out"):
        config.pop(private, None)
    curve = [
        {name: record[name] for name in ("step", "epoch", "seconds", "AP", "AP50", "AP75")}
        for record in read_metrics(run / "metrics.jsonl")
        if record["kind"] == "validation"
    ]
    seconds = round(curve[-1]["seconds"] / curve[-1]["step"], 4)
    return {"start": option, "seconds_per_step": seconds, "curve": curve, "config": config}


def draw(curves: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """AP and AP50 over seconds of training, a colour per curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (label, points) in enumerate(curves.items()):
        for name, style in (("AP", "-"), ("AP50", "--")):
            seconds, values = [p["seconds"] for p in points], [p[name] for p in points]
            axes.plot(seconds, values, style, color=f"C{index}", marker=".", label=f"{name}, {label}")
    axes.set_xlabel("seconds of training, two CPU threads, same machine")
    axes.set_ylabel("BCCD validation")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()

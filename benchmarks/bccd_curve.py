"""Fine-tunes atto on BCCD and draws validation AP over training seconds beside the official code's curve.

    python benchmarks/bccd_curve.py --data BCCD --weights deimv2_hgnetv2_atto_coco.safetensors

Writes benchmarks/results/bccd_atto.json and bccd_atto.png. Needs the extra `train`; takes the whole of two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.files import write_json
from training.reporting import read_metrics

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

RECIPE = [
    *("--model", "atto", "--epochs", "10", "--batch", "8", "--lr", "0.004", "--vertical-flip", "0.5"),
    *("--threads", "2", "--workers", "0"),
]


def main() -> None:
    """Trains (or takes a finished run), then writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="BCCD as COCO json, train/ and val/")
    parser.add_argument("--weights", type=Path, help="COCO checkpoint of atto")
    parser.add_argument("--run", type=Path, help="a finished run, instead of training")
    parser.add_argument(
        "--official-step",
        type=float,
        help="seconds of the official code's bare step on this machine (benchmarks/train_step.py), to scale its curve",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.run is not None:
        report(arguments.run, arguments.out, official_step=arguments.official_step)
        return
    if arguments.data is None or arguments.weights is None:
        parser.error("--data and --weights are needed to train")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "bccd"
        paths = [str(arguments.data), "--weights", str(arguments.weights), "--out", str(run)]
        subprocess.run([sys.executable, "-m", "training", "train", *paths, *RECIPE], check=True)
        report(run, arguments.out, official_step=arguments.official_step)


def report(run: Path, out: Path, *, official_step: float | None) -> None:
    """Writes the json and the plot of a run. official_step: seconds per step of the official code on this machine."""
    records = read_metrics(run / "metrics.jsonl")
    config: dict[str, Any] = json.loads((run / "config.json").read_text(encoding="utf-8"))
    for private in ("data", "train_json", "val_json", "weights", "out"):
        del config[private]
    curve = [
        {name: record[name] for name in ("step", "epoch", "seconds", "wall_seconds", "AP", "AP50", "AP75")}
        for record in records
        if record["kind"] == "validation"
    ]
    last = curve[-1]
    slowdown = official_step / OFFICIAL_SECONDS_PER_STEP if official_step else 1.0
    official = [{"seconds": round(s * slowdown, 1), "AP": ap, "AP50": ap50} for s, ap, ap50 in OFFICIAL]
    results = {
        "dataset": "BCCD, 292 training and 72 validation images, COCO checkpoint as start, 320x320, EMA weights",
        "command": "python -m training train DATA --weights WEIGHTS --out RUN " + " ".join(RECIPE),
        "config": config,
        "seconds_per_step": round(last["seconds"] / last["step"], 4),
        "curve": curve,
        "official": {
            "seconds_per_step_when_its_curve_was_measured": OFFICIAL_SECONDS_PER_STEP,
            "bare_seconds_per_step_beside_this_run": official_step,
            "curve_scaled_to_this_machine": official,
        },
        "machine": {"cpu": cpu_name(), "threads": config["threads"], "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "numpy", "pycocotools")},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "bccd_atto.json", results)
    draw(curve, official, out / "bccd_atto.png")
    print(f"AP {last['AP']:.3f}, AP50 {last['AP50']:.3f} after {last['seconds']:.0f} s; see {out / 'bccd_atto.json'}")


def draw(curve: list[dict[str, Any]], official: list[dict[str, Any]], file: Path) -> None:
    """AP and AP50 over seconds of training, ours and the official code's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, style in (("AP", "-"), ("AP50", "--")):
        axes.plot([p["seconds"] for p in curve], [p[name] for p in curve], style, color="C0", marker=".", label=name)
        axes.plot([p["seconds"] for p in official], [p[name] for p in official], style, color="C1", marker=".")
    axes.plot([], [], color="C0", label="edgedet")
    axes.plot([], [], color="C1", label="official code, scaled to its step on this machine")
    axes.set_xlabel("seconds of training, two CPU threads, same machine")
    axes.set_ylabel("BCCD validation")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def cpu_name() -> str:
    """The processor, as Linux names it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()

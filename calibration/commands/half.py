"""`half`: write the model of half precision for TensorRT."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from calibration.collect import CollectOptions
from calibration.commands.progress import PASSED, progress_bar, stages
from calibration.half import HalfOptions
from calibration.half_bundle import add_half


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser("half", help="write a model of half precision with explicit types for TensorRT")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--images", type=Path, metavar="DIR", help="calibration images, if they were moved")
    parser.add_argument("--count", type=int, default=16, metavar="N", help="of them to measure on (default: 16)")
    parser.add_argument(
        "--max-box-px", type=float, default=1.0, metavar="PX", help="95%% of boxes may move by this much (default: 1)"
    )
    parser.add_argument(
        "--max-score", type=float, default=0.02, metavar="S", help="95%% of scores may change by it (default: 0.02)"
    )
    parser.add_argument(
        "--spelt-layer-norm", action="store_true", help="no LayerNormalization operator: TensorRT 8.5 has none"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads, 0 for all (default)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    settings = HalfOptions(
        max_box_px=options.max_box_px,
        max_score=options.max_score,
        layer_norm=not options.spelt_layer_norm,
        collect=CollectOptions(threads=options.threads),
    )
    with progress_bar() as bar:
        made, file, count = add_half(
            options.bundle, options=settings, count=options.count, images=options.images, progress=stages(bar)
        )
    print(f"{file}: {made.half} nodes in half precision, {made.casts} casts, {len(made.islands)} nodes in float32:")
    for reason, number in Counter(made.islands.values()).most_common():
        print(f"  {number:4d}  {reason}")
    found = made.drift
    print(
        f"emulated on {count} images: {found.matched:.1%} of {found.detections} detections found again, boxes moved by "
        f"{found.box_mean_px:.2f} px (p95 {found.box_p95_px:.2f}), scores by {found.score_mean:.4f} "
        f"(p95 {found.score_p95:.4f})"
    )
    return PASSED

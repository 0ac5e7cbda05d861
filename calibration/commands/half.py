"""`half`: write the model of half precision for TensorRT."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.collect import CollectOptions
from calibration.half import HalfOptions
from calibration.half_bundle import add_half
from edgedet import command
from edgedet.cli.common import add_bundle, whole_number
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "half",
        help="write a model of half precision with explicit types for TensorRT",
        description="Write a float16 model for TensorRT into the bundle, with those nodes left in float32 that would "
        "overflow or move detections. It is emulated on the calibration images; verify judges it on the device.",
        examples=(
            "python -m calibration half bundle",
            "python -m calibration half bundle --count 64 --spelt-layer-norm",
        ),
    )
    add_bundle(parser)
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
    parser.add_argument("--threads", type=whole_number, default=0, metavar="N", help="CPU threads (default: all)")
    add_json(parser, "what was made")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    settings = HalfOptions(
        max_box_px=options.max_box_px,
        max_score=options.max_score,
        layer_norm=not options.spelt_layer_norm,
        collect=CollectOptions(threads=options.threads),
    )
    with progress() as tell:
        made, file, count = add_half(
            options.bundle, options=settings, count=options.count, images=options.images, progress=tell
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
    if options.json is not None:
        options.json.write(
            {
                "file": file,
                "half_nodes": made.half,
                "casts": made.casts,
                "float32_nodes": dict(Counter(made.islands.values())),
                "images": count,
                "drift": found.to_json(),
            }
        )
    return command.DONE

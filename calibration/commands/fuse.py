"""`fuse`: one operator for deformable attention in TensorRT, where it is faster."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.fusion.choice import choose, fused_model, need_tensorrt
from calibration.sampling import read_checked, read_sample
from edgedet import InvalidInputError, command
from edgedet.cli.common import add_bundle
from edgedet.files import write_atomically
from edgedet.terminal.json_output import add_json

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "fuse",
        help="make deformable attention one operator of TensorRT, where it is faster",
        description="Time deformable attention as one operator of TensorRT against the graph of gathers, and keep the "
        "faster form in the bundle if its detections are the same.",
        examples=(
            "python -m calibration fuse bundle --precision fp16",
            "python -m calibration fuse bundle --out fused.onnx",
        ),
    )
    add_bundle(parser)
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp16", help="model to work on (default: fp16)"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="calibration images, if they were moved")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="of them to time on (default: 8)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="that timing takes (default: 10)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the fused model there and choose nothing")
    add_json(parser, "what was found")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    bundle: Path = options.bundle
    if options.out is not None:
        model, count = fused_model(bundle, options.precision)
        write_atomically(options.out, model.SerializeToString())
        print(f"{options.out}: {count} attentions fused; not timed, and not in the bundle")
        if options.json is not None:
            options.json.write({"file": str(options.out), "attentions": count})
        return command.DONE
    if options.count < 1 or not options.seconds >= 0.0:
        raise InvalidInputError(
            f"expected --count of at least 1 and --seconds of at least 0, got {options.count} and {options.seconds}"
        )
    need_tensorrt()
    sample = read_sample(bundle)
    folder = options.images or Path(sample.directory)
    frames = [read_checked(folder, image) for image in sample.images[: options.count]]
    found = choose(bundle, options.precision, frames, seconds=options.seconds)
    print(
        f"{found.device}, {options.precision}: gather {found.gather_ms:.3f} ms, fused {found.fused_ms:.3f} ms a frame, "
        f"detections moved by {found.divergence:.4f}: the bundle has the {found.kept} form"
    )
    if options.json is not None:
        options.json.write({"precision": options.precision, **asdict(found)})
    return command.DONE

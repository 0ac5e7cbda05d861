"""`fuse`: one operator for deformable attention in TensorRT, where it is faster."""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration.commands.progress import PASSED
from calibration.fusion.choice import choose, fused_model, need_tensorrt
from calibration.sampling import read_checked, read_sample
from edgedet import InvalidInputError
from edgedet.files import write_atomically


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser("fuse", help="deformable attention as one operator of TensorRT, where it is faster")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp16", help="model to work on (default: fp16)"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="calibration images, if they were moved")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="of them to time on (default: 8)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="that timing takes (default: 10)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the fused model there and choose nothing")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    bundle: Path = options.bundle
    if options.out is not None:
        model, count = fused_model(bundle, options.precision)
        write_atomically(options.out, model.SerializeToString())
        print(f"{options.out}: {count} attentions fused; not timed, and not in the bundle")
        return PASSED
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
    return PASSED

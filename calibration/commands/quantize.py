"""`quantize`: measure ranges and write the INT8 model."""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration.collect import CollectOptions
from calibration.commands.progress import PASSED, progress_bar, stages
from calibration.observers import METHODS
from calibration.placement import PlacementOptions
from calibration.quantize import BACKENDS, QuantizeOptions, quantize
from calibration.search.journal import read_choice


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser("quantize", help="measure ranges and write the INT8 model into the bundle")
    add_quantize_options(parser)
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="images per run (default: 4)")
    parser.set_defaults(run=run)


def add_quantize_options(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that quantises takes."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--backend", choices=BACKENDS, default="openvino")
    parser.add_argument("--images", type=Path, metavar="DIR", help="calibration images, if they were moved")
    parser.add_argument("--observer", choices=METHODS, default="percentile")
    parser.add_argument("--percentile", type=float, default=99.99, metavar="P", help="(default: 99.99)")
    parser.add_argument(
        "--scope", choices=("conv", "linear", "all"), default="conv", help="layers to consider (default: conv)"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.5, metavar="A", help="channel equalisation, 0 off to 1 (default: 0.5)"
    )
    parser.add_argument("--no-bias-correction", action="store_true", help="keep the biases of the float model")
    parser.add_argument(
        "--like",
        type=Path,
        metavar="JSON",
        help="search.json of a search: build its answer again, whatever else is said",
    )
    parser.add_argument("--memory-mb", type=int, default=512, metavar="MB", help="bound on held tensors (default: 512)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads, 0 for all (default)")


def quantize_options(options: argparse.Namespace, collect: CollectOptions) -> QuantizeOptions:
    """What `add_quantize_options` read.

    Raises:
        InvalidInputError: a value is out of range, or --like names no finished search.
    """
    if options.like is not None:
        return read_choice(options.like).options(collect)
    return QuantizeOptions(
        observer=options.observer,
        percentile=options.percentile,
        alpha=options.alpha,
        correct_bias=not options.no_bias_correction,
        placement=PlacementOptions(scope=options.scope),
        collect=collect,
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    collect = CollectOptions(batch=options.batch, memory_mb=options.memory_mb, threads=options.threads)
    settings = quantize_options(options, collect)
    with progress_bar() as bar:
        made = quantize(
            options.bundle, backend=options.backend, options=settings, images=options.images, progress=stages(bar)
        )
    print(f"{made.file}: {len(made.placement.layers)} layers in int8, {len(made.placement.kept)} kept in float:")
    reasons: dict[str, int] = {}
    for kept in made.placement.kept:
        reasons[kept.reason] = reasons.get(kept.reason, 0) + 1
    for reason, count in sorted(reasons.items(), key=lambda entry: -entry[1]):
        print(f"  {count:4d}  {reason}")
    print("nothing is proven yet; next: python -m calibration verify")
    return PASSED

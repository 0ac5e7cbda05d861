"""`quantize`: measure ranges and write the INT8 model."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.collect import CollectOptions
from calibration.observers import METHODS
from calibration.placement import PlacementOptions
from calibration.quantize import BACKENDS, Quantized, QuantizeOptions, quantize
from calibration.search.journal import read_choice
from edgedet import command
from edgedet.cli.common import add_bundle, whole_number
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "quantize",
        help="measure ranges and write the INT8 model into the bundle",
        description="Measure ranges on the calibration images that `sample` recorded, and write the INT8 model into "
        "the bundle. Nothing is proven by it: verify is next.",
        examples=(
            "python -m calibration quantize bundle",
            "python -m calibration quantize bundle --scope all --observer entropy",
            "python -m calibration quantize bundle --like bundle.calibration/search/search.json",
        ),
    )
    add_quantize_options(parser)
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="images per run (default: 4)")
    add_json(parser, "what was made")
    parser.set_defaults(run=run)


def add_quantize_options(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that quantises takes."""
    add_bundle(parser)
    parser.add_argument(
        "--backend", choices=BACKENDS, default="openvino", help="the engine it is for (default: openvino)"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="calibration images, if they were moved")
    parser.add_argument(
        "--observer", choices=METHODS, default="percentile", help="what makes a range of values (default: percentile)"
    )
    parser.add_argument(
        "--percentile", type=float, default=99.99, metavar="P", help="of that observer (default: 99.99)"
    )
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
        metavar="FILE",
        help="search.json of a search: build its answer again, whatever else is said",
    )
    parser.add_argument("--memory-mb", type=int, default=512, metavar="N", help="MB of tensors held (default: 512)")
    parser.add_argument("--threads", type=whole_number, default=0, metavar="N", help="CPU threads (default: all)")


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
    with progress() as tell:
        made = quantize(options.bundle, backend=options.backend, options=settings, images=options.images, progress=tell)
    print(f"{made.file}: {len(made.placement.layers)} layers in int8, {len(made.placement.kept)} kept in float:")
    for reason, count in _reasons(made).most_common():
        print(f"  {count:4d}  {reason}")
    print(f"nothing is proven yet; next: python -m calibration verify {options.bundle}")
    if options.json is not None:
        options.json.write(made_json(made))
    return command.DONE


def made_json(made: Quantized) -> dict[str, Any]:
    """What was made, for programs."""
    return {"file": made.file, "int8_layers": len(made.placement.layers), "float_layers": dict(_reasons(made))}


def _reasons(made: Quantized) -> Counter[str]:
    return Counter(kept.reason for kept in made.placement.kept)

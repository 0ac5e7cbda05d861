"""The command line: sample, quantize, verify."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from calibration.collect import CollectOptions
from calibration.observers import METHODS
from calibration.placement import PlacementOptions
from calibration.quantize import BACKENDS, QuantizeOptions, quantize, record_sample
from calibration.sampling import STRATEGIES, contact_sheet, draw, evaluation_digests
from calibration.verify import VerifyOptions, check_report, summary, verify
from edgedet.bundle import load_model_json
from edgedet.command import run_command

PASSED, REFUSED = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done or passed, 1 the INT8 model was refused, otherwise as `run_command`.
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run_command(lambda: run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m calibration", description="Make an INT8 model of a bundle, and prove or refuse it."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sample = commands.add_parser("sample", help="choose the calibration images and record them in the bundle")
    sample.add_argument("bundle", type=Path, metavar="BUNDLE")
    sample.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder to choose from")
    sample.add_argument("--annotations", type=Path, metavar="FILE", help="COCO file; choose among its images only")
    sample.add_argument("--count", type=int, default=100, metavar="N", help="images wanted (default: 100)")
    sample.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the choice (default: 0)")
    sample.add_argument("--strategy", choices=STRATEGIES, default="random")
    sample.add_argument(
        "--exclude",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="folder or COCO file of evaluation images, which never enter the set; may be repeated",
    )
    sample.add_argument("--contact-sheet", type=Path, metavar="PNG", help="write a picture of the whole set")
    sample.set_defaults(run=_sample)

    quantise = commands.add_parser("quantize", help="measure ranges and write the INT8 model into the bundle")
    quantise.add_argument("bundle", type=Path, metavar="BUNDLE")
    quantise.add_argument("--backend", choices=BACKENDS, default="openvino")
    quantise.add_argument("--images", type=Path, metavar="DIR", help="calibration images, if they were moved")
    quantise.add_argument("--observer", choices=METHODS, default="percentile")
    quantise.add_argument("--percentile", type=float, default=99.99, metavar="P", help="(default: 99.99)")
    quantise.add_argument(
        "--scope", choices=("conv", "linear", "all"), default="conv", help="layers to consider (default: conv)"
    )
    quantise.add_argument(
        "--alpha", type=float, default=0.5, metavar="A", help="channel equalisation, 0 off to 1 (default: 0.5)"
    )
    quantise.add_argument("--no-bias-correction", action="store_true", help="keep the biases of the float model")
    quantise.add_argument("--batch", type=int, default=4, metavar="N", help="images per run (default: 4)")
    quantise.add_argument(
        "--memory-mb", type=int, default=512, metavar="MB", help="bound on held tensors (default: 512)"
    )
    quantise.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads, 0 for all (default)")
    quantise.set_defaults(run=_quantize)

    check = commands.add_parser("verify", help="compare the INT8 engine with the float one and give the verdict")
    check.add_argument("bundle", type=Path, metavar="BUNDLE")
    check.add_argument("--images", type=Path, metavar="DIR", help="evaluation images")
    check.add_argument("--annotations", type=Path, metavar="FILE", help="COCO file of the evaluation images")
    check.add_argument("--backend", choices=BACKENDS, default="openvino")
    check.add_argument("--max-drop", type=float, default=0.01, metavar="AP", help="largest loss of AP (default: 0.01)")
    check.add_argument(
        "--max-time-ratio", type=float, default=1.0, metavar="R", help="int8 must take less of the time (default: 1.0)"
    )
    check.add_argument("--limit", type=int, default=0, metavar="N", help="first N images only (default: all)")
    check.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads, 0 for all (default)")
    check.add_argument(
        "--report-only", action="store_true", help="read the report in the bundle and say whether it still holds"
    )
    check.set_defaults(run=_verify)
    return parser


def _sample(options: argparse.Namespace) -> int:
    load_model_json(options.bundle)
    excluded = set().union(*(evaluation_digests(path) for path in options.exclude))
    with _bar() as bar:
        task = bar.add_task("checking images", total=options.count)
        sample = draw(
            options.images,
            count=options.count,
            seed=options.seed,
            strategy=options.strategy,
            annotations=options.annotations,
            exclude=sorted(excluded),
            advance=lambda images: bar.advance(task, images),
        )
    if options.contact_sheet is not None:
        contact_sheet(options.images, sample, options.contact_sheet)
    record_sample(options.bundle, sample)
    print(f"{len(sample.images)} of {sample.candidates} images, seed {sample.seed}, recorded in calibration.json")
    for image in sample.refused:
        print(f"  passed over {image.file}: {image.reason}")
    return PASSED


def _quantize(options: argparse.Namespace) -> int:
    settings = QuantizeOptions(
        observer=options.observer,
        percentile=options.percentile,
        alpha=options.alpha,
        correct_bias=not options.no_bias_correction,
        placement=PlacementOptions(scope=options.scope),
        collect=CollectOptions(batch=options.batch, memory_mb=options.memory_mb, threads=options.threads),
    )
    with _bar() as bar:
        made = quantize(
            options.bundle, backend=options.backend, options=settings, images=options.images, progress=_stages(bar)
        )
    print(f"{made.file}: {len(made.placement.layers)} layers in int8, {len(made.placement.kept)} kept in float:")
    reasons: dict[str, int] = {}
    for kept in made.placement.kept:
        reasons[kept.reason] = reasons.get(kept.reason, 0) + 1
    for reason, count in sorted(reasons.items(), key=lambda entry: -entry[1]):
        print(f"  {count:4d}  {reason}")
    print("nothing is proven yet; next: python -m calibration verify")
    return PASSED


def _verify(options: argparse.Namespace) -> int:
    if options.report_only:
        state = check_report(options.bundle)
        print(state.text)
        return PASSED if state.passed else REFUSED
    settings = VerifyOptions(
        backend=options.backend,
        max_drop=options.max_drop,
        max_time_ratio=options.max_time_ratio,
        limit=options.limit,
        threads=options.threads,
    )
    with _bar() as bar:
        report = verify(
            options.bundle,
            images=options.images,
            annotations=options.annotations,
            options=settings,
            progress=_stages(bar),
        )
    print(summary(report))
    return PASSED if report["verdict"]["passed"] else REFUSED


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield bar


def _stages(bar: Progress) -> Callable[[str, int, int], None]:
    tasks: dict[str, TaskID] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done, total=total)

    return progress

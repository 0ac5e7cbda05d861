"""Engines of TensorRT on a device: one command builds, proves and times them, and writes one JSON.

    python -m benchmarks.tensorrt prepare --models DIR --images DIR --annotations FILE --train DIR --out FOLDER
    python -m benchmarks.tensorrt --models FOLDER --images DIR --annotations FILE --out FILE [--only SECTION ...]
    python -m benchmarks.tensorrt report FILE [--markdown FILE] [--plot FILE]

`prepare` needs no GPU: it exports, types and quantises the networks and has onnxruntime detect what engines are
compared with. The second command needs a CUDA device, TensorRT and FOLDER, and ends by itself after --budget-minutes;
the same command goes on where it stopped. Every step is saved at once; a step that fails, hangs or kills its process
has its reason in FILE, and the next one runs.

It ends with 0; 1 if a proof failed (threads, another program's tensors, tests); 2 without a device or TensorRT.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tensorrt.plan import NAMES, Clock, allot, plan_text
from benchmarks.tensorrt.record import Step, finished, read_record, run_steps, save_record
from edgedet import InvalidInputError
from edgedet.command import run_command

COMMANDS = ("run", "prepare", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given.pop(0) if given and given[0] in COMMANDS else "run"
    options = _PARSERS[command]().parse_args(given)
    run = {"run": _run, "prepare": _prepare, "report": _report}[command]
    return run_command(lambda: run(options))


def _run(options: argparse.Namespace) -> int:
    from benchmarks.cuda_frames.environment import command_line
    from benchmarks.tensorrt.goals import goals, proofs_failed
    from benchmarks.tensorrt.models import open_prepared
    from benchmarks.tensorrt.report import markdown
    from benchmarks.tensorrt.runtime import need_backend
    from benchmarks.tensorrt.supervise import run_sections

    start = time.monotonic()
    if options.child is not None:
        need_backend()
        run_child(options, Clock(start + options.seconds))
        return 0
    print(f"TensorRT: {need_backend()}")
    prepared = open_prepared(options.models, work_of(options.out))
    record = read_record(options.out)
    record["commands"] = [*record.get("commands", []), command_line("benchmarks.tensorrt")]
    record["prepared"] = {name: prepared.facts(name) for name in prepared.names}
    save_record(options.out, record)
    allotments = allot(options.only, options.budget_minutes)
    done = {name: sum(finished(row) for row in entry["rows"].values()) for name, entry in record["sections"].items()}
    print(plan_text(allotments, done), flush=True)
    shared = ["--models", options.models, "--images", options.images, "--annotations", options.annotations]
    shared += ["--out", options.out]

    def judge(file: Path) -> None:
        found = read_record(file)
        save_record(file, {**found, "goals": [goal.to_json() for goal in goals(found)]})

    run_sections(options.out, allotments, [str(word) for word in shared], start, _say, judge)
    record = read_record(options.out)
    print(f"\n{markdown(record)}\nwritten: {options.out}")
    return int(proofs_failed(record))


def run_child(options: argparse.Namespace, clock: Clock) -> None:
    """One section, in this process."""
    from benchmarks.tensorrt import building
    from benchmarks.tensorrt.models import open_prepared
    from benchmarks.tensorrt.runtime import Scene

    # Few kernels are compiled, and starting helpers takes longer.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    prepared = open_prepared(options.models, work_of(options.out))
    scene = Scene(
        prepared=prepared,
        images=options.images,
        annotations=options.annotations,
        work=prepared.work,
        engines=building.engines(prepared.names),
    )
    run_steps(options.out, options.child, section_steps(options.child)(scene), clock, _say)


def section_steps(name: str) -> Callable[[Any], Mapping[str, Step]]:
    """Imports what the section needs, so that a package that is missing stops no other."""
    if name in ("environment", "tests"):
        from benchmarks.tensorrt import surroundings

        return surroundings.environment_steps if name == "environment" else surroundings.test_steps
    if name == "build":
        from benchmarks.tensorrt import building

        return building.steps
    import importlib

    module = importlib.import_module(f"benchmarks.tensorrt.{name}")
    steps: Callable[[Any], Mapping[str, Step]] = module.steps
    return steps


def _prepare(options: argparse.Namespace) -> int:
    from benchmarks.tensorrt.prepare import PrepareOptions, prepare, sizes

    settings = PrepareOptions(
        models=options.models,
        images=options.images,
        annotations=options.annotations,
        train=options.train,
        out=options.out,
        only=tuple(options.only or ()),
        count=options.count,
        threads=options.threads,
    )
    print(sizes(prepare(settings)))
    return 0


def _report(options: argparse.Namespace) -> int:
    from benchmarks.tensorrt.report import markdown, plot

    record = read_record(options.file)
    if not record["sections"]:
        raise InvalidInputError(f"{options.file}: expected results of `python -m benchmarks.tensorrt`, got none")
    text = markdown(record)
    if options.markdown is None:
        print(text)
    else:
        options.markdown.write_text(text, encoding="utf-8")
    if options.plot is not None:
        plot(record, options.plot)
    return 0


def work_of(out: Path) -> Path:
    """The folder beside the results with engines and restored weights; it may be deleted."""
    return out.with_suffix(".work")


def _say(text: str) -> None:
    if text:
        print(text, flush=True)


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tensorrt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="what `prepare` wrote")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="of the labelled images")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="their COCO file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write, or to go on with")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="SECTION", help=f"of {', '.join(NAMES)}")
    parser.add_argument(
        "--budget-minutes", type=_minutes, default=9.0, metavar="N", help="when to stop by itself (default: 9)"
    )
    parser.add_argument("--child", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes <= 24 * 60:
        raise argparse.ArgumentTypeError(f"expected minutes, above 0 and at most a day, got {text}")
    return minutes


def _prepare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tensorrt prepare",
        description="Make what needs no GPU, and say how large it is. Networks that are there already are kept.",
    )
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="published weights")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="of the labelled images")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="their COCO file")
    parser.add_argument("--train", type=Path, required=True, metavar="DIR", help="photos to calibrate on")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to carry over")
    parser.add_argument("--only", nargs="+", choices=_names(), metavar="NAME", help=f"of {', '.join(_names())}")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="photos to calibrate on (default: 200)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    return parser


def _names() -> tuple[str, ...]:
    from benchmarks.tensorrt.models import MODELS

    return tuple(model.name for model in MODELS)


def _report_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tensorrt report", description="Write the results as Markdown and as a plot."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what a run wrote")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="to write (default: print it)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG to write")
    return parser


_PARSERS = {"run": _run_parser, "prepare": _prepare_parser, "report": _report_parser}

if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m benchmarks.quantisers make|evaluate|time|table NAME=BUNDLE [NAME=BUNDLE ...] --work DIR`.

Every quantiser gets the float model and the calibration set of the bundle; ours is the INT8 model in it. See
docs/quantisers.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.quantisers.contenders import CONTENDERS, TOOLS
from benchmarks.quantisers.workspace import Subject, same_sample
from edgedet import InvalidInputError
from edgedet.command import run_command

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> int:
    options = _parser().parse_args()
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    subjects = [Subject(name, Path(bundle), options.work / name) for name, bundle in options.models]
    if len({subject.name for subject in subjects}) < len(subjects):
        raise InvalidInputError("expected a different NAME for every bundle, got one twice; rename it")
    same_sample(subjects)
    chosen = [contender for contender in CONTENDERS if not options.only or contender.key in options.only]
    for subject in subjects:
        subject.folder.mkdir(parents=True, exist_ok=True)
    if options.command == "make":
        from benchmarks.quantisers.making import make

        pythons = {tool: Path(path) for tool, path in options.python}
        for subject in subjects:
            make(subject, chosen, images=options.images, pythons=pythons, say=_say)
    elif options.command == "evaluate":
        from benchmarks.quantisers.evaluation import evaluate_all

        for subject in subjects:
            evaluate_all(
                subject,
                chosen,
                images=options.images,
                annotations=options.annotations,
                threads=options.threads,
                say=_say,
            )
    elif options.command == "time":
        from benchmarks.quantisers.timing import time_all

        for subject in subjects:
            time_all(subject, chosen, threads=options.threads, rounds=options.rounds, calls=options.calls, say=_say)
    else:
        from benchmarks.quantisers.report import write_report

        write_report(subjects, chosen, options.out)
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got '{text}'")
    return name, value


def _tool(text: str) -> tuple[str, str]:
    name, value = _pair(text)
    if name not in TOOLS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(TOOLS)} before =, got '{name}'")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantisers", description="Quantisers side by side.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    keys = [contender.key for contender in CONTENDERS]

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("models", nargs="+", type=_pair, metavar="NAME=BUNDLE")
        added.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder of all intermediate files")
        added.add_argument("--only", nargs="+", choices=keys, metavar="KEY", help=f"of {', '.join(keys)}")
        return added

    make = command("make", "quantise the models with every tool")
    make.add_argument("--images", type=Path, metavar="DIR", help="calibration images, if they were moved")
    make.add_argument(
        "--python",
        nargs="+",
        type=_tool,
        default=[],
        metavar="TOOL=PATH",
        help=f"interpreter with {', '.join(TOOLS)}",
    )
    evaluate = command("evaluate", "AP of every model in every engine that runs it")
    evaluate.add_argument("--images", type=Path, required=True, metavar="DIR", help="evaluation images")
    evaluate.add_argument("--annotations", type=Path, required=True, metavar="FILE")
    timing = command("time", "time all models in turns, in one process")
    timing.add_argument("--rounds", type=int, default=12, metavar="N", help="(default: 12)")
    timing.add_argument("--calls", type=int, default=20, metavar="N", help="a round (default: 20)")
    for added in (evaluate, timing):
        added.add_argument("--threads", type=int, default=2, metavar="N", help="(default: 2)")
    table = command("table", "write quantisers.json, .md and .png")
    table.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="(default: benchmarks/results)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

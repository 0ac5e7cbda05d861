"""`verify`: compare INT8 or a half type with the float engine and give the verdict."""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration.commands.progress import PASSED, REFUSED, progress_bar, stages
from calibration.quantize import BACKENDS
from calibration.verify import VerifyOptions, check_report, summary, verify
from edgedet.verdict import CANDIDATES


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "verify", help="compare INT8 or a half type with the float engine and give the verdict"
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--images", type=Path, metavar="DIR", help="evaluation images")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="COCO file of the evaluation images")
    parser.add_argument("--backend", choices=BACKENDS, default="openvino")
    parser.add_argument(
        "--precision", choices=CANDIDATES, default="", help="which is judged (default: the first that the bundle has)"
    )
    parser.add_argument(
        "--max-drop", type=float, default=0.01, metavar="AP", help="accepted loss of AP (default: 0.01)"
    )
    parser.add_argument(
        "--expect-ap", type=float, metavar="AP", help="AP that the float model is known to have, from training for one"
    )
    parser.add_argument(
        "--max-time-ratio", type=float, default=1.0, metavar="R", help="it must take less of the time (default: 1.0)"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="first N images only (default: all)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads, 0 for all (default)")
    parser.add_argument("--no-pictures", action="store_true", help="leave the evaluation images out of report.html")
    parser.add_argument(
        "--report-only", action="store_true", help="read the report in the bundle and say whether it still holds"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    if options.report_only:
        state = check_report(options.bundle, options.backend)
        print(state.text)
        return PASSED if state.passed else REFUSED
    settings = VerifyOptions(
        backend=options.backend,
        precision=options.precision,
        max_drop=options.max_drop,
        expect_ap=options.expect_ap,
        max_time_ratio=options.max_time_ratio,
        limit=options.limit,
        threads=options.threads,
        pictures=not options.no_pictures,
    )
    with progress_bar() as bar:
        report = verify(
            options.bundle,
            images=options.images,
            annotations=options.annotations,
            options=settings,
            progress=stages(bar),
        )
    print(summary(report))
    print(f"details: {options.bundle / 'report.html'}")
    return PASSED if report["verdict"]["passed"] else REFUSED

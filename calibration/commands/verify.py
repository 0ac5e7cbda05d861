"""`verify`: compare INT8 or a half type with the float engine and give the verdict."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.quantize import BACKENDS
from calibration.verify import VerifyOptions, check_report, summary, verify
from edgedet import command
from edgedet.cli.common import add_bundle, whole_number
from edgedet.terminal.json_output import add_json
from edgedet.terminal.progress import progress
from edgedet.verdict import CANDIDATES

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "verify",
        help="compare INT8 or a half type with the float engine and give the verdict",
        description="Run the float engine and the other one on labelled images, on this machine, and give a verdict "
        "by boxes, AP and milliseconds, which goes into the bundle. Ends with 0 if passed, with 1 if refused.",
        examples=(
            "python -m calibration verify bundle --images val/images --annotations val/instances.json",
            "python -m calibration verify bundle --images val/images --annotations val/instances.json --max-drop 0.005",
            "python -m calibration verify bundle --report-only",
        ),
    )
    add_bundle(parser)
    parser.add_argument("--images", type=Path, metavar="DIR", help="evaluation images")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="COCO file of the evaluation images")
    parser.add_argument(
        "--backend", choices=BACKENDS, default="openvino", help="the engine that is judged (default: openvino)"
    )
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
    parser.add_argument("--limit", type=whole_number, default=0, metavar="N", help="first N images only (default: all)")
    parser.add_argument("--threads", type=whole_number, default=0, metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--no-pictures", action="store_true", help="leave the evaluation images out of report.html")
    parser.add_argument(
        "--report-only", action="store_true", help="read the report in the bundle and say whether it still holds"
    )
    add_json(parser, "the report")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and say what it did."""
    if options.report_only:
        state = check_report(options.bundle, options.backend)
        print(state.text)
        if options.json is not None:
            options.json.write({"state": state.state, "text": state.text})
        return command.DONE if state.passed else command.NO
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
    with progress() as tell:
        report = verify(
            options.bundle,
            images=options.images,
            annotations=options.annotations,
            options=settings,
            progress=tell,
        )
    print(summary(report))
    print(f"details: {options.bundle / 'report.html'}")
    if options.json is not None:
        options.json.write(report)
    return command.DONE if report["verdict"]["passed"] else command.NO

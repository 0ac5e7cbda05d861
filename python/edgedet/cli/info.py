"""``edgedet info``: what a bundle is and whether it is intact."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgedet import _core
from edgedet.bundle import load_model_json
from edgedet.cli.common import add_bundle
from edgedet.terminal.json_output import add_json
from edgedet.terminal.table import print_table
from edgedet.verdict import CANDIDATES, model_file, read_verdict

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "info",
        help="show what a bundle is and check its files",
        description="Show a bundle's model, preprocessing, classes, files and licences, and check every sha256.",
        examples=("edgedet info femto", "edgedet info femto --json | jq .classes"),
    )
    add_bundle(parser)
    add_json(parser, "model.json and the verdicts")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reads, which checks, and prints."""
    spec = load_model_json(arguments.bundle)
    verdicts = {backend: read_verdict(arguments.bundle, spec, backend) for backend in _judged_backends(spec)}
    for key, value in [*_lines(spec), *(("verified", str(verdict)) for verdict in verdicts.values())]:
        print(f"{key:<10} {value}")
    print()
    rows = [
        {"file": name, "bytes": str(entry["bytes"]), "sha256": entry["sha256"]}
        for name, entry in sorted(spec["files"].items())
    ]
    print_table(rows, left=("file", "sha256"))
    print(f"\nvalid: model.json is sound and {'the file matches' if len(rows) == 1 else 'all files match'} it")
    if arguments.json is not None:
        states = {backend: {"state": found.state, "text": found.text} for backend, found in verdicts.items()}
        arguments.json.write({"bundle": str(arguments.bundle), "valid": True, **spec, "verdicts": states})
    return 0


def _lines(spec: dict[str, Any]) -> list[tuple[str, str]]:
    image, head = spec["input"], spec["output"]
    models = [
        f"{precision} for {'every backend' if backend == '*' else backend}"
        for precision, files in spec["models"].items()
        for backend in files
    ]
    best = [f"{precision} on {backend}" for backend, precision in spec["best"].items()]
    classes = spec["classes"]
    return [
        ("name", spec["name"]),
        ("input", f"{image['name']} {image['width']}x{image['height']}"),
        ("resize", f"{image['resize']}, {image['filter']}"),
        ("pixels", f"{image['channels']}, mean {_numbers(image['mean'])}, std {_numbers(image['std'])}"),
        ("head", f"{head['form'].replace('_', ', ')}; {head['top_k']} rows at the most"),
        ("classes", f"{len(classes)}: {', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}"),
        ("models", ", ".join(models)),
        ("best", ", ".join(best) or "not verified yet (python -m calibration verify)"),
        ("weights", spec["licence"]["weights"]),
        ("data", spec["licence"]["data"]),
    ]


def _judged_backends(spec: dict[str, Any]) -> list[str]:
    """Backends that have a model which needs a verdict."""
    names = [backend["name"] for backend in _core.backends()]
    return [name for name in names if any(model_file(spec, precision, name) for precision in CANDIDATES)]


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:g}" for value in values)

"""``edgedet pull``: the bundle out of a folder of Hugging Face's layout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet.bundle import load_model_json
from edgedet.hub import pull_bundle
from edgedet.terminal.json_output import add_json

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "pull",
        help="take a bundle out of a folder of the Hugging Face hub's layout",
        description="Copy the bundle that 'python -m training push --bundle' put into a folder of the Hugging Face "
        "hub's layout, every sha256 checked. From the hub itself, the package huggingface_hub is needed.",
        examples=(
            "edgedet pull femto-hub --out femto",
            f"edgedet pull hub:someone/femto --revision {'3f0c' * 10} --out femto",
        ),
    )
    parser.add_argument("source", metavar="FOLDER|hub:OWNER/NAME", help="a folder, or a model of the hub")
    parser.add_argument("--out", required=True, metavar="BUNDLE", type=Path, help="folder to make")
    parser.add_argument("--revision", metavar="COMMIT", help="for the hub: the commit to take, all 40 digits")
    parser.add_argument("--force", action="store_true", help="replace a bundle that exists")
    add_json(parser, "model.json")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Pulls, then says what to do next."""
    out = pull_bundle(arguments.source, arguments.out, revision=arguments.revision, overwrite=arguments.force)
    print(f"bundle: {out}\nnext:   edgedet predict {out} IMAGE")
    if arguments.json is not None:
        arguments.json.write({"bundle": str(out), **load_model_json(out)})
    return 0

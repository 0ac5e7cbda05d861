"""``edgedet completion``: scripts that teach a shell the commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedet import Error
from edgedet.extras import needs_extra
from edgedet.terminal.json_output import JsonTarget

if TYPE_CHECKING:
    from edgedet.terminal.parser import Commands

_SHELLS = ("bash", "zsh", "fish", "tcsh")
_FOLDERS = ("BUNDLE", "DIR")


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "completion",
        help="print a script for shell completion",
        description="Print a script that completes commands, options, choices and file names. It is plain text: "
        "nothing of edgedet runs while you type. Print it again after an update.",
        epilog="fish: edgedet completion fish > ~/.config/fish/completions/edgedet.fish. zsh: into a file named "
        "_edgedet in a folder of $fpath.",
        examples=(
            'eval "$(edgedet completion bash)"',
            "edgedet completion bash > ~/.local/share/bash-completion/completions/edgedet",
        ),
    )
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the script."""
    from edgedet.cli import build_parser

    with needs_extra("cli"):
        import shtab
    if arguments.shell not in shtab.SUPPORTED_SHELLS:
        raise Error(f"the installed shtab does not know {arguments.shell}; run: pip install --upgrade shtab")
    parser = build_parser()
    for action in _actions(parser):
        if action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY
        elif action.type in (Path, JsonTarget) or action.metavar in ("FILE", "INPUT", "PATH"):
            action.complete = shtab.FILE
    print(shtab.complete(parser, arguments.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
        else:
            yield action

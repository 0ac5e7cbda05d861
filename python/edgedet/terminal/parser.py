"""The parser of every command line of the project."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

from edgedet.command import ERROR, EXIT_CODES, run_command
from edgedet.extras import needs_extra
from edgedet.suggest import did_you_mean
from edgedet.terminal.json_output import only_json

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["Parser"]


class _ProgramHelp(argparse.RawDescriptionHelpFormatter):
    """Leaves room for the longest command: argparse forgets that commands are indented, and breaks the line."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            longest = max(map(len, action.choices)) + self._current_indent + 2
            self._action_max_length = max(self._action_max_length, longest)


class Parser(argparse.ArgumentParser):
    """With examples at the end of --help, and errors of one line that name what was probably meant.

    A sub-command sets ``run``, a function from its arguments to an exit code.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        """examples: Command lines, as they would be typed."""
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self._given: Sequence[str] = ()

    def format_help(self) -> str:
        """Ends with the examples, which are not wrapped."""
        text = super().format_help()
        return f"{text}\nexamples:\n" + "".join(f"  {line}\n" for line in self.examples) if self.examples else text

    def error(self, message: str) -> NoReturn:
        """One line, and where to read more. Argparse's own would begin with all options, forty lines of them."""
        if message.startswith("the following arguments are required") and "--json" in self._given:
            message += "; write the file of --json, if any, after them"
        self.exit(ERROR, f"error: {message}\nsee: {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses here what is not known: the parser of a sub-command knows the option that was meant."""
        self._given = () if args is None else tuple(args)
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            first = unknown[0].partition("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            near = did_you_mean(first, known) if first.startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return namespace, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            near = did_you_mean(str(value), known)
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r}{near or ';'} (choose from {', '.join(known)})"
            )


def program(prog: str, description: str, *, more: str = "") -> Parser:
    """The parser of a whole program, whose --help explains the exit codes. more: a line that goes before them."""
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    return Parser(
        prog=prog,
        description=description,
        epilog=f"{more}{prog} COMMAND --help explains a command, with examples.\n\nexit codes:\n{codes}",
        formatter_class=_ProgramHelp,
    )


def commands_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, Parser]]:
    """The sub-commands of a program, those below others as "data check"; groups of them are left out."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                inner = list(commands_of(below))
                yield from ((f"{name} {rest}", leaf) for rest, leaf in inner) if inner else ((name, below),)


def run_program(parser: Parser, argv: Sequence[str] | None, *, extra: str | None = None) -> int:
    """Reads the command line and runs what it says, see ``run_command``. extra: brings what the program needs."""
    arguments = parser.parse_args(argv)

    def command() -> int:
        with only_json(arguments), nullcontext() if extra is None else needs_extra(extra):
            code: int = arguments.run(arguments)
        return code

    return run_command(command)

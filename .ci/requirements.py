"""Prints what building edgedet and one of its extras need, one requirement a line: `requirements.py EXTRA`.

With these installed beforehand the native build can run by itself, visibly, and again and again without a resolver.
"""

import re
import sys
from pathlib import Path

import tomllib


def expand(requirements: list[str], extras: dict[str, list[str]]) -> set[str]:
    """Replace references to the project's own extras, such as edgedet[train], by what those ask for."""
    found: set[str] = set()
    for requirement in requirements:
        if match := re.fullmatch(r"edgedet\[([\w,\s]+)\]", requirement):
            for extra in match[1].split(","):
                found |= expand(extras[extra.strip()], extras)
        else:
            found.add(requirement)
    return found


def main() -> None:
    """Print the requirements of the extra named on the command line."""
    content = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())
    project = content["project"]
    wanted = content["build-system"]["requires"] + project["dependencies"] + [f"edgedet[{sys.argv[1]}]"]
    print(*sorted(expand(wanted, project["optional-dependencies"])), sep="\n")


main()

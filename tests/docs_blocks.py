"""The fenced blocks of README.md and docs/, and what is to become of each in the tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))
RUN = ("sh", "python", "cpp", "c", "cmake")
DATA = ("", "text", "json", "yaml", "dockerfile")  # output, files and pictures: nothing to run
EXCUSE = re.compile(r"<!-- not run in CI: (\S.*\S) -->")
OPERATORS = frozenset("();<>|&\n")


@dataclass(frozen=True)
class Block:
    """A fenced block. excuse: why CI does not run it, from the comment in the line above; empty if it does."""

    page: str
    line: int
    language: str
    text: str
    excuse: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = (ROOT / page).read_text("utf-8").splitlines()
    start, info = 0, ""
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if not start:
            start, info = number, line[3:]
            continue
        assert line == "```", f"{page}:{number}: expected the end of the block of line {start}"
        excuse = EXCUSE.fullmatch(lines[start - 2]) if start > 1 else None
        found.append(Block(page, start, info, "\n".join(lines[start : number - 1]) + "\n", excuse[1] if excuse else ""))
        start = 0
    assert not start, f"{page}:{start}: a block without an end"
    return found


def commands(shell: str) -> Iterator[list[str]]:
    """The simple commands of a shell text as words, without assignments, redirections' targets left as words."""
    shell = re.sub(r"<<'?(\w+)'?\n.*?\n\1\n", "\n", shell, flags=re.DOTALL)
    shell = re.sub(r"(^|\s)#[^\n]*", r"\1", shell.replace("\\\n", " "))
    lexer = shlex.shlex(shell, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split = " \t", True
    words: list[str] = []
    for word in (*lexer, "\n"):
        if not set(word) <= OPERATORS:
            words.append(word)
            continue
        while words and (re.match(r"\w+=", words[0]) or words[0] in ("sudo", "do", "time")):
            words.pop(0)
        if words:
            yield words
        words = []

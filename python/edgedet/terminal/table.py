"""Tables: drawn on a terminal, aligned text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from edgedet.terminal.screen import rich_console


def print_table(rows: Sequence[Mapping[str, str]], *, left: Sequence[str] = ()) -> None:
    """Prints rows under the names of their columns, to standard output.

    A pipe gets one line for the names and one a row, columns two or more blanks apart, never cut.

    Args:
        rows: Cells by column; all rows have the columns of the first.
        left: Columns that are flush left; the others, numbers, are flush right.
    """
    if not rows:
        return
    console = rich_console(sys.stdout)
    if console is None:
        _print_plain(rows, left)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for key in rows[0]:
        table.add_column(key, justify="left" if key in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[key]) for key in rows[0]))  # Text: a file name may have [brackets], which are markup
    console.print(table)


def _print_plain(rows: Sequence[Mapping[str, str]], left: Sequence[str]) -> None:
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}

    def line(row: Mapping[str, str]) -> str:
        cells = (row[key].ljust(size) if key in left else row[key].rjust(size) for key, size in widths.items())
        return "  ".join(cells).rstrip()

    print(line({key: key for key in widths}))
    for row in rows:
        print(line(row))

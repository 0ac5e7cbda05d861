"""How every command line of the project ends: a code, and one line for a known cause instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from edgedet import Error


def run_command(command: Callable[[], int]) -> int:
    """Runs a command.

    Returns:
        Its code; 2 after an ``Error``, which is printed; 130 after Ctrl-C; 0 if the reader of its output has left.
    """
    try:
        code = command()
        sys.stdout.flush()
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left (`edgedet ... | head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code

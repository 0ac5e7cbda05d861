"""How every command line of the project ends: a code, and one line for a known cause instead of a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Final

from edgedet import Error

#: Exit codes of all programs.
DONE: Final = 0
NO: Final = 1
ERROR: Final = 2
DEFECT: Final = 70  # EX_SOFTWARE of sysexits.h; Python's own 1 would look like an answer
INTERRUPTED: Final = 130

#: What they mean, for --help and the documentation.
EXIT_CODES: Final = {
    DONE: "done; of a question: yes",
    NO: "done, and the answer is no: refused, not verified, errors in the data, a bound missed",
    ERROR: "wrong usage, or an error that is named in a line on standard error",
    DEFECT: "a defect of this program: the traceback is worth a report",
    INTERRUPTED: "interrupted (128 + the number of the signal: Ctrl-C 130, SIGTERM 143)",
}


def run_command(command: Callable[[], int]) -> int:
    """Runs a command.

    Returns:
        Its code; 2 after an ``Error``, which is printed; 130 after Ctrl-C; 70 after any other exception; 0 if the
        reader of its output has left.
    """
    try:
        code = command()
        sys.stdout.flush()
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has left (`edgedet ... | head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception:
        traceback.print_exc()
        return DEFECT
    return code

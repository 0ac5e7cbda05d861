"""`python -m calibration`."""

import sys

from edgedet.command import run_command
from edgedet.extras import needs_extra


def _main() -> int:
    with needs_extra("calibrate"):
        from calibration.cli import main
    return main()


sys.exit(run_command(_main))

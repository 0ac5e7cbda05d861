"""`python -m calibration`."""

import sys

from edgedet import Error
from edgedet.extras import needs_extra

try:
    with needs_extra("calibrate"):
        from calibration.cli import main
except Error as missing:
    print(f"error: {missing}", file=sys.stderr)
    sys.exit(2)

sys.exit(main())

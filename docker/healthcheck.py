"""Whether a container can do its work: 0 if so, 1 with the reason otherwise. The backend is EDGEDET_BACKEND's."""

from __future__ import annotations

import os
import sys


def problem(wanted: str) -> str:
    """Why detections cannot be made with the backend `wanted`, or an empty string."""
    try:
        import numpy as np

        import edgedet
    except ImportError as error:
        return str(error)
    found = {backend["name"]: backend for backend in edgedet.backends()}
    if wanted not in found:
        return f"EDGEDET_BACKEND: expected {' or '.join(found)}, got {wanted!r}"
    if not found[wanted]["available"]:
        return f"{wanted}: {found[wanted]['detail']}"
    pixels = edgedet.preprocess(np.full((4, 6, 3), 255, np.uint8), width=3, height=2)
    return (
        "" if pixels.shape == (3, 2, 3) and np.all(pixels == 1) else "preprocessing gives other numbers than it should"
    )


def main() -> int:
    """Prints the verdict."""
    wanted = os.environ.get("EDGEDET_BACKEND", "openvino")
    reason = problem(wanted)
    print(f"unhealthy: {reason}" if reason else f"healthy: {wanted}")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())

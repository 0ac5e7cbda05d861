"""One cold process, told on stdout as JSON: when each step of a first detection ended, and what memory it held then.

    python probe.py STARTED BUNDLE BACKEND CACHE_DIR WIDTH HEIGHT

STARTED: CLOCK_MONOTONIC in nanoseconds when the parent started this process. Nothing but the standard library may be
imported above `main`: it would hide what it costs.
"""

import json
import sys
import time

_GROUPS = (("openvino", "OpenVINO"), ("libtbb", "OpenVINO"), ("edgedet", "edgedet"), ("numpy", "NumPy"))


def memory() -> dict[str, float]:
    """Resident MiB of this process by what the pages belong to."""
    held: dict[str, float] = {}
    group = "other"
    with open("/proc/self/smaps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                path = words[5] if len(words) > 5 else ""
                named = next((name for part, name in _GROUPS if part in path), "Python and system libraries")
                group = named if path.startswith("/") else "heap and stacks"
            elif words[0] == "Rss:":
                held[group] = held.get(group, 0.0) + int(words[1]) / 1024
    return held


def main() -> None:
    """Runs the steps."""
    started, bundle, backend, cache_dir, width, height = sys.argv[1:]
    steps = []

    def step(name: str) -> None:
        now = time.monotonic_ns()
        steps.append({"step": name, "ms": (now - int(started)) / 1e6, "memory_mib": memory()})

    step("interpreter")
    import numpy

    step("import numpy")
    import edgedet

    step("import edgedet")
    detector = edgedet.Detector(bundle, backend=backend, cache_dir=cache_dir)
    step("Detector")
    frame = numpy.random.default_rng(0).integers(0, 256, (int(height), int(width), 3), dtype=numpy.uint8)
    step("a frame")
    detector(frame)
    step("first detection")
    for _ in range(20):
        detector(frame)
    step("20 more")
    print(json.dumps({"steps": steps, "backend": detector.info.backend, "device": detector.info.device}))


main()

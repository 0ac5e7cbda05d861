"""Memory and swap of the machine, as Linux tells them."""

from __future__ import annotations

from pathlib import Path

_MAX_BYTES = 1 << 16


def read_meminfo(root: Path = Path("/")) -> dict[str, int]:
    """Bytes by the names of /proc/meminfo (MemTotal, MemAvailable, SwapTotal, SwapFree, ...); empty where it is not.

    root: of the file system, for tests.
    """
    try:
        with (root / "proc/meminfo").open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            found[name] = int(words[0]) * 1024
    return found

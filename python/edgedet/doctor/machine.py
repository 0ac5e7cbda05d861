"""Memory, swap and power mode, from files that anybody may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from edgedet.doctor.finding import Finding

_GIB: Final = 1 << 30
#: Building an engine of a small detector with TensorRT takes about 2 GiB beside the system.
_LEAST_AVAILABLE: Final = 1 * _GIB
_SMALL: Final = 9 * _GIB


@dataclass(frozen=True)
class Machine:
    """The state of a machine; None where it does not say.

    Attributes:
        memory_bytes: Of the whole machine.
        available_bytes: Of it, that a new program could have.
        swap_bytes: Size of all swap.
        limit_bytes: That a container may use at the most.
        power_mode: Of a Jetson: the number that nvpmodel has set.
        governor: Of the first CPU's clock.
        jetpack: The first line of a Jetson's release file.
    """

    memory_bytes: int | None
    available_bytes: int | None
    swap_bytes: int | None
    limit_bytes: int | None
    power_mode: str | None
    governor: str | None
    jetpack: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_machine(root: Path = Path("/")) -> Machine:
    """Reads the state of this machine. `root`: of the file system, for tests."""
    memory = _meminfo(root / "proc/meminfo")
    limit = _read(root / "sys/fs/cgroup/memory.max")
    status = _read(root / "var/lib/nvpmodel/status")
    release = _read(root / "etc/nv_tegra_release")
    return Machine(
        memory_bytes=memory.get("MemTotal"),
        available_bytes=memory.get("MemAvailable"),
        swap_bytes=memory.get("SwapTotal"),
        limit_bytes=int(limit) if limit and limit.isdecimal() else None,
        power_mode=status.removeprefix("pmode:") if status and status.startswith("pmode:") else None,
        governor=_read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        jetpack=release.lstrip("# ") if release else None,
    )


def machine_findings(machine: Machine) -> list[Finding]:
    """What of it slows detectors down or keeps engines from being built."""
    found = []
    if machine.available_bytes is not None and machine.available_bytes < _LEAST_AVAILABLE:
        text = f"only {machine.available_bytes / _GIB:.1f} GiB of memory are available"
        found.append(Finding(name="low-memory", text=text, remedy="close other programs, or add swap"))
    if machine.memory_bytes is not None and machine.memory_bytes < _SMALL and machine.swap_bytes == 0:
        found.append(
            Finding(
                name="no-swap",
                text=f"{machine.memory_bytes / _GIB:.1f} GiB of memory, no swap: TensorRT may be killed as it builds",
                remedy="sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
                "sudo swapon /swapfile",
            )
        )
    if machine.governor == "powersave":
        remedy = "sudo cpupower frequency-set -g performance"
        found.append(Finding(name="governor", text="the CPU saves power (governor powersave)", remedy=remedy))
    if machine.jetpack is not None and machine.power_mode not in (None, "0000"):
        found.append(
            Finding(
                name="power-mode",
                text=f"nvpmodel has set mode {machine.power_mode}, which may not be the fastest",
                remedy="sudo nvpmodel -q shows it; mode 0 is the fastest on most boards: sudo nvpmodel -m 0",
            )
        )
    return found


def _meminfo(path: Path) -> Mapping[str, int]:
    """Bytes by name."""
    found = {}
    for line in (_read(path, whole=True) or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            found[name] = int(words[0]) * 1024
    return found


def _read(path: Path, *, whole: bool = False) -> str | None:
    """The first line of a small file, or all of it; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            text = file.read(1 << 16).decode("utf-8", "replace").strip()
    except OSError:
        return None
    return text if whole else text.partition("\n")[0]

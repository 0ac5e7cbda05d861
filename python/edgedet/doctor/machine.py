"""Memory, swap and the CPU's clock, from files that anybody may read; a Jetson's own are those of edgedet.board."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from edgedet.board import Board, advise
from edgedet.doctor.finding import Finding
from edgedet.meminfo import read_meminfo

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
        governor: Of the first CPU's clock.
    """

    memory_bytes: int | None
    available_bytes: int | None
    swap_bytes: int | None
    limit_bytes: int | None
    governor: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_machine(root: Path = Path("/")) -> Machine:
    """Reads the state of this machine. `root`: of the file system, for tests."""
    memory = read_meminfo(root)
    limit = _read(root / "sys/fs/cgroup/memory.max")
    return Machine(
        memory_bytes=memory.get("MemTotal"),
        available_bytes=memory.get("MemAvailable"),
        swap_bytes=memory.get("SwapTotal"),
        limit_bytes=int(limit) if limit and limit.isdecimal() else None,
        governor=_read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    )


def machine_findings(machine: Machine, jetson: Board | None) -> list[Finding]:
    """What of it slows detectors down or keeps engines from being built; a Jetson knows more of its swap."""
    found = []
    if machine.available_bytes is not None and machine.available_bytes < _LEAST_AVAILABLE:
        text = f"only {machine.available_bytes / _GIB:.1f} GiB of memory are available"
        found.append(Finding(name="low-memory", text=text, remedy="close other programs, or add swap"))
    memory, swap = machine.memory_bytes, machine.swap_bytes
    if memory is not None and memory < _SMALL and swap == 0 and jetson is None:
        found.append(
            Finding(
                name="no-swap",
                text=f"{memory / _GIB:.1f} GiB of memory, no swap: TensorRT may be killed as it builds",
                remedy="sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
                "sudo swapon /swapfile",
            )
        )
    if machine.governor == "powersave":
        remedy = "sudo cpupower frequency-set -g performance"
        found.append(Finding(name="governor", text="the CPU saves power (governor powersave)", remedy=remedy))
    if jetson is not None:
        found += [
            Finding(name="board", text=f"expected {advice.expected}, got {advice.got}", remedy=advice.remedy)
            for advice in advise(jetson)
        ]
    return found


def _read(path: Path) -> str | None:
    """The first line of a small file; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            text = file.read(1 << 16).decode("utf-8", "replace").strip()
    except OSError:
        return None
    return text.partition("\n")[0]

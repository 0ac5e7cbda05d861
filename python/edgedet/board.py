"""Which Jetson this is, which JetPack runs on it, and what stands in the way of building engines there.

All of it is read from files: no command is run, nothing is changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgedet.meminfo import read_meminfo

GIB: Final = 2**30
_SMALL: Final = 12 * GIB  # boards of 4 and 8 GB
_SWAP: Final = 4 * GIB  # on storage, for a small board that builds engines
_MAX_BYTES: Final = 1 << 16
_MAX_DPKG_BYTES: Final = 1 << 25

# L4T of each JetPack, where the names are not those of the major version alone.
_JETPACKS: Final = {
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
}
_MAJOR: Final = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}
_SUPPORTED: Final = ("5", "6", "7")


@dataclass(frozen=True)
class Board:
    """A Jetson.

    Attributes:
        model: As the device tree names it.
        chip: "tegra194" (Xavier), "tegra234" (Orin), "tegra264" (Thor), or "" where the device tree does not say.
        l4t: Version of Jetson Linux, such as "36.4.3"; "" if unknown.
        jetpack: "6.2", or the major version alone; "" if unknown.
        tensorrt: Version of the libnvinfer package; "" if it is not installed.
        memory: Bytes that Linux has, shared by CPU and GPU.
        swap: Bytes of swap on storage.
        zram: Bytes of compressed swap in memory.
        power_mode: Name of nvpmodel's mode; "" if unknown.
        power_modes: Names of all modes, by their number.
    """

    model: str
    chip: str
    l4t: str
    jetpack: str
    tensorrt: str
    memory: int
    swap: int
    zram: int
    power_mode: str
    power_modes: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Advice:
    """What a board should have, what it has, and the commands that help."""

    expected: str
    got: str
    remedy: str

    def __str__(self) -> str:
        return f"expected {self.expected}, got {self.got}; {self.remedy}"


def identify(root: Path = Path("/")) -> Board | None:
    """Reads what a board says of itself; None where this is no Jetson.

    root: of the file system to read.
    """
    compatible = _read(root / "proc/device-tree/compatible")
    release = _read(root / "etc/nv_tegra_release")
    chip = re.search(r"nvidia,(tegra\d+)", compatible)
    if not chip and not release:
        return None
    packages = _versions(root / "var/lib/dpkg/status", ("nvidia-l4t-core", "libnvinfer8", "libnvinfer10"))
    l4t = _l4t(release, packages.get("nvidia-l4t-core", ""))
    modes = _power_modes(_read(root / "etc/nvpmodel.conf"))
    current = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status"))
    swap, zram = _swaps(_read(root / "proc/swaps"))
    return Board(
        model=_read(root / "proc/device-tree/model") or "an unnamed board",
        chip=chip[1] if chip else "",
        l4t=l4t,
        jetpack=_jetpack(l4t),
        tensorrt=packages.get("libnvinfer10") or packages.get("libnvinfer8", ""),
        memory=read_meminfo(root).get("MemTotal", 0),
        swap=swap,
        zram=zram,
        power_mode=modes.get(int(current[1]), "") if current else "",
        power_modes=tuple(sorted(modes.items())),
    )


def advise(board: Board) -> list[Advice]:
    """What to change before an engine is built or measured; docs/jetson.md has the reasons."""
    found = []
    if board.jetpack.partition(".")[0] not in _SUPPORTED:
        got = f"Jetson Linux {board.l4t}" if board.l4t else "no version of Jetson Linux"
        found.append(Advice("JetPack 5, 6 or 7", got, "flash one of them (docs/jetson.md)"))
    if not board.tensorrt:
        found.append(
            Advice(
                "TensorRT", "no libnvinfer package", "run: sudo apt-get update && sudo apt-get install nvidia-jetpack"
            )
        )
    if 0 < board.memory < _SMALL and board.swap < _SWAP:
        found.append(
            Advice(
                f"{_SWAP // GIB} GiB of swap on storage beside {board.memory / GIB:.1f} GiB of memory",
                f"{board.swap / GIB:.1f} GiB" + (f" and {board.zram / GIB:.1f} GiB of zram" if board.zram else ""),
                "run: sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
                "sudo swapon /swapfile, and put '/swapfile none swap defaults 0 0' into /etc/fstab; zram takes the "
                "memory that an engine's build needs: sudo systemctl disable nvzramconfig, then reboot",
            )
        )
    fastest = [number for number, name in board.power_modes if name.upper().startswith("MAXN")]
    if board.power_mode and fastest and not board.power_mode.upper().startswith("MAXN"):
        found.append(
            Advice(
                "power mode MAXN for the shortest times",
                board.power_mode,
                f"run: sudo nvpmodel -m {fastest[-1]} && sudo jetson_clocks, or keep it and measure in it",
            )
        )
    return found


def _read(path: Path) -> str:
    """The head of a file, NULs of the device tree as spaces; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _versions(path: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the installed ones of these packages, from dpkg's status file."""
    found = {}
    for package in _stanzas(path):
        if package.get("Package") in names and package.get("Status", "").endswith(" installed"):
            found[package["Package"]] = package.get("Version", "").partition("-")[0]
    return found


def _stanzas(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_DPKG_BYTES).decode(errors="replace")
    except OSError:
        return
    for stanza in text.split("\n\n"):
        yield dict(re.findall(r"^(Package|Status|Version): (.*)$", stanza, flags=re.MULTILINE))


def _l4t(release: str, package: str) -> str:
    """From "# R36 (release), REVISION: 4.3, …", else from the version of nvidia-l4t-core."""
    if match := re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release):
        return f"{match[1]}.{match[2]}"
    return package if re.fullmatch(r"[\d.]+", package) else ""


def _jetpack(l4t: str) -> str:
    if l4t in _JETPACKS:
        return _JETPACKS[l4t]
    major = l4t.partition(".")[0]
    return _MAJOR.get(int(major), "") if major.isdecimal() else ""


def _power_modes(config: str) -> dict[int, str]:
    """Number and name of each mode of nvpmodel.conf: lines like "< POWER_MODEL ID=2 NAME=MAXN_SUPER >"."""
    return {int(number): name for number, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\w+)", config)}


def _swaps(table: str) -> tuple[int, int]:
    """Bytes on storage and in zram, of /proc/swaps."""
    storage = zram = 0
    for name, size in re.findall(r"^(/\S+)\s+\S+\s+(\d+)\s", table, flags=re.MULTILINE):
        if "zram" in name:
            zram += int(size) * 1024
        else:
            storage += int(size) * 1024
    return storage, zram

"""Boards told apart by their files, in trees that hold what such boards have there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedet.board import Board, advise, identify
from edgedet.cli import main

SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
ZRAM = "".join(
    f"/dev/zram{index}                              partition\t{size}\t\t0\t\t5\n"
    for index, size in enumerate([317640] * 6)
)
FILE = "/swapfile                               file\t\t8388604\t\t0\t\t-2\n"


def modes(*names: str) -> str:
    head = "# FORMAT:\n# < POWER_MODEL ID=id_num NAME=mode_name >\n< PARAM TYPE=FILE NAME=CPU_ONLINE >\n"
    return head + "".join(
        f"< POWER_MODEL ID={index} NAME={name} >\nCPU_ONLINE CORE_0 1\n\n" for index, name in enumerate(names)
    )


def package(name: str, version: str, status: str = "install ok installed") -> str:
    return f"Package: {name}\nStatus: {status}\nArchitecture: arm64\nVersion: {version}\nDescription: a\n text\n\n"


def release(major: int, revision: str) -> str:
    return (
        f"# R{major} (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8\n"
    )


# File: contents. The device tree ends its strings with NUL.
TREES: dict[str, dict[str, str]] = {
    "orin nano": {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
        "etc/nv_tegra_release": release(36, "4.3"),
        "proc/meminfo": "MemTotal:        7802404 kB\nMemFree:          123456 kB\n",
        "proc/swaps": SWAPS + ZRAM,
        "etc/nvpmodel.conf": modes("15W", "25W", "MAXN_SUPER"),
        "var/lib/nvpmodel/status": "pmode:0001\nfmode:quiet\n",
        "var/lib/dpkg/status": package("nvidia-l4t-core", "36.4.3-20250107174145")
        + package("libnvinfer10", "10.3.0.30-1+cuda12.5"),
    },
    "xavier nx": {
        "proc/device-tree/model": "NVIDIA Jetson Xavier NX Developer Kit\0",
        "proc/device-tree/compatible": "nvidia,p3449-0000+p3668-0000\0nvidia,p3668-0000\0nvidia,tegra194\0",
        "etc/nv_tegra_release": release(35, "4.1"),
        "proc/meminfo": "MemTotal:        6853036 kB\n",
        "proc/swaps": SWAPS + FILE,
        "etc/nvpmodel.conf": modes("MODE_15W_2CORE", "MODE_15W_4CORE", "MODE_20W_6CORE"),
        "var/lib/nvpmodel/status": "pmode:0002\n",
        "var/lib/dpkg/status": package("libnvinfer8", "8.5.2-1+cuda11.4"),
    },
    "orin agx": {
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
        "etc/nv_tegra_release": release(36, "4.7"),
        "proc/meminfo": "MemTotal:       64349608 kB\n",
        "proc/swaps": SWAPS + ZRAM,
        "etc/nvpmodel.conf": modes("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
        "var/lib/nvpmodel/status": "pmode:0000\n",
        "var/lib/dpkg/status": package("libnvinfer10", "10.3.0.30-1+cuda12.5", "deinstall ok config-files"),
    },
    "thor": {
        "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
        "proc/device-tree/compatible": "nvidia,p3971-0089+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
        "proc/meminfo": "MemTotal:       128844356 kB\n",
        "proc/swaps": SWAPS,
        "etc/nvpmodel.conf": modes("MAXN", "120W"),
        "var/lib/nvpmodel/status": "pmode:0001\n",
        "var/lib/dpkg/status": package("nvidia-l4t-core", "38.2.0-20250821174705")
        + package("libnvinfer10", "10.13.3.9-1+cuda13.0"),
    },
    "old nano": {
        "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
        "proc/device-tree/compatible": "nvidia,p3450-0000\0nvidia,jetson-nano\0nvidia,tegra210\0",
        "etc/nv_tegra_release": release(32, "7.1"),
        "proc/meminfo": "MemTotal:        4059276 kB\n",
    },
    "desktop": {
        "proc/meminfo": "MemTotal:       32737736 kB\n",
        "proc/swaps": SWAPS,
        "var/lib/dpkg/status": package("libnvinfer10", "10.3.0.26-1+cuda12.5"),
    },
    "raspberry": {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    },
}


def plant(root: Path, name: str) -> Path:
    for file, text in TREES[name].items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def known(root: Path, name: str) -> Board:
    board = identify(plant(root, name))
    assert board is not None
    return board


def test_an_orin_nano(tmp_path: Path) -> None:
    board = known(tmp_path, "orin nano")
    assert board == Board(
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        chip="tegra234",
        l4t="36.4.3",
        jetpack="6.2",
        tensorrt="10.3.0.30",
        memory=7802404 * 1024,
        swap=0,
        zram=6 * 317640 * 1024,
        power_mode="25W",
        power_modes=((0, "15W"), (1, "25W"), (2, "MAXN_SUPER")),
    )
    swap, power = advise(board)
    assert swap.got == "0.0 GiB and 1.8 GiB of zram"
    assert "sudo fallocate -l 8G /swapfile" in swap.remedy
    assert "nvzramconfig" in swap.remedy
    assert power.got == "25W"
    assert "sudo nvpmodel -m 2" in power.remedy


@pytest.mark.parametrize(
    ("name", "chip", "l4t", "jetpack", "tensorrt", "advice"),
    [
        ("xavier nx", "tegra194", "35.4.1", "5.1.2", "8.5.2", []),  # it has swap, and no MAXN
        ("orin agx", "tegra234", "36.4.7", "6", "", ["TensorRT"]),  # removed, its configuration left
        ("thor", "tegra264", "38.2.0", "7.0", "10.13.3.9", ["power mode"]),
        ("old nano", "tegra210", "32.7.1", "4", "", ["JetPack 5, 6 or 7", "TensorRT", "4 GiB of swap"]),
    ],
)
def test_other_boards(
    name: str, chip: str, l4t: str, jetpack: str, tensorrt: str, advice: list[str], tmp_path: Path
) -> None:
    board = known(tmp_path, name)
    assert (board.chip, board.l4t, board.jetpack, board.tensorrt) == (chip, l4t, jetpack, tensorrt)
    found = advise(board)
    assert len(found) == len(advice)
    for one, expected in zip(found, advice, strict=True):
        assert one.expected.startswith(expected)
        assert str(one) == f"expected {one.expected}, got {one.got}; {one.remedy}"


@pytest.mark.parametrize("name", ["desktop", "raspberry"])
def test_what_is_no_jetson(name: str, tmp_path: Path) -> None:
    assert identify(plant(tmp_path, name)) is None


def test_swap_on_storage_is_enough(tmp_path: Path) -> None:
    (plant(tmp_path, "orin nano") / "proc/swaps").write_text(SWAPS + ZRAM + FILE)
    board = identify(tmp_path)
    assert board is not None
    assert board.swap == 8388604 * 1024
    assert not [one for one in advise(board) if "swap" in one.expected]


@pytest.mark.parametrize(
    "damage", [b"", b"\xff\xfe\0\0", b"pmode:99999", b"# R99999999 (release), REVISION: .", b"a" * 99999]
)
@pytest.mark.parametrize("file", [name for name in TREES["orin nano"] if name != "proc/device-tree/compatible"])
def test_damaged_files_are_no_crash(file: str, damage: bytes, tmp_path: Path) -> None:
    (plant(tmp_path, "orin nano") / file).write_bytes(damage)
    for _ in range(2):
        board = identify(tmp_path)
        assert board is not None
        assert all(str(one) for one in advise(board))
        if (tmp_path / file).is_file():
            (tmp_path / file).unlink()
            (tmp_path / file).mkdir()


def test_doctor_prints_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plant(tmp_path, "orin nano")
    monkeypatch.setattr("edgedet.cli.doctor.board.identify", lambda: identify(tmp_path))
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "Super (tegra234)" in said
    assert "JetPack 6.2, Jetson Linux 36.4.3" in said
    assert "0.0 GiB on storage, 1.8 GiB of zram" in said
    assert "power mode 25W" in said
    assert "expected 4 GiB of swap on storage" in said
    assert "sudo nvpmodel -m" in said

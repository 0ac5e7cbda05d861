"""The cross-build for aarch64, emulated: the same bits before and after the network, the same detections, a wheel.

Needs g++-aarch64-linux-gnu, qemu-user-static, mmdebstrap and Debian's mirror; EDGEDET_REQUIRE=aarch64 insists on them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from conftest import skip_or_fail
from detections_match import compare
from test_benchmark_binary import find_program

from edgedet import Detector
from edgedet.cli import main

ROOT = Path(__file__).resolve().parent.parent
SYSROOT = ROOT / "build" / "aarch64-root"
BUILD = ROOT / "build" / "aarch64"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
# The Nano's processor: what runs on it runs on every board.
EMULATOR = ("qemu-aarch64-static", "-cpu", "cortex-a57", "-L", str(SYSROOT))
IMAGES = ("000000001503.jpg", "000000037777.jpg")
# Processors round the sums of a network differently. Measured: 1.1e-5 and 0.0035 pixels.
SCORE_BOUND = 5e-5
BOX_BOUND = 0.05

pytestmark = pytest.mark.slow


def call(*command: str | Path, timeout: float = 600, **variables: str) -> str:
    """Standard output of a command that has to succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PATH": path, "PYTHON": sys.executable, **variables},
        check=False,
    )
    assert done.returncode == 0, f"{command[0]} failed\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Prints to the log of a run whatever pytest captures, with the seconds since the test began."""
    begin = time.monotonic()

    def print_line(text: str) -> None:
        with capsys.disabled():
            print(f"\n  aarch64: {text} [{time.monotonic() - begin:.0f} s]", end="", flush=True)

    return print_line


@pytest.fixture(scope="module")
def sysroot() -> Path:
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64-static", "mmdebstrap"):
        if shutil.which(tool) is None:
            skip_or_fail("aarch64", f"{tool} is not installed; see docs/edge.md")
    script = ROOT / "cmake" / "aarch64_sysroot.sh"
    inputs = (script, ROOT / "pyproject.toml", ROOT / "constraints.txt")
    if not SYSROOT.is_dir() or SYSROOT.stat().st_mtime < max(path.stat().st_mtime for path in inputs):
        call(script, SYSROOT, timeout=300)
        os.utime(SYSROOT)
    return SYSROOT


@pytest.fixture(scope="module")
def build(sysroot: Path) -> Path:
    call("cmake", "--preset", "aarch64")
    call("cmake", "--build", "--preset", "aarch64")
    return BUILD


@pytest.fixture(scope="module")
def atto(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("atto") / "atto"
    model = shared / "models" / "deimv2_hgnetv2_atto_coco.onnx"
    assert main(["import", str(model), "--labels", "coco80", "--out", str(bundle)]) == 0
    return bundle


@pytest.fixture(scope="module")
def images(shared: Path) -> list[Path]:
    return [shared / "data" / "coco_val2017_subset" / "images" / name for name in IMAGES]


def test_programs_are_for_every_board(build: Path, say: Any) -> None:
    program = build / "csrc" / "benchmark" / "edgedet-bench"
    header = call("aarch64-linux-gnu-readelf", "-hA", program)
    assert "AArch64" in header
    say(f"cross-built the library, its tests and edgedet-bench ({program.stat().st_size // 1024} KB)")


def test_cpp_tests_pass_in_emulation(build: Path, say: Any) -> None:
    done = call("ctest", "--preset", "aarch64", "--verbose")
    assert "100% tests passed" in done
    counts = re.findall(r"\d+ tests, 0 failed checks", done)
    assert counts
    say(f"C++ tests in emulation: {', '.join(counts)}")


def test_preprocessing_and_decoding_give_the_same_bits(build: Path, images: list[Path], say: Any) -> None:
    emulated = call(*EMULATOR, build / "tests" / "cpp" / "edgedet_kernel_hashes", *images).splitlines()
    native = call(find_program("edgedet_kernel_hashes"), *images).splitlines()
    assert len(native) > 150
    assert emulated == native
    say(f"preprocessing and decoding: {len(native)} hashes, the same on x86-64 and aarch64")


def test_the_same_detections(build: Path, atto: Path, images: list[Path], tmp_path: Path, say: Any) -> None:
    found = []
    for command in ([find_program("edgedet-bench")], [*EMULATOR, str(build / "csrc" / "benchmark" / "edgedet-bench")]):
        file = tmp_path / f"{len(found)}.json"
        options = ("--iterations", "0", "--threads", "1", "--precision", "fp32", "--detections", file)
        call(*command, atto, "--images", *images, *options)
        found.append(json.loads(file.read_text()))
    result = compare(found[0], found[1], score_bound=SCORE_BOUND, box_bound=BOX_BOUND)
    say(
        f"atto in float32 on {len(images)} images: {result.rows} of {len(found[0])} rows agree; scores within "
        f"{result.score:.1e} (bound {SCORE_BOUND}), boxes within {result.box:.4f} pixels (bound {BOX_BOUND}), "
        f"{result.swapped} near-ties swapped"
    )
    assert not result.problems, "\n".join(result.problems[:20])
    assert len(found[0]) == len(found[1]) == 600
    assert result.rows >= 598


@pytest.fixture(scope="module")
def wheel(sysroot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (sysroot / "usr" / "include" / PYTHON / "Python.h").is_file():
        skip_or_fail("aarch64", f"the folder to build against has no headers of {PYTHON}, which runs the tests")
    folder = tmp_path_factory.mktemp("wheel")
    call(ROOT / "cmake" / "aarch64_wheel.sh", sysroot, folder)
    (file,) = folder.glob("*.whl")
    return file


def needed(program: Path) -> tuple[set[str], str]:
    """Libraries a program or module asks for, and where it looks for them."""
    dynamic = call("aarch64-linux-gnu-readelf", "-d", program)
    run_path = re.search(r"RUNPATH.*\[(.*)\]", dynamic)
    return set(re.findall(r"NEEDED.*\[(.*)\]", dynamic)), run_path[1] if run_path else ""


def test_wheel_carries_the_runtime_only(wheel: Path, tmp_path: Path, say: Any) -> None:
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name.endswith(f"-{tag}-{tag}-linux_aarch64.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        names = archive.namelist()
    compiled = [name for name in names if ".so" in name]
    module = f"edgedet/_core.cpython-{tag[2:]}-aarch64-linux-gnu.so"
    assert sorted(compiled) == [module, "edgedet/lib/libedgedet_c.so"]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"edgedet"}
    (bench,) = tmp_path.glob("*.data/scripts/edgedet-bench")
    system = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "ld-linux-aarch64.so.1"}
    programs = (
        (tmp_path / module, "$ORIGIN/../openvino/libs"),
        (tmp_path / "edgedet/lib/libedgedet_c.so", "$ORIGIN/../../openvino/libs"),
        (bench, "/openvino/libs"),
    )
    for program, run_path in programs:
        assert "AArch64" in call("aarch64-linux-gnu-readelf", "-h", program)
        libraries, found = needed(program)
        openvino = {library for library in libraries if library.startswith("libopenvino.so.")}
        assert len(openvino) == 1
        assert libraries - openvino <= system
        assert run_path in found
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    required = Parser().parsestr(metadata.read_text()).get_all("Requires-Dist")
    assert required is not None
    unconditional = {re.split(r"[<>=!~; ]", line)[0] for line in required if "extra ==" not in line}
    assert unconditional == {"numpy", "openvino", "pillow"}
    say(f"{wheel.name}, {wheel.stat().st_size // 1024} KB; asks for {', '.join(sorted(unconditional))}")


SCRIPT = """
import json, platform, sys
from edgedet import Detector
assert platform.machine() == "aarch64"
detect = Detector(sys.argv[1], threads=1, precision="fp32")
print(json.dumps(detect(sys.argv[2]).to_coco(1, detect.info.category_ids)))
assert not {"torch", "cv2", "onnx"} & set(sys.modules)
"""


def test_wheel_detects_in_emulated_python(
    wheel: Path, sysroot: Path, atto: Path, images: list[Path], tmp_path: Path, say: Any
) -> None:
    site = tmp_path / "site"
    options = ("--no-deps", "--no-index", "--only-binary=:all:", "--platform", "linux_aarch64", "--target", site)
    call(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", *options, wheel)
    (site / "openvino").symlink_to(sysroot / "usr" / "lib" / "python3" / "dist-packages" / "openvino")
    python = sysroot / "usr" / "bin" / PYTHON
    printed = call(*EMULATOR, python, "-c", SCRIPT, atto, images[0], PYTHONPATH=str(site))
    got = json.loads(printed.splitlines()[-1])
    detect = Detector(atto, threads=1, precision="fp32")
    expected = detect(images[0]).to_coco(1, detect.info.category_ids)
    result = compare(expected, got, score_bound=SCORE_BOUND, box_bound=BOX_BOUND)
    say(f"{PYTHON} in emulation, the wheel installed: {result.rows} of {len(expected)} rows agree")
    assert not result.problems, "\n".join(result.problems[:20])
    assert result.rows >= 299


def row(score: float, category: int = 1, x: float = 10.0) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "score": score, "bbox": [x, 10.0, 20.0, 20.0]}


ROWS = [row(0.9), row(0.8, 2), row(0.79998, 3), row(0.5, 4), row(0.1, 5)]


@pytest.mark.parametrize(
    ("got", "problem"),
    [
        (ROWS, ""),
        ([row(0.90001), *ROWS[1:]], ""),
        ([ROWS[0], ROWS[2], ROWS[1], *ROWS[3:]], ""),  # a near-tie
        ([*ROWS[:4], row(0.10002, 6)], ""),  # the last place went to another
        ([ROWS[1], ROWS[0], *ROWS[2:]], "other order"),
        ([row(0.9001), *ROWS[1:]], "nothing like"),
        ([row(0.9, x=10.1), *ROWS[1:]], "nothing like"),
        ([row(0.9, 7), *ROWS[1:]], "nothing like"),
        (ROWS[1:], "nothing like"),
        ([ROWS[0], *ROWS], "unexpected"),
        ([], "nothing like"),
    ],
)
def test_the_comparison_finds_what_differs(got: list[dict[str, Any]], problem: str) -> None:
    result = compare(ROWS, got, score_bound=SCORE_BOUND, box_bound=BOX_BOUND)
    assert (problem in result.problems[0] and problem != "") if result.problems else problem == ""

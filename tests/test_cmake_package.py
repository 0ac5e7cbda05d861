"""find_package(edgedet): the example programs, built against the Python package and against an installation."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx
from PIL import Image

import edgedet

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        pytest.skip(f"no {name}")
    return found


def run(*command: str | Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def configure(source: Path, build: Path, *options: str) -> None:
    generator = ["-G", "Ninja"] if shutil.which("ninja") or Path(sys.executable).with_name("ninja").is_file() else []
    run(tool("cmake"), "-S", source, "-B", build, *generator, *options)
    run(tool("cmake"), "--build", build, "-j", "2")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """A bundle, an image, and the lines that the example programs print."""
    folder = tmp_path_factory.mktemp("example")
    bundle = tiny_onnx.logits_bundle(folder)
    frame = np.full((48, 80, 3), (255, 128, 0), np.uint8)
    Image.fromarray(frame).save(folder / "frame.ppm")
    found = edgedet.Detector(bundle, score_threshold=0.3)(frame)
    lines = [
        f"{one.name} {one.score:.3f} " + " ".join(f"{side:.1f}" for side in np.asarray(one.box).tolist())
        for one in found
    ]
    assert lines
    return bundle, folder / "frame.ppm", lines


def check(build: Path, expected: tuple[Path, Path, list[str]]) -> None:
    bundle, image, lines = expected
    for program in ("detect", "detect_c"):
        assert run(build / program, bundle, image).splitlines() == lines
        failed = subprocess.run([build / program, bundle / "none", image], capture_output=True, text=True)
        assert failed.returncode == 2
        assert failed.stderr.startswith("error: ")
        assert "expected a bundle folder" in failed.stderr


@pytest.mark.slow
def test_against_the_python_package(tmp_path: Path, expected: tuple[Path, Path, list[str]]) -> None:
    configure(ROOT / "examples" / "cpp", tmp_path / "build", f"-Dedgedet_DIR={edgedet.cmake_dir()}")
    check(tmp_path / "build", expected)


@pytest.mark.slow
def test_against_an_installation(tmp_path: Path, expected: tuple[Path, Path, list[str]]) -> None:
    openvino = importlib.util.find_spec("openvino")
    assert openvino is not None
    assert openvino.origin is not None
    configure(
        ROOT,
        tmp_path / "library",
        f"-DOpenVINO_DIR={Path(openvino.origin).parent / 'cmake'}",
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DEDGEDET_BINDINGS=OFF",
        "-DEDGEDET_CUDA=OFF",
        "-DCMAKE_CXX_FLAGS=-O0 -g0",
    )
    prefix = tmp_path / "prefix"
    run(tool("cmake"), "--install", tmp_path / "library", "--prefix", prefix, "--component", "development")
    configure(ROOT / "examples" / "cpp", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    check(tmp_path / "build", expected)

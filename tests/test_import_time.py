"""`import edgedet` is for small machines: quick, and without the libraries that are not needed to detect."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "torch", "torchvision", "cv2", "onnx", "onnxruntime", "openvino", "PIL", "pycocotools", "scipy", "supervision",
    "matplotlib", "argparse",
)  # fmt: skip
ROUNDS = 7


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout


def loaded_after(code: str) -> set[str]:
    return set(run(f"{code}\nimport sys; print(*sys.modules)").split())


def seconds_of(module: str) -> float:
    return float(run(f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"))


def test_nothing_heavy_is_loaded() -> None:
    assert not loaded_after("import edgedet") & set(HEAVY)


def test_the_command_line_loads_what_a_command_needs_only_when_it_runs() -> None:
    assert not loaded_after("import edgedet.cli") & ({*HEAVY, "rich", "shtab"} - {"argparse"})


def test_reading_an_image_loads_pillow_and_nothing_else() -> None:
    code = "import edgedet\ntry:\n    edgedet.read_image(b'')\nexcept edgedet.ImageError: pass"
    assert loaded_after(code) & (set(HEAVY) - {"argparse"}) == {"PIL"}


def test_everything_promised_is_there() -> None:
    assert run("import edgedet; print(all(hasattr(edgedet, name) for name in edgedet.__all__))") == "True\n"


def test_a_module_that_does_not_load_is_explained() -> None:
    code = "import sys; sys.modules['edgedet._core'] = None; import edgedet"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "ImportError: the compiled module of edgedet does not load" in result.stderr
    assert "install edgedet again" in result.stderr


def test_it_is_quick() -> None:
    # The best of several runs is what the import costs; the others are what the machine did meanwhile.
    numpy, edgedet = [], []
    for _ in range(ROUNDS):
        numpy.append(seconds_of("numpy"))
        edgedet.append(seconds_of("edgedet"))
    assert min(edgedet) - min(numpy) <= 0.15

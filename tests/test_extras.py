"""How commands end: missing packages name the extra that brings them, errors are one line, Ctrl-C is 130."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgedet import Error
from edgedet.command import run_command
from edgedet.extras import needs_extra

ROOT = Path(__file__).resolve().parent.parent


def run_without(package: str, module: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = (
        f"import runpy, sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'python')!r}]; "
        f"sys.modules[{package!r}] = None; "
        f"sys.argv[:] = [{module!r}, *{list(arguments)!r}]; runpy.run_module({module!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)


@pytest.mark.parametrize(
    ("package", "module", "arguments", "remedy"),
    [
        ("torch", "training", ("train", "data", "--out", "run"), "pip install 'edgedet[train]'"),
        ("torch", "training", ("eval", "run"), "pip install 'edgedet[train]'"),
        ("safetensors", "training", ("export", "run", "--out", "bundle"), "pip install 'edgedet[train]'"),
        ("onnx", "calibration", ("quantize", "bundle"), "pip install 'edgedet[calibrate]'"),
        ("fastapi", "edgedet", ("serve", "bundle"), "pip install 'edgedet[serve]'"),
        ("uvicorn", "edgedet", ("serve", "bundle"), "pip install 'edgedet[serve]'"),
        ("pycocotools", "edgedet", ("eval", "b", "--images", "i", "--annotations", "a"), "pip install pycocotools"),
    ],
)
def test_missing_packages_are_named(
    package: str, module: str, arguments: tuple[str, ...], remedy: str, tmp_path: Path
) -> None:
    done = run_without(package, module, *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert package in done.stderr
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_module_of_our_own_is_a_bug_not_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("train"):
        raise ModuleNotFoundError("No module named 'training.nonsense'", name="training.nonsense")
    with pytest.raises(Error, match=r"edgedet\[train\]"), needs_extra("train"):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


def test_how_commands_end(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    def failing() -> int:
        raise Error("expected a, got b; do c")

    assert run_command(lambda: 1) == 1
    assert capsys.readouterr().err == ""
    assert run_command(interrupted) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
    assert run_command(failing) == 2
    assert capsys.readouterr().err == "error: expected a, got b; do c\n"

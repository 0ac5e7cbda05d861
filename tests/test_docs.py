"""Every fenced block of README.md and docs/: what can run here is run, the rest is read by the parsers it is for."""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tiny_onnx
import training_data
import videos
from docs_blocks import DATA, PAGES, ROOT, RUN, Block, blocks, commands
from docs_shell import Shell
from PIL import Image

import calibration.cli
import edgedet.cli
import training.cli
from benchmarks.serving.server import running
from edgedet import Detector

BLOCKS = {page: blocks(page) for page in PAGES}
RUNNABLE = {page: [one for one in found if one.language in RUN and not one.excuse] for page, found in BLOCKS.items()}
EXCUSED = {page: [one for one in found if one.excuse] for page, found in BLOCKS.items()}
URL = "http://127.0.0.1:8000"
# The names under which pages know a bundle, a run, a checkpoint, an ONNX file, a photo, a dataset.
BUNDLES = ("femto", "mine", "my.bundle", "mine.bundle", "demo/bundle", "parts.bundle", "femto-v2", "femto-naive")
RUNS = ("runs/mine", "runs/femto", "runs/student", "runs/teacher")
CHECKPOINTS = ("deimv2_hgnetv2_atto_coco.safetensors", "atto.safetensors", "dfine_s_coco.pth", "dfine_n_coco.pth",
               "rtdetrv2_r18vd_120e_coco.pth", "PPHGNetV2_B0_stage1.pth")  # fmt: skip
ONNX = ("screws.onnx", "screws.int8.onnx")
COCO_ONNX = ("model.onnx", "deimv2_femto.onnx")  # with the head of deployment graphs, which fits any number of names
PHOTOS = ("photo.jpg", "street.jpg", "aerial.jpg", "thermal.png", *(f"photos/{number}.jpg" for number in range(8)))
DATASETS = ("DATA", "BCCD", "parts")
TREES = ("benchmarks", "calibration", "cmake", "csrc", "deploy", "docker", "examples", "python", "tests")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Shell(tmp_path_factory.mktemp("shell")) as one:
        yield one


def prepare(shell: Shell, folder: Path, text: str) -> None:
    made = shell.run(text, folder)
    assert made.returncode == 0, made.stderr


def make_bold(checkpoint: Path) -> None:
    """Lets a network that has learnt nothing see objects everywhere, so that what pages do with them is done."""
    with safetensors.safe_open(checkpoint, "np") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in tensors:
        if "dec_score_head" in name and name.endswith("bias"):
            tensors[name] = tensors[name] + np.float32(8)
    safetensors.numpy.save_file(tensors, checkpoint, metadata)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Path:
    """A folder with everything that pages take for granted, all of it from one tiny dataset and one tiny run."""
    folder = tmp_path_factory.mktemp("world")
    data = training_data.make_dataset(folder / DATASETS[0], train=8)
    shutil.copytree(data / "val", data / "select")
    for path in (data / "select" / "images").iterdir():  # other files than those of val/
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    prepare(shell, folder, "python -m training train DATA --model atto --out runs/mine")
    make_bold(folder / "runs/mine/best.safetensors")
    prepare(
        shell,
        folder,
        "python -m training export runs/mine --out mine --name femto\n"
        "python -m calibration sample mine --images DATA/train/images\n"
        "python -m calibration quantize mine\n",
    )
    shutil.rmtree(folder / "runs/mine/tensorboard")
    for names, is_folder in ((DATASETS, True), (RUNS, True), (BUNDLES, True), (CHECKPOINTS, False), (ONNX, False)):
        first = {RUNS: "runs/mine", BUNDLES: "mine", CHECKPOINTS: "runs/mine/best.safetensors", ONNX: "mine/model.onnx"}
        source = folder / first.get(names, names[0])
        for name in names:
            if not (folder / name).exists():
                (shutil.copytree if is_folder else shutil.copy)(source, folder / name)
    for name in COCO_ONNX:
        tiny_onnx.scored_model(folder / name)
    for split in ("train", "val", "select"):
        shutil.copytree(data / split, folder / split)
    shutil.copytree(data / "val" / "images", folder / "val2017")
    shutil.copy(data / "val" / "instances.json", folder / "instances_val2017.json")
    coco = json.loads((data / "val" / "instances.json").read_text())
    coco["categories"] = [{"id": 3, "name": "car"}, {"id": 8, "name": "truck"}]
    (folder / "instances_val.json").write_text(json.dumps(coco))
    shutil.copytree(data / "val", folder / "coco")
    videos.write_video(folder / "street.mp4", [videos.scene(number) for number in range(4)])
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "photos").mkdir()
    for index, name in enumerate(PHOTOS):
        pixels = np.random.default_rng(index).integers(0, 255, (64, 96, 3), np.uint8)
        Image.fromarray(pixels).convert("L" if name.endswith("png") else "RGB").save(folder / name)
    return folder


@pytest.fixture
def sandbox(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sandbox"
    shutil.copytree(world, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def run_python(block: Block, names: dict[str, object]) -> None:
    """In this process; later blocks of a page know the names of earlier ones."""
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile("\n" * block.line + block.text, ROOT / block.page, "exec"), names)


def run_c(block: Block, sandbox: Path) -> None:
    """Compiled against the public headers; a C snippet is a function's body."""
    compiler = shutil.which("g++" if block.language == "cpp" else "gcc")
    if compiler is None:
        pytest.skip("no compiler")
    source = re.sub(r'^--8<-- "(.*)"$', r"#include <\1>", block.text, flags=re.MULTILINE)
    if block.language == "c" and "#include" not in source:
        source = f"#include <edgedet/c_api.h>\n#include <stdio.h>\nvoid f(void) {{\n{source}\n}}\n"
    file = sandbox / f"app.{block.language}"
    file.write_text(source)
    standard = "-std=c++17" if block.language == "cpp" else "-std=c11"
    done = subprocess.run(
        [compiler, standard, "-Wall", "-Werror", "-fsyntax-only", "-I", str(ROOT / "csrc" / "include"), str(file)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}: {done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, found in RUNNABLE.items() if found])
def test_blocks_run(page: str, sandbox: Path, shell: Shell) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    with contextlib.ExitStack() as stack:
        url = URL
        for block in RUNNABLE[page]:
            block = replace(block, text=block.text.replace(URL, url))
            if block.language == "python":
                run_python(block, names)
            elif block.language == "cmake":
                (sandbox / "CMakeLists.txt").write_text(block.text)
            elif block.language == "sh":
                if "curl " in block.text and shutil.which("curl") is None:
                    pytest.skip("curl is not installed")
                done = shell.run(block.text, sandbox)
                assert done.returncode == 0, f"{block}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
                assert_answers(block, done.stdout)
                for words in commands(block.text):
                    if words[:2] == ["edgedet", "serve"]:  # its own command only read it; from here on it runs
                        stack.close()
                        url = stack.enter_context(running(*words[2:], "--threads", "1")).url
            else:
                run_c(block, sandbox)
        for value in names.values():
            if isinstance(value, Detector):
                value.close()


def assert_answers(block: Block, said: str) -> None:
    """What the server of a page has to have said."""
    if "/v1/detect" in block.text:
        assert '"results":[{"width":' in said, f"{block}: {said}"
    if "/infer" in block.text:
        assert re.search(r'"name":"boxes".*"name":"labels"', said), f"{block}: {said}"


@pytest.mark.parametrize("page", [page for page, found in BLOCKS.items() if found])
def test_blocks_can_be_read(page: str, shell: Shell) -> None:
    """Options, values, targets, presets, files and imported names are there, also of what is not run."""
    for block in BLOCKS[page]:
        if block.language == "sh":
            for words in commands(block.text):
                assert not (wrong := misspelt(words, shell if block.excuse else None)), f"{block}: {wrong}"
        if block.language == "python":
            assert not (wrong := unknown_imports(block.text)), f"{block}: {wrong}"


def misspelt(words: list[str], shell: Shell | None) -> str:
    """What is wrong with a command as far as can be said without running it; nothing for commands of others.

    shell: None for what will be run, whose parsers will be asked then.
    """
    for word in words:
        if word.split("/")[0] in TREES and "/" in word and "*" not in word and not (ROOT / word).exists():
            return f"{word} is not in the repository"
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    if words[:2] == ["docker", "run"] and any(word.startswith("edgedet:") for word in words):
        rest = words[next(i for i, word in enumerate(words) if word.startswith("edgedet:")) + 1 :]
        words = ["edgedet", *(rest or ["doctor"])]
    ours = ("training", "calibration", "benchmarks", "edgedet")
    if words[0].endswith("python") and words[1:2] == ["-m"] and words[2].split(".")[0] in ours:
        return shell.complaint(["python", *words[1:]]) if shell else ""
    if words[0] == "edgedet-bench":
        known = subprocess.run(
            [Path(sys.executable).with_name(words[0]), "--help"], capture_output=True, text=True
        ).stdout
        return ", ".join(word for word in words if word.startswith("--") and f"  {word} " not in known)
    if words[0] == "edgedet":
        return shell.complaint(words) if shell else ""
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        for word in words[1:]:
            if "=" not in word and not re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE):
                return f"make has no {word}"
    if words[0] in ("cmake", "ctest") and "--preset" in words:
        presets = json.loads((ROOT / "CMakePresets.json").read_text())
        known = {one["name"] for kind in ("configurePresets", "buildPresets", "testPresets") for one in presets[kind]}
        if words[words.index("--preset") + 1] not in known:
            return "no such preset"
    return ""


@functools.cache
def bench_help() -> str:
    """What edgedet-bench says of its options."""
    return subprocess.run(
        [Path(sys.executable).with_name("edgedet-bench"), "--help"], capture_output=True, text=True
    ).stdout


def unknown_imports(text: str) -> str:
    """The first import from the project that its packages do not have."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
            "edgedet",
            "training",
            "calibration",
        ):
            assert node.module
            for alias in node.names:
                if not hasattr(importlib.import_module(node.module), alias.name):
                    try:
                        importlib.import_module(f"{node.module}.{alias.name}")
                    except ImportError:
                        return f"{node.module} has no {alias.name}"
    return ""


def test_nothing_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    every = [block for found in BLOCKS.values() for block in found]
    for block in every:
        assert block.language in (*RUN, *DATA), (
            f"{block}: expected a language out of {RUN + DATA}, got {block.language!r}"
        )
        assert block.language in RUN or not block.excuse, f"{block}: an excuse for what would not be run"
    excuses = sum(len(re.findall("<!-- not run", (ROOT / page).read_text("utf-8"))) for page in PAGES)
    assert excuses == sum(map(len, EXCUSED.values())), "an excuse that is not right above a block"
    run, read = sum(map(len, RUNNABLE.values())), sum(map(len, EXCUSED.values()))
    with capsys.disabled():
        print(f"\ndocumentation: {run} blocks run, {read} only read, {len(every) - run - read} are output", end=" ")


# Options of other programs and of benchmarks that pages speak of.
FOREIGN = {"--entrypoint", "--gpus", "--max-restarts", "--only", "--runtime"}


def options(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a command and its sub-commands."""
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*(options(one) for one in action.choices.values()))
    return found


def test_options_in_prose_exist() -> None:
    known = (
        options(edgedet.cli.build_parser())
        | options(training.cli.build_parser())
        | options(calibration.cli.build_parser())
    )
    known |= set(re.findall(r"--[a-z-]+", bench_help())) | FOREIGN
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for option in re.findall(r"`(--[a-z][a-z-]+)", text):
            assert option in known, f"{page}: {option}"

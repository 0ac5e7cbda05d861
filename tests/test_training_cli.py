"""`python -m training` as a user runs it: exit codes, messages, and the way to a bundle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import onnx
import pytest
from training_data import IDS, NAMES, make_dataset

from edgedet import Detector, read_image
from edgedet.bundle import load_model_json
from training.cli import _SAMPLINGS, build_parser, main
from training.models.deformable_attention import Sampling
from training.weights.read import read_description

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--size", "160", "--epochs", "2", "--batch", "3", "--denoising", "8", "--threads", "1", "--workers", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(data), "--out", str(folder), *TINY]) == 0
    return folder


def test_checkpoints_say_what_they_are(run: Path) -> None:
    description = read_description(run / "best.safetensors")
    assert description is not None
    assert (description["model"], description["size"]) == ("atto", 160)
    assert (tuple(description["classes"]), tuple(description["category_ids"])) == (NAMES, IDS)
    assert description["metrics"]["AP"] >= 0


def test_eval_repeats_the_figure_of_training(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--json", str(tmp_path / "ap.json")]) == 0
    metrics = json.loads((tmp_path / "ap.json").read_text())
    assert "AP50" in capsys.readouterr().out
    description = read_description(run / "best.safetensors")
    assert description is not None
    assert metrics == pytest.approx(description["metrics"], abs=1e-9)


def test_export_makes_a_bundle_that_detects(run: Path, data: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    assert main(["export", str(run), "--out", str(bundle), "--name", "squares", "--licence", "MIT"]) == 0
    spec = load_model_json(bundle)
    assert (spec["name"], spec["classes"], spec["category_ids"]) == ("squares", list(NAMES), list(IDS))
    assert spec["licence"] == {"weights": "MIT", "data": "not stated"}
    assert (spec["input"]["width"], spec["input"]["height"], spec["input"]["filter"]) == (160, 160, "antialias")
    image = read_image(next((data / "val" / "images").iterdir()))
    detections = Detector(bundle, threads=1)(image)
    assert len(detections) > 0
    assert set(detections.names) <= set(NAMES)


def test_export_reads_maps_as_it_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def export(name: str, *options: str) -> int:
        return main(["export", str(run), "--out", str(tmp_path / name), *options])

    def kinds(name: str) -> set[str]:
        (file,) = (tmp_path / name).glob("*.onnx")
        return {node.op_type for node in onnx.load(file).graph.node}

    assert export("default") == export("other", "--sampling", "grid_sample") == 0
    assert "GridSample" in kinds("other") - kinds("default")
    capsys.readouterr()
    assert export("refused", "--sampling", "discrete") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: sampling: expected 'gather' or 'grid_sample', as atto was trained, got 'discrete'")
    assert error.count("\n") == 1
    assert not (tmp_path / "refused").exists()


def test_resume_of_an_interrupted_process(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-u", "-m", "training", "train", str(data), "--out", str(folder), *TINY]
    command[command.index("--epochs") + 1] = "500"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 1:"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait(timeout=60) == 130
    assert f"continue with --resume {folder}" in rest
    assert json.loads((folder / "state.json").read_text())["step"] >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "data: expected a dataset folder"),
        (["train", "absent"], "expected a folder or file, got absent"),
        (["train", "absent", "--lr", "7"], "lr: expected a rate"),
        (["train", "absent", "--device", "tpu"], "device: expected"),
        (["train", "--resume", "absent"], "absent: expected a run folder with config.json"),
        (["train", "--resume", "absent", "--lr", "0.1"], "--resume: expected no other option"),
        (["eval", "absent.safetensors"], "expected a file or folder of weights, got none"),
        (["eval", "."], "expected a run folder with best.safetensors"),
        (["export", "absent.safetensors", "--out", "bundle"], "expected a file or folder of weights, got none"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_published_weights_keep_their_accuracy(shared: Path, tmp_path: Path) -> None:
    """AP 0.256 +- 0.002 on the subset, the figure of onnxruntime with OpenCV's fixed-point bilinear."""
    weights = shared / "models" / "deimv2_hgnetv2_atto_coco.safetensors"
    annotations = shared / "data" / "coco_val2017_subset" / "instances.json"
    figures = tmp_path / "ap.json"
    assert main(["eval", str(weights), "--model", "atto", "--val-json", str(annotations), "--json", str(figures)]) == 0
    assert json.loads(figures.read_text())["AP"] == pytest.approx(0.256, abs=0.002)


def test_published_weights_become_a_bundle(shared: Path, tmp_path: Path) -> None:
    """The model and its classes are told from the file."""
    weights = shared / "models" / "deimv2_hgnetv2_atto_coco.safetensors"
    assert main(["export", str(weights), "--out", str(tmp_path / "bundle")]) == 0
    spec = load_model_json(tmp_path / "bundle")
    assert (spec["name"], spec["classes"][79], spec["category_ids"][79]) == ("atto", "toothbrush", 90)
    assert (spec["input"]["width"], spec["input"]["filter"]) == (320, "bilinear")


def test_export_refuses_weights_whose_classes_nobody_knows(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from training.models.detector import build
    from training.models.zoo import detector_config

    weights = tmp_path / "seven.pth"
    torch.save({"model": build(detector_config("atto", num_classes=7)).state_dict()}, weights)
    assert main(["export", str(weights), "--out", "bundle", "--model", "atto"]) == 2
    assert "7 classes without names; list them in a COCO json (--categories)" in capsys.readouterr().err
    categories = ["--categories", str(data / "val" / "instances.json")]
    assert main(["export", str(weights), "--out", "bundle", "--model", "atto", *categories]) == 2
    assert "expected 7 classes, as the weights have" in capsys.readouterr().err


def test_every_option_of_the_configuration_has_a_flag() -> None:
    from dataclasses import fields

    from training.config import TrainConfig

    arguments = vars(build_parser().parse_args(["train", "data"]))
    assert {option.name for option in fields(TrainConfig)} <= arguments.keys()
    parsed = build_parser().parse_args(
        ["train", "d", "--size", "320", "--lr", "0.01", "--freeze", "a", "b", "--freeze-norm", "all", "--milestones",
         "3", "5", "--no-decay", "norms", "--recipe", "published", "--compile"]
    )  # fmt: skip
    assert (parsed.size, parsed.lr, parsed.freeze, parsed.freeze_norm) == (320, 0.01, ["a", "b"], "all")
    assert (parsed.milestones, parsed.no_decay, parsed.recipe, parsed.compile) == ([3, 5], ["norms"], "published", True)
    assert build_parser().parse_args(["train", "d", "--freeze"]).freeze == []  # nothing, whatever the recipe says


def test_every_form_of_sampling_can_be_exported() -> None:
    assert get_args(Sampling) == _SAMPLINGS


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    published = capsys.readouterr().out
    assert "| dfine-l | 80 | 32 | 0.00025 | 1.25e-05 |" in published
    assert main(["recipes", "--recipe", "fine-tune"]) == 0
    assert "| dfine-l | 50 | 16 | 0.00025 | 1.25e-05 |" in capsys.readouterr().out


def test_a_published_recipe_runs_from_end_to_end(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every part of a long run in six epochs: plain, mixed, multi-scale, unmixed, gentle, restarted, rematched."""
    folder = tmp_path / "run"
    options = ["--recipe", "published", "--mixup", "0.5", "--copy-blend", "0.5", "--multi-scale", "1", "--min-box", "1"]
    epochs = ["--plain-epochs", "1", "--mix-epochs", "3", "--gentle-epochs", "2", "--restart-epochs", "2"]
    command = ["train", str(data), "--out", str(folder), *TINY, *options, *epochs, "--iou-match-epochs", "1"]
    command[command.index("--epochs") + 1] = "6"
    command[command.index("--size") + 1] = "224"
    assert main(command) == 0
    assert "scaled linearly" in capsys.readouterr().out
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["schedule"], settings["mosaic"], settings["ema_decay"]) == ("flat-cosine", 0.3, 0.9999)
    assert settings["lr"] == pytest.approx(2e-3 * 3 / 128)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(record["kind"] == "validation" for record in records) == 6

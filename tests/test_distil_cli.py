"""`python -m training methods | cache | calibrate-lambda | visualise`, as a user runs them."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_distil_training import assert_same, distilling
from training_data import make_dataset, tiny_config

from edgedet import InvalidInputError
from training import trainer
from training.cli import main
from training.distillation.terms import METHODS, parse_terms
from training.reporting import read_metrics
from training.teachers.fill import fill_caches
from training.teachers.visualise import principal_components
from training.teachers.weigh import weigh_methods

TINY = ["--size=160", "--epochs=3", "--batch=2", "--denoising=8", "--threads=1", "--workers=0", "--teacher-images=0"]
TINY += ["--crop=0.3", "--zoom-out=0.3", "--vertical-flip=0.5", "--eval-every=3"]  # as tiny_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("teachers") / "femto"
    trainer.train(tiny_config(data, run, model="femto", size=192, epochs=1, eval_every=1))
    return run


def test_methods_are_listed_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:-2]] == [*METHODS, "stage-adaptive"]
    assert "temperature=2.0" in lines[2]


def test_a_cache_filled_in_advance_makes_the_same_run(
    data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted once; afterwards the run asks nobody, and equals one that filled its cache on the way."""
    whole = tmp_path / "whole"
    trainer.train(distilling(data, whole, teacher, "logit", "cwd", views=2, teacher_cache=tmp_path / "a"))
    command = ["cache", str(data), "--out", str(tmp_path / "run"), "--views=2", "--teacher-cache", str(tmp_path / "b")]
    command += ["--teacher", str(teacher), "--distil", "logit", "cwd", *TINY]

    from training.teachers import store

    put, calls = store.RowStore.put, 0

    def stopping(self: Any, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        put(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(store.RowStore, "put", stopping)
        assert main(command) == 130
    assert main(command) == 0
    assert "computed and kept" in capsys.readouterr().out
    monkeypatch.setattr("training.teachers.attach.open_teacher", None)
    config = distilling(data, tmp_path / "run", teacher, "logit", "cwd", views=2, teacher_cache=tmp_path / "b")
    trainer.train(config)
    assert_same(whole, tmp_path / "run")
    assert fill_caches(config)[0].startswith("teacher cache of teacher: 0 answers from the cache, 0 computed")


def test_cache_needs_a_place(data: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected --teacher-cache DIR"):
        fill_caches(distilling(data, tmp_path / "run", teacher, "logit"))


def test_calibrated_weights_are_of_the_whole_schedule(data: Path, teacher: Path, tmp_path: Path) -> None:
    """A term that is alone: the ratio of medians. A schedule: the mixture of its terms over all epochs is the ratio."""
    config = distilling(data, tmp_path / "run", teacher, "cwd", "stage-adaptive", epochs=6)
    plain, staged = weigh_methods(config, batches=6, ratio=0.5)
    (scheduled,) = weigh_methods(replace(config, distil=("cwd:schedule=cosine",)), batches=6, ratio=0.5)
    (term,) = parse_terms(plain.weighted)
    assert term.common.weight == pytest.approx(0.5 * plain.detection / raw_median(config, "cwd"), rel=0.05)
    (later,) = parse_terms(scheduled.weighted)
    # The cosine's median over epochs 0 to 5 of 6 lies between its values at 2 and 3.
    assert later.common.weight / term.common.weight == pytest.approx(
        1 / statistics.median(np.cos(np.pi * np.arange(6) / 12)), rel=0.2
    )
    feature, logit = parse_terms(staged.weighted)
    assert (feature.method, logit.method, logit.common.rest) == ("feature", "logit", True)
    assert staged.distillation == pytest.approx(1, rel=0.3)


def raw_median(config: Any, method: str) -> float:
    """The median loss of a method over the first steps of a run that does not learn."""
    run = replace(config, out=config.out.with_name("still"), distil=(method,), lr=1e-12, backbone_lr=1e-12, epochs=4)
    trainer.train(replace(run, save_every=1))
    values = [r[f"distil/{method}"] for r in read_metrics(run.out / "metrics.jsonl") if r["kind"] == "step"]
    return statistics.median(values)


def test_calibrate_lambda_prints_what_train_takes(
    data: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.json"
    command = ["calibrate-lambda", str(data), "--teacher", str(teacher), "--distil", "logit", "dsi:rho=0.2", *TINY]
    assert main([*command, "--batches", "2", "--json", str(file)]) == 0
    printed = [line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("  --distil")]
    found = json.loads(file.read_text())
    assert list(printed) == [found[name]["weighted"] for name in ("logit", "dsi:rho=0.2")]
    assert parse_terms(printed[1])[0].common.rho == 0.2
    assert not (tmp_path / "run").exists()
    assert main([*command, "--ratio", "0"]) == 2
    assert "a --ratio above 0" in capsys.readouterr().err


def test_pictures_show_student_and_teacher(
    data: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = tmp_path / "edge"
    trainer.train(tiny_config(data, student, model="edge-r18", denoising=0, epochs=1, eval_every=1))
    photo = next((data / "val" / "images").iterdir())
    command = [
        "visualise",
        str(student),
        str(photo),
        "--teacher",
        f"big={teacher}",
        "--out",
        str(tmp_path / "pictures"),
    ]
    assert main(command) == 0
    (file,) = (tmp_path / "pictures").iterdir()
    assert capsys.readouterr().out.splitlines()[-1] == str(file)
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 5 * pixels.shape[0] / 2  # the student's row is long: it has attention maps
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    assert main([*command[:4], f"student={teacher}", *command[5:]]) == 2
    assert "another name for a teacher" in capsys.readouterr().err


def test_principal_components_are_those_of_svd() -> None:
    """Two clusters along one axis: the first component tells them apart; constant maps give no NaN."""
    patches = torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(0)) * 0.01
    patches[3, :, 3:] += 5
    first = principal_components(patches)[..., 0]
    left, right = first[:, :3], first[:, 3:]
    assert max(left.max(), right.max()) == 1
    assert abs(left.mean() - right.mean()) > 0.9
    assert np.isfinite(principal_components(torch.ones(8, 2, 2))).all()

"""A run that was interrupted ends as the one that was not: bit for bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_data import make_dataset, tiny_config

from edgedet import InvalidInputError
from training import trainer
from training.loop import StepResult
from training.reporting import read_metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    trainer.train(tiny_config(data, run))
    return run


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, *, number: int = signal.SIGINT) -> None:
    """Sends this process a signal when a step is recorded, as Ctrl-C would."""
    record = trainer._Run._record

    def and_interrupt(run: trainer._Run, result: StepResult, *, epoch: int, seconds: float) -> None:
        record(run, result, epoch=epoch, seconds=seconds)
        if result.step + 1 == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(trainer._Run, "_record", and_interrupt)


def assert_same_run(first: Path, second: Path) -> None:
    for name in ("state-000009.safetensors", "last.safetensors", "best.safetensors"):
        expected, got = load_file(first / name), load_file(second / name)
        assert expected.keys() == got.keys()
        for key, tensor in expected.items():
            assert torch.equal(tensor, got[key]), f"{name}: {key} differs"
    expected_state, state = (json.loads((run / "state.json").read_text()) for run in (first, second))
    for key in ("step", "epoch", "epoch_step", "ema_updates", "best"):
        assert expected_state[key] == state[key]


@pytest.mark.parametrize("step", [3, 4, 5])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_equals_uninterrupted(
    data: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: int
) -> None:
    run = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        interrupt_after(patched, step, number=number)
        assert trainer.train(tiny_config(data, run)).interrupted
    assert signal.getsignal(signal.SIGINT) is before
    assert json.loads((run / "state.json").read_text())["step"] == step
    result = trainer.resume(run)
    assert not result.interrupted
    assert_same_run(uninterrupted, run)
    steps = [(record["kind"], record["step"]) for record in read_metrics(run / "metrics.jsonl")]
    assert steps == [(record["kind"], record["step"]) for record in read_metrics(uninterrupted / "metrics.jsonl")]


def test_a_crash_while_saving_leaves_the_state_before(
    data: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def crash(file: Path, content: object) -> None:
        if json.dumps(content).find('"step": 6') >= 0:
            raise KeyboardInterrupt
        real(file, content)

    from training import run_state

    real = run_state.write_json
    with monkeypatch.context() as patched:
        patched.setattr(run_state, "write_json", crash)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(tiny_config(data, run))
    assert json.loads((run / "state.json").read_text())["step"] == 3
    assert sorted(file.name for file in run.glob("state-*")) == ["state-000003.safetensors", "state-000006.safetensors"]
    trainer.resume(run)
    assert_same_run(uninterrupted, run)
    assert [file.name for file in run.glob("state-*")] == ["state-000009.safetensors"]


def test_resuming_a_finished_run_changes_nothing(uninterrupted: Path) -> None:
    before = (uninterrupted / "state.json").read_bytes()
    metrics = (uninterrupted / "metrics.jsonl").read_bytes()
    result = trainer.resume(uninterrupted)
    assert result.best["AP"] >= 0
    assert (uninterrupted / "state.json").read_bytes() == before
    assert (uninterrupted / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "expected a run folder with config.json"),
        ("config.json", "{", r"config\.json: expected json"),
        ("config.json", "[]", "expected an object, got a list"),
        ("state.json", None, "expected state.json to resume from"),
        ("state.json", '{"step": 3}', "expected the state of a run, got something broken"),
        ("state.json", "version", "expected version 1, got 9"),
        ("state-000009.safetensors", "cut", "expected a safetensors file, got something unreadable"),
    ],
)
def test_broken_run_folders(uninterrupted: Path, tmp_path: Path, file: str, content: str | None, message: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for source in uninterrupted.iterdir():
        if source.is_file():
            (run / source.name).write_bytes(source.read_bytes())
    if content is None:
        (run / file).unlink()
    elif content == "version":
        state = json.loads((run / file).read_text())
        (run / file).write_text(json.dumps({**state, "version": 9}))
    elif content == "cut":
        (run / file).write_bytes((run / file).read_bytes()[:5000])
    else:
        (run / file).write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        trainer.resume(run)

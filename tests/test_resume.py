"""A run that was interrupted ends as the one that was not: bit for bit."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_data import make_dataset, tiny_config

from edgedet import Error, InvalidInputError
from edgedet.files import write_atomically
from training import files, trainer
from training.journal import Journal
from training.loop import StepResult
from training.reporting import read_metrics
from training.run_state import Progress

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    trainer.train(tiny_config(data, run))
    return run


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Does something when a step has been recorded."""
    step_of = Journal.step

    def and_act(journal: Journal, progress: Progress, result: StepResult, *, epoch: int, micro_batch: int) -> None:
        step_of(journal, progress, result, epoch=epoch, micro_batch=micro_batch)
        if progress.step == step:
            act()

    monkeypatch.setattr(Journal, "step", and_act)


def assert_same_run(first: Path, second: Path) -> None:
    for name in ("state-000009.safetensors", "last.safetensors", "best.safetensors"):
        expected, got = load_file(first / name), load_file(second / name)
        assert expected.keys() == got.keys()
        for key, tensor in expected.items():
            assert torch.equal(tensor, got[key]), f"{name}: {key} differs"
    expected_state, state = (json.loads((run / "state.json").read_text()) for run in (first, second))
    for key in ("step", "epoch", "epoch_step", "ema_updates", "best"):
        assert expected_state[key] == state[key]


@pytest.mark.parametrize(
    ("number", "step"), [(signal.SIGINT, 3), (signal.SIGINT, 4), (signal.SIGTERM, 5), (signal.SIGHUP, 2)]
)
def test_interrupted_and_resumed_equals_uninterrupted(
    data: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: int
) -> None:
    run = tmp_path / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        after_step(patched, step, lambda: os.kill(os.getpid(), number))
        assert trainer.train(tiny_config(data, run)).signal == number
    assert signal.getsignal(number) is before
    assert json.loads((run / "state.json").read_text())["step"] == step
    assert trainer.resume(run).signal == 0
    assert_same_run(uninterrupted, run)
    steps = [(record["kind"], record["step"]) for record in read_metrics(run / "metrics.jsonl")]
    assert steps == [(record["kind"], record["step"]) for record in read_metrics(uninterrupted / "metrics.jsonl")]


def test_sizes_and_restarts_survive_interruptions(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped amid the first epoch, at its end, amid the restarted second one, at its end, and amid the last one.

    The second epoch starts from the best weights, and so does the last one, unless the second has the best. Their decay
    is not the one that fits so short a run, 0.5.
    """
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = {"size": 224, "multi_scale": 1, "eval_every": 1, "restart_epochs": 2, "restart_decay": 0.9}
    trainer.train(tiny_config(data, whole, **options))
    for step in (2, 3, 5, 6, 8):
        with monkeypatch.context() as patched:
            after_step(patched, step, lambda: os.kill(os.getpid(), signal.SIGINT))
            result = trainer.resume(run) if run.exists() else trainer.train(tiny_config(data, run, **options))
        assert result.signal == signal.SIGINT
        assert json.loads((run / "state.json").read_text())["step"] == step
    assert trainer.resume(run).signal == 0
    assert_same_run(whole, run)


def test_a_second_signal_interrupts_at_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    after_step(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(tiny_config(data, tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 0


@pytest.mark.parametrize("name", ["state-000009.safetensors", "state.json", "last.safetensors", "best.safetensors"])
def test_killed_before_any_of_the_last_files(
    data: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = tmp_path / "run"

    def die(file: Path, content: bytes) -> None:
        if file.name == name:
            raise KeyboardInterrupt
        write_atomically(file, content)

    with monkeypatch.context() as patched:
        after_step(patched, 9, lambda: patched.setattr(files, "write_atomically", die))
        with pytest.raises(KeyboardInterrupt):
            trainer.train(tiny_config(data, run, save_every=2))
    trainer.resume(run)
    assert_same_run(uninterrupted, run)


def test_killed_at_random_and_in_the_middle_of_writing(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = Path(__file__).with_name("killed_run.py")
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'python'}:{ROOT}"}
    command = [sys.executable, str(script), str(data), str(run), "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    lives = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [status for status, _ in lives].count(signal.SIGKILL) >= 3, done.stdout
    assert lives[-1] == (0, 9)
    assert_same_run(uninterrupted, run)
    assert not [file.name for file in run.iterdir() if file.name.startswith(".")]


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


def full_disk(file: Path, *rest: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


def test_a_save_that_fails_is_told_and_made_up_for(
    data: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        after_step(patched, 1, lambda: patched.setattr(files, "write_atomically", full_disk))
        after_step(patched, 7, lambda: patched.setattr(files, "write_atomically", write_atomically))
        trainer.train(tiny_config(data, run, save_every=2))
    said = capsys.readouterr().out
    for step in (2, 3, 4, 6):
        assert f"step {step}: the run could not be saved in {run} ([Errno 28] No space left on device" in said
    assert_same_run(uninterrupted, run)


def test_a_full_disk_at_the_end_is_an_error_and_leaves_the_state_before(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """A limit of the kernel on the size of files: real writes that fail when they are half done."""
    run = tmp_path / "run"
    code = (
        "import resource, signal, sys\n"
        "from training import trainer\n"
        "from training.cli import main\n"
        "counted = trainer.Run._counted\n"
        "def full(*args, **kwargs):\n"
        "    after = counted(*args, **kwargs)\n"
        "    if after.step == 4:\n"
        "        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "    return after\n"
        "trainer.Run._counted = full\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    config = tiny_config(data, run)
    options = [f"--{name}={getattr(config, name)}" for name in ("size", "epochs", "batch", "denoising", "threads")]
    options += ["--workers=0", "--crop=0.3", "--zoom-out=0.3", "--vertical-flip=0.5", "--eval-every=3"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'python'}:{ROOT}"}
    command = [sys.executable, "-c", code, "train", str(data), "--out", str(run), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "step 6: the run could not be saved" in done.stdout
    assert "error: step 9: the run could not be saved" in done.stderr
    assert f"continue it with --resume {run}" in done.stderr
    assert json.loads((run / "state.json").read_text())["step"] == 3
    assert not [file.name for file in run.iterdir() if file.name.startswith(".")]
    trainer.resume(run)
    assert_same_run(uninterrupted, run)


def test_a_run_that_can_keep_nothing_does_not_begin(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "write_atomically", full_disk)
    with pytest.raises(Error, match="step 0: the run could not be saved"):
        trainer.train(tiny_config(data, tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()  # so the folder can be used again


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
        ("state.json", "version", "expected version 2, got 9"),
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

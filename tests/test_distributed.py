"""Several processes are one: batch norms, losses, whole runs; also where a process has no objects, or dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_data import make_dataset

from edgedet import InvalidInputError
from training.distributed import Processes
from training.models.batch_norm import BatchNorm2d
from training.models.detector import build
from training.models.zoo import MODELS, detector_config
from training.reporting import read_metrics

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path(__file__).with_name("distributed_run.py")


def launch(task: str, folder: Path, *, processes: int, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a task of distributed_run.py in so many processes on one thread each."""
    command = [sys.executable, str(SCRIPT), task, str(folder)]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [*launcher, "--max-restarts", str(restarts), "--monitor-interval", "0.1", *command[1:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'python'}:{ROOT}"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one process and two have done the same."""
    folder = tmp_path_factory.mktemp("work")
    for processes, tasks in ((1, "norms,steps"), (2, "norms,gradients,steps")):
        done = launch(tasks, folder, processes=processes)
        assert done.returncode == 0, done.stderr
    return folder


def test_batch_norms_are_of_the_whole_batch(work: Path) -> None:
    alone, together = (load_file(work / f"norms-{world}.safetensors") for world in (1, 2))
    assert alone.keys() == together.keys()
    assert {"plain.out", "fused.grad", "fused.norm.weight", "fused.norm.running_var", "fused.lab.bias"} <= alone.keys()
    for name, expected in alone.items():
        torch.testing.assert_close(
            together[name], expected, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("case", ["even", "one empty", "all empty"])
@pytest.mark.parametrize("model", ["atto", "dfine-n"])
def test_losses_are_those_of_one_process(work: Path, model: str, case: str) -> None:
    alone, together = (load_file(work / f"steps-{model}-{case}-{world}.safetensors")["losses"] for world in (1, 2))
    assert alone.shape[0] == 2
    # The columns: the norm of the gradient, the loss, every term. Another order of the images in one process changes
    # the norm by up to 4e-4 of itself.
    torch.testing.assert_close(together[:, 1:], alone[:, 1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together[:, 0], alone[:, 0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_norm_can_be_shared(name: str) -> None:
    with torch.device("meta"):
        model = build(detector_config(name, num_classes=2))
    found = {type(module) for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)}
    assert found == {BatchNorm2d}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs by two processes: `whole` undisturbed, `died` in which one was killed, `stopped`."""
    folder = tmp_path_factory.mktemp("runs")
    make_dataset(folder / "data")
    for name in ("whole", "died", "stopped"):
        (folder / name).mkdir()
    (folder / "died" / "die").write_text("5")
    (folder / "stopped" / "stop").write_text("4")
    for name, restarts in (("whole", 0), ("died", 1)):
        done = launch("train", folder / name, processes=2, restarts=restarts)
        assert done.returncode == 0, done.stderr
        (folder / name / "stdout").write_text(done.stdout)
    return folder


def test_one_process_writes_and_talks(runs: Path) -> None:
    lines = (runs / "whole" / "stdout").read_text().splitlines()
    assert len([line for line in lines if line.startswith("epoch 3: AP")]) == 1
    records = read_metrics(runs / "whole" / "run" / "metrics.jsonl")
    assert [record["step"] for record in records if record["kind"] == "validation"] == [3, 6, 9]


def test_a_run_of_two_processes_is_a_run_of_one(runs: Path) -> None:
    (runs / "alone").mkdir()
    assert launch("train", runs / "alone", processes=1).returncode == 0
    together, alone = (
        [float(line) for line in (runs / name / "losses").read_text().splitlines()] for name in ("whole", "alone")
    )
    assert len(together) == len(alone) == 9
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    assert together == pytest.approx(alone, rel=1e-4)


def test_a_killed_process_is_started_again_and_changes_nothing(runs: Path) -> None:
    assert not (runs / "died" / "die").exists()
    whole, died = (load_file(runs / name / "run" / "state-000009.safetensors") for name in ("whole", "died"))
    assert whole.keys() == died.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, died[name]), name
    steps = [
        [(record["kind"], record["step"]) for record in read_metrics(runs / name / "run" / "metrics.jsonl")]
        for name in ("whole", "died")
    ]
    assert steps[0] == steps[1]


def test_a_signal_to_one_process_stops_all_after_the_same_step(runs: Path) -> None:
    done = launch("train", runs / "stopped", processes=2)
    assert done.returncode == 0, done.stderr
    assert int((runs / "stopped" / "stopped").read_text()) == signal.SIGTERM
    assert json.loads((runs / "stopped" / "run" / "state.json").read_text())["step"] == 4
    assert "SIGTERM: stopped after step 4" in done.stdout


def test_batches_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    (tmp_path / "run").mkdir()
    done = launch("train", tmp_path / "run", processes=3)
    assert done.returncode != 0
    assert "expected a multiple of the 3 processes" in done.stderr


def test_a_gpu_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Processes(rank=1, world=2, local_rank=0).device("cuda:0") == torch.device("cuda", 0)
    assert Processes(rank=1, world=2, local_rank=1).device("cpu") == torch.device("cpu")
    with pytest.raises(InvalidInputError, match="expected a GPU for each process, got 1 GPUs and process 1"):
        Processes(rank=1, world=2, local_rank=1).device("cuda:0")

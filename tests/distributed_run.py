"""One process of tests/test_distributed.py: `distributed_run.py TASK FOLDER`, alone or under torchrun."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from training_data import tiny_config, tiny_network

from training import assembly, trainer
from training.data.batches import Batch
from training.distributed import Processes
from training.ema import Ema
from training.files import write_tensors
from training.loop import Learner, train_step
from training.losses.criterion import Criterion, CriterionConfig
from training.models.batch_norm import BatchNorm2d
from training.models.layers import ConvNorm
from training.optim import build_adamw, parameter_groups
from training.schedule import Schedule

CPU = torch.device("cpu")
SIDE = 128


def norms(processes: Processes, folder: Path) -> None:
    """Forward and backward of a plain norm, and of one with a fused scale and shift, on this process's rows."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 8, 8, generator=generator) * 3 + 1
    weights = torch.randn(6, 4, 8, 8, generator=generator)
    rows = slice(0, 6) if processes.world == 1 else slice(0, 2) if processes.first else slice(2, 6)
    torch.manual_seed(1)
    layers = {"plain": ConvNorm(3, 4, 3), "fused": ConvNorm(3, 4, 3, activation="relu", affine=True)}
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        assert isinstance(layer.norm, BatchNorm2d)
        with torch.no_grad():
            layer.norm.weight.uniform_(0.5, 1.5)
            layer.norm.bias.uniform_(-0.5, 0.5)
        x = images[rows].clone().requires_grad_()
        out = layer(x)
        (out * weights[rows]).sum().backward()
        assert x.grad is not None
        for part, tensor in (("out", out), ("grad", x.grad)):
            found[f"{name}.{part}"] = torch.cat(processes.gathered(tensor.detach())) if processes.first else out
            if not processes.first:
                processes.gathered(tensor.detach())
        processes.average_gradients(list(layer.parameters()))
        for key, parameter in layer.named_parameters():
            assert parameter.grad is not None
            found[f"{name}.{key}"] = parameter.grad * processes.world
        found |= {f"{name}.{key}": buffer for key, buffer in layer.named_buffers()}
    if processes.first:
        write_tensors(folder / f"norms-{processes.world}.safetensors", found)


def gradients(processes: Processes, folder: Path) -> None:
    """Averages where a parameter has no gradient in one process, or in none."""
    everywhere, here, nowhere = (nn.Parameter(torch.zeros(2, 3)) for _ in range(3))
    everywhere.grad = torch.full((2, 3), 1.0 + processes.rank)
    if processes.first:
        here.grad = torch.full((2, 3), 8.0)
    processes.average_gradients([everywhere, here, nowhere])
    assert torch.equal(everywhere.grad, torch.full((2, 3), 1.5))
    assert here.grad is not None
    assert torch.equal(here.grad, torch.full((2, 3), 4.0))
    assert nowhere.grad is None
    assert processes.any(not processes.first)
    assert (processes.largest(processes.rank), processes.smallest(processes.rank), processes.total(2)) == (1, 0, 4)
    processes.check_equal([everywhere])
    try:
        processes.check_equal([torch.tensor(float(processes.rank))])
    except RuntimeError as error:
        assert "expected the same weights in all 2 processes" in str(error)  # noqa: PT017
    else:
        raise AssertionError("different weights went unnoticed")


def steps(processes: Processes, folder: Path) -> None:
    """Two steps of each family with the objects spread evenly, in one process only, and with none at all."""
    for model in ("atto", "dfine-n"):
        for case, counts in {"even": [2, 1, 3, 1], "one empty": [2, 1, 0, 0], "all empty": [0, 0, 0, 0]}.items():
            torch.manual_seed(0)
            network = tiny_network(model, side=SIDE, classes=3)
            family = CriterionConfig(fgl_weight=0.0, ddf_weight=0.0, union_set=False)
            optimizer = smooth_adamw(parameter_groups(network, lr=1e-2, backbone_lr=1e-2, weight_decay=1e-4))
            learner = Learner(
                model=network,
                criterion=Criterion(family if model == "atto" else CriterionConfig()),
                optimizer=optimizer,
                schedule=Schedule("flat-cosine", total=10, warmup=0.0),
                ema=Ema(network, decay=0.9, warmup=1),
                scaler=torch.amp.GradScaler("cpu", enabled=False),
                device=CPU,
                precision="fp32",
                clip=0.1,
                seed=0,
                processes=processes,
            )
            losses = []
            for step in range(2):
                batch = whole_batch(counts, side=SIDE, seed=step)
                mine = processes.share(range(4))
                part = Batch(
                    images=batch.images[mine[0] : mine[-1] + 1],
                    targets=[batch.targets[index] for index in mine],
                    seeds=tuple(batch.seeds[index] for index in mine),
                )
                result = train_step(learner, part, epoch=0, step=step)
                losses.append([result.gradient_norm, result.loss, *result.terms.values()])
            processes.check_equal(network.parameters())
            if processes.first:
                file = folder / f"steps-{model}-{case}-{processes.world}.safetensors"
                write_tensors(file, {"losses": torch.tensor(losses, dtype=torch.float64)})


def smooth_adamw(groups: list[dict[str, object]]) -> torch.optim.AdamW:
    """Adam's first step is the sign of the gradient, also of one that is all rounding; this one's is in proportion."""
    optimizer = build_adamw(groups)
    for group in optimizer.param_groups:
        group["eps"] = 1.0
    return optimizer


def whole_batch(counts: list[int], *, side: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    targets = [
        {
            "labels": torch.randint(3, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.25 + 0.25,
        }
        for count in counts
    ]
    images = torch.rand(len(counts), 3, side, side, generator=generator)
    return Batch(images=images, targets=targets, seeds=tuple(range(seed, seed + len(counts))))


def train(processes: Processes, folder: Path) -> None:
    """A whole run. Where FOLDER/die says so, the second process kills itself at that step, once."""
    counted = trainer.Run._counted
    order = folder / "die"

    def and_die(run: trainer.Run, progress: object, result: object, *, seconds: float) -> object:
        after = counted(run, progress, result, seconds=seconds)  # type: ignore[arg-type]
        if processes.first:
            with (folder / "losses").open("a", encoding="utf-8") as stream:
                print(result.loss, file=stream)  # type: ignore[attr-defined]
        if order.exists() and processes.rank == 1 and after.step == int(order.read_text()):
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if (stop := folder / "stop").exists() and processes.rank == 1 and after.step == int(stop.read_text()):
            os.kill(os.getpid(), signal.SIGTERM)
        return after

    assembly.build_adamw = smooth_adamw  # type: ignore[attr-defined]
    trainer.Run._counted = and_die  # type: ignore[method-assign,assignment]
    result = trainer.train(tiny_config(folder.parent / "data", folder / "run", save_every=1, eval_every=1))
    if processes.first and result.signal:
        (folder / "stopped").write_text(str(result.signal))


def main() -> None:
    task, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    processes = Processes.of_launch()
    if task == "train":
        train(processes, folder)
        return
    with processes.joined(CPU):
        for name in task.split(","):
            {"norms": norms, "gradients": gradients, "steps": steps}[name](processes, folder)


if __name__ == "__main__":
    main()

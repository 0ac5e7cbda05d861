"""Losses and gradients that are not finite, and memory that runs out: what a run makes of them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training_data import make_dataset, tiny_config, tiny_network

from edgedet import InvalidInputError, ModelError
from training import assembly, loop, trainer
from training.cli import main
from training.data.batches import Batch
from training.ema import Ema, tensors_of
from training.guard import NormStatistics, load_bad_batches, too_many
from training.loop import Learner, accumulate, train_step
from training.losses.criterion import Criterion
from training.memory import OutOfMemoryError, halved, is_out_of_memory, limit_memory, parse_bytes, readable_bytes
from training.models.outputs import DetectorOutput
from training.optim import build_adamw, parameter_groups
from training.recipes import build_criterion, resolve
from training.rehearsal import rehearse
from training.reporting import read_metrics
from training.schedule import Schedule

CPU = torch.device("cpu")
SIDE = 96
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def learner(data: Path) -> Learner:
    torch.manual_seed(0)
    model = tiny_network("atto", side=SIDE)
    return Learner(
        model=model,
        criterion=build_criterion(resolve(tiny_config(data, Path("run")))),
        optimizer=build_adamw(parameter_groups(model, lr=1e-3, backbone_lr=1e-3, weight_decay=1e-4)),
        schedule=Schedule("flat-cosine", total=10, warmup=0.0),
        ema=Ema(model, decay=0.9, warmup=1),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        device=CPU,
        precision="fp32",
        clip=0.1,
        seed=0,
    )


def batch_of(images: int, *, counts: list[int] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(0)
    targets = [
        {
            "labels": torch.randint(2, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.25 + 0.25,
        }
        for count in counts or [2] * images
    ]
    return Batch(
        images=torch.rand(images, 3, SIDE, SIDE, generator=generator), targets=targets, seeds=tuple(range(images))
    )


def poison(monkeypatch: pytest.MonkeyPatch, steps: Callable[[int], bool], *, rate: float = 1.0) -> None:
    """Puts infinity into the first image of these steps, for as long as the learning rate is at least `rate`."""

    def poisoned(learner: Learner, batch: Batch, *, epoch: int, step: int) -> loop.Gradients:
        if steps(step) and learner.rate >= rate:
            batch.images[0, :, 0, 0] = math.inf
        return accumulate(learner, batch, epoch=epoch, step=step)

    monkeypatch.setattr(loop, "accumulate", poisoned)


# A step


def everything(learner: Learner) -> dict[str, Tensor]:
    moments = {
        f"{key}.{index}": value
        for index, state in enumerate(learner.optimizer.state.values())
        for key, value in state.items()
    }
    live, averaged = tensors_of(learner.model), tensors_of(learner.ema.module)
    found = {**live, **{f"ema.{name}": tensor for name, tensor in averaged.items()}, **moments}
    return {name: tensor.clone() for name, tensor in found.items()}


def breaks_gradient(learner: Learner, batch: Batch) -> None:
    next(learner.model.parameters()).register_hook(lambda gradient: gradient * math.nan)


def breaks_image(learner: Learner, batch: Batch) -> None:
    batch.images[0, 0, 0, 0] = math.nan


def breaks_loss(learner: Learner, batch: Batch) -> None:
    criterion = learner.criterion
    learner.criterion = lambda *args, **kwargs: {**criterion(*args, **kwargs), "extra": torch.tensor(math.inf)}


@pytest.mark.parametrize(
    ("breaks", "why"),
    [
        (breaks_image, "the loss is not finite: predictions=nan"),
        (breaks_loss, "the loss is not finite: extra=inf"),
        (breaks_gradient, "the gradient is not finite: its norm is nan"),
    ],
)
@pytest.mark.parametrize("micro_batch", [0, 1])
def test_a_bad_step_leaves_no_trace(
    learner: Learner, breaks: Callable[[Learner, Batch], None], why: str, micro_batch: int
) -> None:
    learner.micro_batch = micro_batch
    assert not train_step(learner, batch_of(2), epoch=0, step=0).skipped
    before, updates = everything(learner), learner.ema.updates
    batch = batch_of(2)
    breaks(learner, batch)
    result = train_step(learner, batch, epoch=0, step=1)
    assert (result.skipped, result.bad) == (why, True)
    after = everything(learner)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert learner.ema.updates == updates


def test_an_overflow_of_float16_is_no_fault(learner: Learner) -> None:
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    breaks_gradient(learner, batch_of(1))
    found = [train_step(learner, batch_of(2), epoch=0, step=step) for step in range(3)]
    assert [(bool(result.skipped), result.bad) for result in found] == [(True, False), (True, False), (True, True)]


def test_statistics_of_norms_come_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    statistics = NormStatistics(model)
    before = copy.deepcopy(model.state_dict())
    model(torch.rand(2, 3, 4, 4))
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])  # type: ignore[arg-type]
    statistics.restore()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("bad", "step", "verdict"),
    [([7, 8, 9], 9, True), ([1, 8, 9], 15, True), ([1, 8, 9], 16, False), ([8, 9], 9, False), ([], 0, False)],
)
def test_too_many_is_in_a_row_or_nearly(bad: list[int], step: int, verdict: bool) -> None:
    assert too_many(bad, step=step, limit=3) is verdict


# A run


def test_bad_steps_are_skipped_counted_and_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, lambda step: step in (2, 4))
    run = tmp_path / "run"
    trainer.train(tiny_config(data, run))
    said = capsys.readouterr().out
    assert "step 2: the loss is not finite" in said
    assert "2 steps skipped, 0 returns" in said
    state = json.loads((run / "state.json").read_text())
    assert (state["skipped"], state["bad_steps"], state["rate"]) == (2, [2, 4], 1.0)
    skipped = [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "skipped"]
    assert [record["step"] for record in skipped] == [3, 5]
    assert sorted(file.name for file in (run / "bad").iterdir()) == [
        "step-000002.safetensors",
        "step-000004.safetensors",
    ]
    bad = load_bad_batches(run, 4)[0]
    assert (bad.step, bad.epoch, bad.classes, len(bad.batch.seeds)) == (4, 1, 2, 2)
    assert main(["replay", str(run), "4"]) == 0
    assert "the data: images hold 3 of 153600 values that are not finite" in capsys.readouterr().out
    assert main(["replay", str(run), "5"]) == 2
    assert "there are: step-000002, step-000004" in capsys.readouterr().err
    tensors = load_file(run / "state-000009.safetensors")
    assert all(value.isfinite().all() for name, value in tensors.items() if "anchors" not in name)


def test_replay_names_the_module(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.replay import replay

    poison(monkeypatch, lambda step: step == 2)
    trainer.train(tiny_config(data, tmp_path / "run", epochs=1))
    bad = load_bad_batches(tmp_path / "run", 2)[0]
    bad.batch.images[0, :, 0, 0] = 0.5

    def found(**changes: Tensor) -> str:
        given = replace(bad, tensors={**bad.tensors, **{k.replace("__", "."): v for k, v in changes.items()}})
        monkeypatch.setattr("training.replay.load_bad_batches", lambda run, step: [given])
        return replay(tmp_path / "run", 2, device="cpu")[0]

    assert found().startswith("nothing: loss and gradients are finite here")
    scale = bad.tensors["backbone.stem.stem1.norm.weight"]
    assert found(backbone__stem__stem1__norm__weight=scale * math.nan).startswith(
        "the weights: backbone.stem.stem1.norm.weight holds"
    )
    weight = bad.tensors["backbone.stem.stem2a.conv.weight"]
    assert found(backbone__stem__stem2a__conv__weight=weight * 1e38).startswith(
        "the forward pass: backbone.stem.stem2a.conv (Conv2d) gives"
    )


def test_too_many_bad_steps_send_a_run_back_at_a_lower_rate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad from step 5 on, until the rate is halved: back to step 4, and to the end from there."""
    poison(monkeypatch, lambda step: step >= 5, rate=1.0)
    run = tmp_path / "run"
    trainer.train(tiny_config(data, run, save_every=2, max_bad_steps=2))
    assert "going back to step 6 with 0.5 of the learning rate" in capsys.readouterr().out
    state = json.loads((run / "state.json").read_text())
    assert (state["step"], state["rate"], state["rollbacks"], state["skipped"]) == (9, 0.5, 1, 2)
    rollback = next(record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "rollback")
    assert (rollback["step"], rollback["from"], rollback["rate"]) == (6, 7, 0.5)


def test_a_lowered_rate_survives_a_resume(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, lambda step: step >= 1)
    save = trainer.Keeper.save

    def and_die(keeper: trainer.Keeper, progress: trainer.Progress, *, must: bool = False) -> None:
        save(keeper, progress, must=must)
        if progress.rollbacks == 1:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(trainer.Keeper, "save", and_die)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(tiny_config(data, run, epochs=1, max_bad_steps=2))
    trainer.resume(run)
    state = json.loads((run / "state.json").read_text())
    assert (state["step"], state["rate"], state["rollbacks"]) == (3, 0.5, 1)


def test_a_run_that_stays_bad_ends_saying_why(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, lambda step: step >= 1, rate=0.0)
    run = tmp_path / "run"
    message = r"step 2: the loss is not finite.* 2 times, each time at half .*replay .* 2\. The last state .* is whole"
    with pytest.raises(ModelError, match=message):
        trainer.train(tiny_config(data, run, max_bad_steps=2, max_rollbacks=2))
    assert json.loads((run / "state.json").read_text())["rate"] == 0.25


def test_weights_that_are_not_finite_are_never_saved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = trainer.Run._counted

    def and_break(run: trainer.Run, progress: trainer.Progress, *rest: object, **named: object) -> trainer.Progress:
        after = counted(run, progress, *rest, **named)  # type: ignore[arg-type]
        if after.step == 3 and run.learner.rate == 1.0:
            with torch.no_grad():
                next(run.learner.model.parameters()).fill_(math.inf)
        return after

    monkeypatch.setattr(trainer.Run, "_counted", and_break)
    run = tmp_path / "run"
    trainer.train(tiny_config(data, run, epochs=2, save_every=2))
    assert "step 2: the weights are not finite; going back to step 2" in capsys.readouterr().out
    assert json.loads((run / "state.json").read_text())["step"] == 6


# Memory


class Scarce:
    """A criterion of a machine without memory for more than `images` at a time."""

    def __init__(self, criterion: Criterion, images: int) -> None:
        self.criterion, self.images, self.seen = criterion, images, list[int]()

    def __call__(
        self, output: DetectorOutput, targets: list[dict[str, Tensor]], *, epoch: int, objects: float | None = None
    ) -> dict[str, Tensor]:
        self.seen.append(len(targets))
        if len(targets) > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.criterion(output, targets, epoch=epoch, objects=objects)


def test_micro_batches_give_the_gradients_of_the_batch(learner: Learner) -> None:
    """Batch norms see a part at a time, so they are left out of the comparison; one image has no object."""
    for module in learner.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    batch, found = batch_of(4, counts=[3, 0, 1, 2]), {}
    for size in (0, 1, 3):
        learner.micro_batch = size
        terms = accumulate(learner, batch, epoch=0, step=0).terms
        gradients = {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}
        found[size] = (terms, gradients)
    whole, whole_gradients = found[0]
    for size in (1, 3):
        terms, gradients = found[size]
        assert terms == pytest.approx(whole, rel=1e-4, abs=1e-5)
        assert gradients.keys() == whole_gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-3, atol=2e-4, msg=name)


def test_a_step_begins_anew_with_half_the_images_at_a_time(learner: Learner) -> None:
    scarce = Scarce(learner.criterion, 2)  # type: ignore[arg-type]
    reference = copy.deepcopy(learner)
    reference.micro_batch = 2
    learner.criterion = scarce
    results = [train_step(each, batch_of(5), epoch=0, step=0) for each in (learner, reference)]
    assert scarce.seen == [5, 3, 2, 2, 1]
    assert learner.micro_batch == 2
    assert results[0] == results[1]
    expected = everything(reference)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(learner).items())


def test_a_rehearsal_finds_what_memory_allows_and_leaves_no_trace(learner: Learner) -> None:
    before = {name: tensor.clone() for name, tensor in tensors_of(learner.model).items()}
    learner.criterion = scarce = Scarce(learner.criterion, 2)  # type: ignore[arg-type]
    rehearse(learner, images=4, side=SIDE, objects=3)
    assert scarce.seen == [4, 2, 2]
    assert learner.micro_batch == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(learner.model).items())
    assert all(parameter.grad is None for parameter in learner.model.parameters())
    assert not any(value.any() for state in learner.optimizer.state.values() for value in state.values())


def test_no_memory_for_one_image_is_an_error(learner: Learner) -> None:
    learner.criterion = Scarce(learner.criterion, 0)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="expected memory for one image at a time, got none"):
        train_step(learner, batch_of(2), epoch=0, step=0)


def test_one_of_several_processes_cannot_begin_anew(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    learner.criterion = Scarce(learner.criterion, 2)  # type: ignore[arg-type]
    learner.processes = replace(learner.processes, world=2)
    for name in ("largest", "total", "any"):
        monkeypatch.setattr(type(learner.processes), name, lambda self, value: value)
    with pytest.raises(OutOfMemoryError, match="takes 2 images at a time") as caught:
        train_step(learner, batch_of(4), epoch=0, step=7)
    assert caught.value.micro_batch == 2


def test_a_run_keeps_its_batch_and_remembers_the_micro_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = assembly.build_criterion
    monkeypatch.setattr(assembly, "build_criterion", lambda config: Scarce(real(config), 1))
    run = tmp_path / "run"
    trainer.train(tiny_config(data, run, epochs=1, vram_budget="2GiB"))
    said = capsys.readouterr().out
    assert "vram budget: not applied, for this run is on the CPU" in said
    assert "not enough for 2 images at a time; taking 1, the batch stays 2" in said
    record = next(record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "step")
    assert record["micro_batch"] == 1
    assert record["peak_memory"] > 50 << 20
    assert json.loads((run / "state.json").read_text())["micro_batch"] == 1


def test_a_cpu_without_memory_is_known_by_its_text() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_sizes_of_memory() -> None:
    assert parse_bytes("4GiB") == 4 << 30
    assert parse_bytes("1.5 GiB") == 3 << 29
    assert readable_bytes(3 << 29) == "1.5 GiB"
    assert readable_bytes(300 << 20) == "300 MiB"
    for text in ("4", "4GB", "0GiB", "-1GiB", "GiB"):
        with pytest.raises(InvalidInputError, match="expected a size such as 4GiB"):
            parse_bytes(text)
    assert [halved(number) for number in (16, 5, 3, 2)] == [8, 3, 2, 1]
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert "not applied" in limit_memory(CPU, 1 << 30)


@pytest.mark.cuda
def test_a_budget_is_a_cap() -> None:
    device = torch.device("cuda", 0)
    limit_memory(device, 1 << 30)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(2 << 30, dtype=torch.uint8, device=device)
    with pytest.raises(InvalidInputError, match="vram budget: expected at most"):
        limit_memory(device, 1 << 50)


# No objects


def test_a_run_whose_batches_are_mostly_empty(data: Path, tmp_path: Path) -> None:
    bare = make_dataset(tmp_path / "data")
    file = bare / "train" / "instances.json"
    document = json.loads(file.read_text())
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] == 1]
    file.write_text(json.dumps(document))
    result = trainer.train(tiny_config(bare, tmp_path / "run", epochs=1))
    assert all(math.isfinite(r["loss"]) for r in read_metrics(result.run / "metrics.jsonl") if r["kind"] == "step")
    assert json.loads((result.run / "state.json").read_text())["skipped"] == 0

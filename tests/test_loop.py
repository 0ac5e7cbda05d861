"""The parts of the loop against formulas and against plain PyTorch, and what a run leaves behind."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from training_data import IDS, NAMES, make_dataset, tiny_config

from edgedet import Error, InvalidInputError
from training import trainer
from training.assembly import build_learner
from training.config import TrainConfig
from training.data.batches import Batch, TrainingBatches, network_input
from training.data.coco import find_split, load_coco
from training.data.formats import load_splits
from training.data.policy import Augmentation, Policy
from training.ema import Ema, default_decay, tensors_of
from training.evaluate import evaluate_model, predict
from training.loop import Learner, train_steps
from training.models.denoising import DenoisingDraw
from training.models.outputs import DetectorOutput, Prediction
from training.optim import build_adamw, freeze, parameter_groups, set_learning_rate, set_training_mode
from training.recipes import build_model, device_of, input_spec, resolve
from training.reporting import read_metrics
from training.schedule import Schedule


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


# Schedules


def test_one_cycle_is_pytorchs() -> None:
    """torch's OneCycleLR with cosine legs reaches the same ends and the same middle of each leg."""
    total, rise = 100, 30
    ours = Schedule("one-cycle", total=total, warmup=rise / total, final=0.01)
    factors = [ours.factor(step) for step in range(total)]
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=1.0,
        total_steps=total + 1,
        pct_start=(rise + 1) / (total + 1),
        div_factor=25.0,
        final_div_factor=4.0,
    )
    reference = []
    for _ in range(total + 1):
        reference.append(theirs.get_last_lr()[0])
        optimizer.step()
        if len(reference) <= total:
            theirs.step()
    np.testing.assert_allclose(factors, reference[1:], atol=1e-12)


def test_flat_cosine_rises_holds_and_falls() -> None:
    schedule = Schedule("flat-cosine", total=100, warmup=0.1, flat=0.5, final=0.2)
    factors = [schedule.factor(step) for step in range(100)]
    np.testing.assert_allclose(factors[:10], [((i + 1) / 10) ** 2 for i in range(10)])
    assert factors[10:50] == [1.0] * 40
    np.testing.assert_allclose(factors[74], 0.6)  # half way down
    assert factors[-1] == pytest.approx(0.2)
    assert factors[50:] == sorted(factors[50:], reverse=True)
    assert Schedule("one-cycle", total=1, warmup=0.0, final=0.5).factor(0) == 0.5


@pytest.mark.parametrize(
    "bad", [{"kind": "linear"}, {"total": 0}, {"warmup": 1.0}, {"kind": "flat-cosine", "flat": 0.05}, {"final": 2.0}]
)
def test_schedules_are_checked(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        Schedule(**{"kind": "one-cycle", "total": 10, **bad})  # type: ignore[arg-type]


# Optimizer


class Small(nn.Module):
    """A network with each kind of parameter, inside and outside a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.head(self.backbone(images).mean(dim=(2, 3))))  # type: ignore[no-any-return]


def test_groups_split_by_backbone_and_decay() -> None:
    model = Small()
    optimizer = build_adamw(parameter_groups(model, lr=0.1, backbone_lr=0.01, weight_decay=0.5))
    settings = {
        name: (group["lr"], group["weight_decay"])
        for name, parameter in model.named_parameters()
        for group in optimizer.param_groups
        if any(parameter is one for one in group["params"])
    }
    assert settings == {
        "backbone.0.weight": (0.01, 0.5),
        "backbone.0.bias": (0.01, 0.0),
        "backbone.1.weight": (0.01, 0.0),
        "backbone.1.bias": (0.01, 0.0),
        "head.weight": (0.1, 0.5),
        "head.bias": (0.1, 0.0),
        "norm.weight": (0.1, 0.0),
        "norm.bias": (0.1, 0.0),
    }
    set_learning_rate(optimizer, 0.5)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.005, 0.05]


def test_frozen_parts_keep_weights_and_statistics() -> None:
    model = Small()
    freeze(model, ("backbone",))
    set_training_mode(model, frozen=("backbone.",), freeze_norm="none")
    assert not model.backbone[1].training
    assert model.norm.training
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "head.weight", "head.bias", "norm.weight", "norm.bias",
    }  # fmt: skip
    set_training_mode(model, frozen=(), freeze_norm="all")
    assert not model.norm.training
    freeze(model, ())
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(InvalidInputError, match="got 'neck'"):
        freeze(model, ("neck",))
    with pytest.raises(InvalidInputError, match="something left to train"):
        freeze(model, ("backbone", "head", "norm"))


# Averaging


def test_ema_is_the_recurrence() -> None:
    model = Small()
    ema = Ema(model, decay=0.9, warmup=5)
    expected = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    for update in range(1, 8):
        with torch.no_grad():
            for tensor in tensors_of(model).values():
                tensor.add_(1 if not tensor.is_floating_point() else torch.randn_like(tensor))
        ema.update(model)
        decay = 0.9 * (1 - math.exp(-update / 5))
        for name, tensor in tensors_of(model).items():
            averaged = decay * expected[name] + (1 - decay) * tensor
            expected[name] = averaged if tensor.is_floating_point() else tensor.clone()
    for name, tensor in tensors_of(ema.module).items():
        torch.testing.assert_close(tensor, expected[name])
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_default_decay_fits_the_run() -> None:
    assert default_decay(1_000_000) == 0.9999
    assert default_decay(400) == pytest.approx(0.95)
    assert 0.0 <= default_decay(1) < 1.0


# The loop


class Regressor(nn.Module):
    """Stands in for a detector: its loss can be worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(3))

    def forward(
        self, images: Tensor, targets: list[dict[str, Tensor]], *, draw: DenoisingDraw | None = None
    ) -> DetectorOutput:
        prediction = (self.value * images.mean(dim=(2, 3))).unsqueeze(1)
        return DetectorOutput(final=Prediction(logits=prediction, boxes=prediction))


def regression(
    output: DetectorOutput, targets: list[dict[str, Tensor]], *, epoch: int, objects: float | None = None
) -> dict[str, Tensor]:
    return {"a": (output.final.logits - 1).square().sum(), "b": 0.5 * output.final.logits.abs().sum()}


def make_learner(model: nn.Module, *, clip: float = 0.1) -> Learner:
    return Learner(
        model=model,
        criterion=regression,
        optimizer=build_adamw(parameter_groups(model, lr=0.1, backbone_lr=0.1, weight_decay=0.01)),
        schedule=Schedule("flat-cosine", total=10, warmup=0.5, flat=0.6),
        ema=Ema(model, decay=0.5, warmup=1),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        device=torch.device("cpu"),
        precision="fp32",
        clip=clip,
        seed=3,
    )


def make_batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    empty = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    return [Batch(images=torch.rand(4, 3, 4, 4, generator=generator), targets=[empty] * 4) for _ in range(count)]


@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_steps_are_adamw_with_clipping(micro_batch: int) -> None:
    model, reference = Regressor(), Regressor()
    learner = make_learner(model)
    learner.micro_batch, learner.rate = micro_batch, 0.5
    results = [result for _, result in train_steps(learner, make_batches(6), epoch=0, first_step=0)]
    assert [result.step for result in results] == list(range(6))
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.1, weight_decay=0.0)  # a vector: no decay
    for step, (batch, result) in enumerate(zip(make_batches(6), results, strict=True)):
        loss = sum(regression(reference(batch.images, []), [], epoch=0).values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        assert result.loss == pytest.approx(loss.item(), rel=1e-5)
        assert result.gradient_norm == pytest.approx(reference.value.grad.norm().item(), rel=1e-5)  # type: ignore[union-attr]
        assert (result.skipped, result.bad, result.images) == ("", False, 4)
        nn.utils.clip_grad_norm_(reference.parameters(), 0.1)
        optimizer.param_groups[0]["lr"] = 0.1 * 0.5 * learner.schedule.factor(step)
        optimizer.step()
    torch.testing.assert_close(model.value, reference.value)


def test_steps_are_numbered_from_where_they_go_on() -> None:
    steps = train_steps(make_learner(Regressor()), make_batches(6), epoch=0, first_step=4)
    assert [result.step for _, (_, result) in zip(range(2), steps, strict=False)] == [4, 5]


# Batches


def test_batches_depend_on_seed_epoch_and_index_alone(data: Path) -> None:
    dataset = load_coco(find_split(data, "train"))
    settings = Augmentation(crop=0.5, zoom_out=0.5, mosaic=0.5)
    spec = input_spec(64)

    def epoch(
        number: int, *, workers: int = 0, seed: int = 0, first_step: int = 0, cache: int = 1 << 20
    ) -> list[Batch]:
        batches = TrainingBatches(
            dataset, spec=spec, policy=Policy(settings), batch=2, seed=seed, workers=workers, cache_bytes=cache
        )
        return list(batches.epoch(number, first_step=first_step))

    def same(first: list[Batch], second: list[Batch]) -> bool:
        return len(first) == len(second) and all(
            torch.equal(a.images, b.images)
            and all(torch.equal(x["boxes"], y["boxes"]) for x, y in zip(a.targets, b.targets, strict=True))
            for a, b in zip(first, second, strict=True)
        )

    plain = epoch(0)
    assert len(plain) == 3
    assert plain[0].images.shape == (2, 3, 64, 64)
    assert same(plain, epoch(0, workers=3, cache=0))
    assert same(plain[2:], epoch(0, first_step=2))
    assert same(plain[1:], epoch(0, first_step=1, workers=2))
    assert not same(plain, epoch(1))
    assert not same(plain, epoch(0, seed=1))


def test_an_epoch_visits_every_image_once(data: Path) -> None:
    dataset = load_coco(find_split(data, "train"))
    for batch, expected in ((2, [2, 2, 2]), (4, [4]), (64, [6])):
        batches = TrainingBatches(dataset, spec=input_spec(64), policy=Policy(Augmentation()), batch=batch, seed=0)
        order = batches.order(5)
        assert [len(step) for step in order] == expected
        assert batches.steps == len(expected)
        visited = [index for step in order for index in step]
        assert len(set(visited)) == len(visited)


# Validation


class Oracle(nn.Module):
    """Answers with the squares of the image: a detector that is right."""

    def __init__(self, names: int) -> None:
        super().__init__()
        self.names = names

    def forward(self, images: Tensor) -> DetectorOutput:
        logits = torch.full((len(images), 4, self.names), -9.0)
        boxes = torch.full((len(images), 4, 4), 0.5)
        for index, image in enumerate(images):
            for label, channel in enumerate((0, 2)):
                other = image[1]
                ys, xs = torch.nonzero((image[channel] - other) > 0.35, as_tuple=True)
                if len(xs) == 0:
                    continue
                height, width = image.shape[1:]
                x0, x1, y0, y1 = xs.min() / width, (xs.max() + 1) / width, ys.min() / height, (ys.max() + 1) / height
                boxes[index, label] = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
                logits[index, label, label] = 5.0
        return DetectorOutput(final=Prediction(logits=logits, boxes=boxes))


def test_validation_gives_a_right_detector_its_due(data: Path) -> None:
    dataset = load_coco(find_split(data, "val"))
    spec = input_spec(320)
    metrics = evaluate_model(Oracle(2).eval(), dataset, spec=spec, batch=2, device=torch.device("cpu"))
    assert metrics["AP50"] > 0.6  # one square hides a part of the other in some images
    assert metrics["AP50"] >= metrics["AP75"] >= metrics["AP"] > 0.3
    sample, detections = next(
        iter(predict(Oracle(2), dataset.samples, spec=spec, names=NAMES, batch=2, device=torch.device("cpu")))
    )
    assert detections.names[:2] == [NAMES[label] for label in detections.labels[:2]]
    truth = sample.boxes[int(detections.labels[0])] * [100, 80, 100, 80]
    np.testing.assert_allclose(detections.boxes[0], truth, atol=1.5)
    assert {entry["category_id"] for entry in detections.to_coco(1, IDS)} <= set(IDS)


def test_network_input_is_what_the_runtime_feeds(data: Path) -> None:
    sample = load_coco(find_split(data, "val")).samples[0]
    ours = network_input(sample, input_spec(64))
    with Image.open(sample.file) as picture:
        shrunk = np.asarray(picture.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(ours, shrunk.transpose(2, 0, 1) / 255, atol=1.01 / 255)


# Configuration


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "giant"), ("size", 100), ("epochs", 0), ("batch", 0), ("lr", 0.0), ("lr", 2.0), ("ema_decay", 1.0),
        ("warmup", -0.1), ("flip", 3.0), ("precision", "int4"), ("seed", -1), ("weight_decay", -1.0), ("final_lr", 1.5),
    ],
)  # fmt: skip
def test_configuration_is_checked(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=field if field != "final_lr" else "final"):
        TrainConfig(data=Path("data"), **{field: value})  # type: ignore[arg-type]


def test_configuration_needs_data() -> None:
    with pytest.raises(InvalidInputError, match="data: expected a dataset folder"):
        TrainConfig(train_json=Path("a.json"))


def test_configuration_survives_json() -> None:
    config = resolve(TrainConfig(data=Path("data"), freeze=("backbone.stem",), weights=Path("w.safetensors")))
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert (config.size, config.lr, config.backbone_lr) == (320, 4e-3, 2e-3)
    with pytest.raises(InvalidInputError, match="got speed"):
        TrainConfig.from_json({**config.to_json(), "speed": 1})


@pytest.mark.parametrize("name", ["tpu", "xpu", "cuda:99"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(InvalidInputError, match="device: expected"):
        device_of(name)


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(InvalidInputError, match="expected fp32 or bf16 on a CPU"):
        resolve(TrainConfig(data=Path("data"), precision="fp16", device="cpu"))


# Whole runs


def test_a_run_learns_and_leaves_everything(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path / "run", epochs=12, batch=3, crop=0.0, zoom_out=0.0, photometric=0.0)
    result = trainer.train(config)
    run = result.run
    assert {file.name for file in run.iterdir()} == {
        "config.json", "best.safetensors", "last.safetensors", "state.json", "state-000024.safetensors",
        "metrics.jsonl", "curve.png", "first_batch.png", "tensorboard",
    }  # fmt: skip
    records = read_metrics(run / "metrics.jsonl")
    losses = [record["loss"] for record in records if record["kind"] == "step"]
    assert [record["step"] for record in records if record["kind"] == "step"] == [10, 20, 24]
    assert losses[-1] < losses[0]
    assert [record["epoch"] for record in records if record["kind"] == "validation"] == [3, 6, 9, 12]
    assert result.best["AP"] == max(record["AP"] for record in records if record["kind"] == "validation")
    with Image.open(run / "first_batch.png") as picture:
        assert picture.size == (3 * 160, 160)
    with Image.open(run / "curve.png") as picture:
        assert picture.width > 300
    assert list((run / "tensorboard").iterdir())
    assert json.loads((run / "config.json").read_text())["ema_decay"] == default_decay(24)
    with pytest.raises(InvalidInputError, match="got one with a run in it"):
        trainer.train(config)


def test_bad_weights_are_refused_before_a_run_folder_appears(data: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"not tensors")
    config = tiny_config(data, tmp_path / "run", weights=tmp_path / "weights.safetensors")
    with pytest.raises(Error, match=r"weights\.safetensors: expected"):
        trainer.train(config)
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_the_weights_of_another(data: Path, tmp_path: Path) -> None:
    config = resolve(tiny_config(data, tmp_path / "a", epochs=1))
    trainer.train(config)
    dataset, validation = load_splits(data, None, None)
    learner = build_learner(
        replace(config, ema_decay=0.9, weights=tmp_path / "a" / "best.safetensors"),
        dataset=dataset,
        validation=validation,
        total=1,
    )
    fresh = build_model(config, num_classes=2)
    changed = [
        name for name, p in learner.model.named_parameters() if not torch.equal(p, dict(fresh.named_parameters())[name])
    ]
    assert len(changed) > 50
    assert copy.deepcopy(learner.ema.module.state_dict()).keys() == fresh.state_dict().keys()


def test_bf16_trains_and_gives_full_precision_weights(data: Path, tmp_path: Path) -> None:
    result = trainer.train(tiny_config(data, tmp_path / "run", epochs=1, precision="bf16"))
    weights = load_file(result.run / "last.safetensors")
    assert all(tensor.dtype in (torch.float32, torch.int64, torch.bool) for tensor in weights.values())
    assert all(tensor.isfinite().all() for name, tensor in weights.items() if name != "decoder.anchors")

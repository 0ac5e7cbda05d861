"""Recipes against the published files: figures typed in once more, and the patterns that choose parameters."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from edgedet import InvalidInputError
from training.config import TrainConfig
from training.models.decoder import DecoderConfig
from training.models.zoo import MODELS, detector_config
from training.optim import freeze, parameter_groups, set_training_mode
from training.recipes import (
    PUBLISHED,
    build_criterion,
    build_model,
    model_config,
    recipe_for,
    recipe_table,
    resolve,
    summary,
)

ROOT = Path(__file__).resolve().parent.parent


@cache
def network(name: str) -> nn.Module:
    """The network of a name without memory for its weights."""
    with torch.device("meta"):
        return build_model(TrainConfig(data=Path("data"), model=name), num_classes=80)


def config(**options: object) -> TrainConfig:
    return resolve(TrainConfig(data=Path("data"), **options))  # type: ignore[arg-type]


def test_every_model_has_a_recipe() -> None:
    assert set(PUBLISHED) == set(MODELS)
    with pytest.raises(InvalidInputError, match="model: expected one of"):
        recipe_for("yolo", published=True)


# epochs, batch, lr, backbone lr, weight decay, warm-up steps, EMA warm-up, last epochs without augmentation
@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("rtdetr-r18", (72, 16, 1e-4, 1e-5, 1e-4, 0, 2000, 0)),
        ("rtdetr-r101", (72, 16, 1e-4, 1e-6, 1e-4, 0, 2000, 0)),
        ("rtdetrv2-r18", (120, 16, 1e-4, 1e-4, 1e-4, 2000, 2000, 3)),
        ("rtdetrv2-r34", (120, 16, 1e-4, 5e-5, 1e-4, 2000, 2000, 3)),
        ("rtdetrv2-r50m", (84, 16, 1e-4, 1e-5, 1e-4, 2000, 2000, 3)),
        ("rtdetrv2-r50", (72, 16, 1e-4, 1e-5, 1e-4, 2000, 2000, 1)),
        ("rtdetrv2-r50m-dsp", (36, 16, 1e-4, 1e-5, 1e-4, 2000, 2000, 3)),
        ("rtdetrv2-r34-dsp", (12, 16, 1e-4, 5e-5, 1e-4, 2000, 2000, 2)),
        ("dfine-n", (160, 128, 8e-4, 4e-4, 1e-4, 500, 1000, 12)),
        ("dfine-s", (132, 32, 2e-4, 1e-4, 1e-4, 500, 1000, 12)),
        ("dfine-m", (132, 32, 2e-4, 2e-5, 1e-4, 500, 1000, 12)),
        ("dfine-l", (80, 32, 2.5e-4, 1.25e-5, 1.25e-4, 500, 1000, 8)),
        ("dfine-x", (80, 32, 2.5e-4, 2.5e-6, 1.25e-4, 500, 1000, 8)),
        ("deim-n", (160, 128, 8e-4, 4e-4, 1e-4, 2000, 1000, 12)),
        ("deim-s", (132, 32, 4e-4, 2e-4, 1e-4, 2000, 1000, 12)),
        ("rtdetrv4-m", (102, 32, 4e-4, 4e-5, 1e-4, 2000, 1000, 12)),
        ("rtdetrv4-l", (58, 32, 5e-4, 2.5e-5, 1.25e-4, 2000, 1000, 8)),
        ("deim-x", (58, 32, 5e-4, 5e-6, 1.25e-4, 2000, 1000, 8)),
        ("atto", (500, 128, 2e-3, 1e-3, 1e-4, 4000, 1000, 100)),
        ("femto", (500, 128, 1.6e-3, 8e-4, 1e-4, 4000, 1000, 100)),
        ("pico", (500, 128, 1.6e-3, 8e-4, 1e-4, 4000, 1000, 100)),
        ("deimv2-n", (160, 128, 8e-4, 4e-4, 1e-4, 2000, 1000, 12)),
        ("edge-r18", (36, 8, 1e-3, 1e-4, 1e-4, 500, 1000, 0)),
        ("edge-r50", (72, 8, 1e-3, 1e-4, 1e-4, 500, 1000, 0)),
    ],
)
def test_figures_are_the_published_ones(name: str, figures: tuple[float, ...]) -> None:
    recipe = recipe_for(name, published=True)
    assert figures == (
        recipe.epochs, recipe.batch, recipe.lr, recipe.backbone_lr, recipe.weight_decay, recipe.warmup_steps,
        recipe.ema_warmup, recipe.gentle_epochs,
    )  # fmt: skip


# first epoch of augmentation, end of mosaic and mixup, their probabilities, restart, multi-scale, least box
@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("dfine-s", (0, 0, 0, 0, 0, 12, 0.9999, 20, 1)),
        ("dfine-x", (0, 0, 0, 0, 0, 8, 0.9998, 3, 1)),
        ("deim-n", (4, 78, 0.5, 0.5, 0, 12, 0.9999, 0, 1)),
        ("deim-m", (4, 49, 0.5, 0.5, 0, 12, 0.9999, 6, 1)),
        ("rtdetrv4-x", (4, 29, 0.5, 0.5, 0, 8, 0.9998, 3, 1)),
        ("deimv2-n", (4, 78, 0.5, 0.5, 0.4, 12, 0.9999, 0, 1)),
        ("atto", (4, 250, 0.3, 0, 0, 32, 0.9999, 0, 12)),
        ("femto", (4, 250, 0.5, 0, 0, 32, 0.9999, 0, 10)),
        ("pico", (4, 250, 0.5, 0, 0, 32, 0.9999, 0, 8)),
    ],
)
def test_augmentation_is_the_published_one(name: str, figures: tuple[float, ...]) -> None:
    recipe = recipe_for(name, published=True)
    assert figures == (
        recipe.plain_epochs, recipe.mix_epochs, recipe.mosaic, recipe.mixup, recipe.copy_blend, recipe.restart_epochs,
        recipe.restart_decay, recipe.multi_scale, recipe.min_box,
    )  # fmt: skip


BACKBONE, BACKBONE_NORM = "^(?=.*backbone)(?!.*norm|bn).*$", "^(?=.*backbone)(?=.*norm|bn).*$"
REST_ALL = "^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn|bias)).*$"
REST_NORM = "^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn)).*$"
# The groups of the published files: a pattern with what it changes, the rate or the decay.
GROUPS: dict[str, list[tuple[str, dict[str, float]]]] = {
    "rtdetr-r18": [
        ("^(?=.*backbone)(?=.*norm).*$", {"lr": 1e-5, "decay": 0}),
        ("^(?=.*backbone)(?!.*norm).*$", {"lr": 1e-5}),
        ("^(?=.*(?:encoder|decoder))(?=.*(?:norm|bias)).*$", {"decay": 0}),
    ],
    "rtdetr-r101": [("backbone", {"lr": 1e-6})],
    "rtdetrv2-r18": [("^(?=.*(?:norm|bn)).*$", {"decay": 0})],
    "rtdetrv2-r34": [(BACKBONE, {"lr": 5e-5}), (BACKBONE_NORM, {"lr": 5e-5, "decay": 0}), (REST_ALL, {"decay": 0})],
    "rtdetrv2-r50": [("^(?=.*backbone)(?!.*norm).*$", {"lr": 1e-5}), (REST_NORM, {"decay": 0})],
    "dfine-n": [(BACKBONE, {"lr": 4e-4}), (BACKBONE_NORM, {"lr": 4e-4, "decay": 0}), (REST_ALL, {"decay": 0})],
    "dfine-l": [(BACKBONE, {"lr": 1.25e-5}), (REST_NORM, {"decay": 0})],
    "deim-s": [("^(?=.*backbone)(?!.*bn).*$", {"lr": 2e-4}), ("^(?=.*(?:norm|bn)).*$", {"decay": 0})],
    "deim-l": [(BACKBONE, {"lr": 2.5e-5}), (REST_NORM, {"decay": 0})],
    "atto": [(BACKBONE, {"lr": 1e-3}), (BACKBONE_NORM, {"lr": 1e-3, "decay": 0}), (REST_NORM, {"decay": 0})],
    "femto": [(BACKBONE, {"lr": 8e-4}), (BACKBONE_NORM, {"lr": 8e-4, "decay": 0}), (REST_ALL, {"decay": 0})],
    "edge-r18": [("backbone", {"lr": 1e-4})],
}


@pytest.mark.parametrize("name", GROUPS)
def test_parameter_groups_are_those_of_the_published_patterns(name: str) -> None:
    model, recipe = network(name), recipe_for(name, published=True)
    freeze(model, recipe.freeze, norms=recipe.freeze_norm)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    groups = parameter_groups(
        model, lr=recipe.lr, backbone_lr=recipe.backbone_lr, backbone_norm_lr=recipe.backbone_norm_lr,
        weight_decay=recipe.weight_decay, no_decay=recipe.no_decay,
    )  # fmt: skip
    ours = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]  # type: ignore[attr-defined]
    }
    hgnet = not name.startswith(("rtdetr", "edge"))
    for key, got in ours.items():
        # The batch norms of HGNetv2 are called bn there.
        theirs = key.replace(".norm.", ".bn.") if hgnet and key.startswith("backbone.") else key
        lr, decay = recipe.lr, recipe.weight_decay
        for pattern, change in GROUPS[name]:
            if re.findall(pattern, theirs):
                lr, decay = change.get("lr", lr), change.get("decay", decay)
                break
        assert got == (lr, decay), theirs
    assert len(ours) > 50


@pytest.mark.parametrize("name", [name for name, recipe in PUBLISHED.items() if recipe.freeze])
def test_what_is_frozen_stays(name: str) -> None:
    model, recipe = network(name), recipe_for(name, published=True)
    freeze(model, recipe.freeze, norms=recipe.freeze_norm)
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert not {key for key in trained if key.startswith(recipe.freeze)}
    assert not {key for key in trained if key.startswith("backbone.") and "norm" in key}
    assert {key for key in trained if key.startswith("encoder.") and "norm" in key}
    set_training_mode(model, frozen=recipe.freeze, freeze_norm=recipe.freeze_norm)
    modes = {
        key.split(".")[0]: module.training
        for key, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    assert modes["encoder"]
    assert not modes["backbone"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_losses_fit_the_networks(name: str) -> None:
    criterion, decoder = PUBLISHED[name].criterion, detector_config(name).decoder
    direct = not isinstance(decoder, DecoderConfig) or decoder.refinement == "direct"
    assert (criterion.fgl_weight == 0) == (direct or name in ("atto", "femto", "pico"))
    assert (criterion.ddf_weight == 0) == (criterion.fgl_weight == 0) == (not criterion.union_set)
    if isinstance(decoder, DecoderConfig) and not direct:
        assert (criterion.reg_max, criterion.reg_scale, criterion.up) == (
            decoder.reg_max,
            decoder.reg_scale,
            decoder.up,
        )
    expected = "vfl" if name.startswith(("rtdetr-", "rtdetrv2", "dfine")) else "mal"
    assert criterion.classification == ("focal" if name.startswith("edge") else expected)


def test_the_matcher_changes_where_deimv2_changes_it() -> None:
    def change(**options: object) -> int | None:
        return build_criterion(config(**options)).config.matcher.change_epoch

    assert change(model="atto", recipe="published") == 450
    assert change(model="deimv2-n", recipe="published") == 136
    assert change(model="deim-n", recipe="published") is None
    assert change(model="atto") is None
    assert change(model="atto", epochs=20, iou_match_epochs=5) == 15


# Filling in


def test_given_options_win() -> None:
    options = {
        "epochs": 7, "batch": 4, "lr": 1e-3, "backbone_lr": 1e-4, "mosaic": 0.0, "freeze": (), "freeze_norm": "none",
        "mix_epochs": 5, "no_decay": ("vectors",), "ema_decay": 0.5, "flip": 0.0, "schedule": "one-cycle", "size": 320,
    }  # fmt: skip
    resolved = config(model="dfine-l", recipe="published", **options)
    assert {name: getattr(resolved, name) for name in options} == options


def test_published_rates_follow_the_batch() -> None:
    resolved = config(model="deim-s", recipe="published", batch=8)
    assert (resolved.lr, resolved.backbone_lr, resolved.backbone_norm_lr) == pytest.approx((1e-4, 5e-5, 1e-4))
    text = summary(resolved)
    assert "for a batch of 32 and scaled linearly" in text
    assert "deim_hgnetv2_s_coco.yml" in text
    assert "scaled" not in summary(config(model="deim-s", recipe="published"))
    assert config(model="deim-s", recipe="published", batch=8, lr=4e-4).backbone_lr == pytest.approx(2e-4)
    # Rates of short runs hold for the usual batches.
    assert config(batch=8).lr == config(batch=16).lr == 4e-3


def test_published_epochs_follow_the_length() -> None:
    resolved = config(model="deim-l", recipe="published", epochs=29)
    assert (resolved.plain_epochs, resolved.mix_epochs, resolved.gentle_epochs, resolved.restart_epochs) == (
        2,
        14,
        4,
        4,
    )
    policy = resolved.policy()
    assert (policy.start, policy.mix_stop, policy.stop) == (2, 14, 25)
    assert "scaled to 29" in summary(resolved)
    schedule = resolved.schedule_for(29_000)
    assert schedule.factor(14_400) == 1.0
    assert schedule.factor(14_600) < 1.0
    assert schedule.factor(25_001) == 0.5


def test_sizes_that_the_model_cannot_take_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"\(96, 96\) has 45 cells"):
        config(size=160, multi_scale=1)
    assert config(size=224, multi_scale=1).policy().sizes == (160, 192, 224, 256, 224)


@pytest.mark.parametrize(
    ("device", "cores", "processes", "workers"),
    [
        ("cpu", 12, None, 8), ("cpu", 6, None, 4), ("cpu", 6, 1, 4), ("cpu", 12, 2, 4), ("cpu", 12, 4, 1),
        ("cpu", 7, 2, 1), ("cpu", 2, 4, 0), ("cuda", 12, None, 8), ("cuda", 12, 4, 2),
    ],
)  # fmt: skip
def test_processes_share_the_cores_of_their_machine(
    monkeypatch: pytest.MonkeyPatch, device: str, cores: int, processes: int | None, workers: int
) -> None:
    """Each has two threads, which matter where it trains on a CPU, or one that feeds its GPU."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    options = {"device": device, "threads": 2, "precision": "fp32"}
    assert config(workers=-1, **options).workers == workers
    assert config(workers=3, **options).workers == 3


def test_a_whole_published_policy() -> None:
    policy = config(model="deim-l", recipe="published").policy()
    assert (policy.start, policy.mix_stop, policy.stop) == (4, 29, 50)
    assert policy.sizes.count(640) == 4
    assert config(model="rtdetr-r18", recipe="published").policy().stop == 72


def test_short_runs_are_gentle() -> None:
    for name in PUBLISHED:
        recipe = recipe_for(name, published=False)
        assert (recipe.epochs, recipe.batch, recipe.schedule) == (50, 16, "one-cycle")
        assert (recipe.mosaic, recipe.mixup, recipe.copy_blend, recipe.crop, recipe.zoom_out) == (0, 0, 0, 0, 0)
        assert recipe.criterion == PUBLISHED[name].criterion
    assert config(model="edge-r18").denoising == 0
    with pytest.raises(InvalidInputError, match="denoising: expected 0 for edge-r18"):
        model_config("edge-r18", num_classes=2, denoising=10)


def test_the_table_of_the_docs_is_the_one_of_the_code() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert recipe_table(published=True) in text, "run python -m training recipes and put its table in docs/recipes.md"

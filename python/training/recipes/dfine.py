"""D-FINE (Peng et al., 2024), DEIM (Huang et al., 2024) and RT-DETRv4 (Liao et al., 2025), as published.

Figures: Peterande/D-FINE `configs/dfine`, ShihuaHuang95/DEIM `configs/deim_dfine`, RT-DETRs/RT-DETRv4 `configs/rtv4`.
Their patterns for the backbone's norms ("norm|bn" behind an anchor) match no parameter of HGNetv2, so those are
decayed and follow the rate of the backbone, except where the pattern is another one (DEIM and RT-DETRv4 S and M).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from training.losses.criterion import CriterionConfig
from training.recipes.recipe import Recipe
from training.recipes.rtdetr import VARIFOCAL

Size = Literal["n", "s", "m", "l", "x"]


def dfine_recipe(size: Size) -> Recipe:
    """D-FINE: constant rate, strong augmentation, then epochs with flips only from the best weights."""
    large = size in ("l", "x")
    epochs, stop = {"n": (160, 148), "s": (132, 120), "m": (132, 120), "l": (80, 72), "x": (80, 72)}[size]
    batch = 128 if size == "n" else 32
    backbone_lr = {"n": 4e-4, "s": 1e-4, "m": 2e-5, "l": 1.25e-5, "x": 2.5e-6}[size]
    return Recipe(
        source=f"Peterande/D-FINE dfine_hgnetv2_{size}_coco.yml",
        criterion=replace(
            VARIFOCAL, fgl_weight=0.15, ddf_weight=1.5, union_set=True, reg_scale=8.0 if size == "x" else 4.0
        ),
        lr_batch=batch,
        epochs=epochs,
        batch=batch,
        lr={"n": 8e-4, "s": 2e-4, "m": 2e-4, "l": 2.5e-4, "x": 2.5e-4}[size],
        backbone_lr=backbone_lr,
        backbone_norm_lr=backbone_lr,
        weight_decay=1.25e-4 if large else 1e-4,
        no_decay=("norms",) if large else ("norms", "biases"),
        warmup_steps=500,
        restart_epochs=epochs - stop,
        restart_decay=0.9998 if size == "x" else 0.9999,
        freeze=("backbone.stem",) if large else (),
        freeze_norm="backbone" if large else "none",
        multi_scale={"n": 0, "s": 20, "m": 6, "l": 4, "x": 3}[size],
        gentle_epochs=epochs - stop,
    )


def deim_recipe(size: Size) -> Recipe:
    """DEIM: mosaic and mixup in the first half, flat-cosine rates, nothing frozen, matchability-aware loss."""
    base = dfine_recipe(size)
    epochs, mix_epochs, stop = {
        "n": (160, 78, 148), "s": (132, 64, 120), "m": (102, 49, 90), "l": (58, 29, 50), "x": (58, 29, 50),
    }[size]  # fmt: skip
    lr = {"n": 8e-4, "s": 4e-4, "m": 4e-4, "l": 5e-4, "x": 5e-4}[size]
    backbone_lr = {"n": 4e-4, "s": 2e-4, "m": 4e-5, "l": 2.5e-5, "x": 5e-6}[size]
    middle = size in ("s", "m")
    return replace(
        base,
        source=f"ShihuaHuang95/DEIM deim_hgnetv2_{size}_coco.yml",
        criterion=CriterionConfig(reg_scale=base.criterion.reg_scale),
        epochs=epochs,
        lr=lr,
        backbone_lr=backbone_lr,
        backbone_norm_lr=lr if middle else backbone_lr,
        no_decay=("backbone-norms", "norms") if middle else base.no_decay,
        schedule="flat-cosine",
        warmup_steps=2000,
        # N has its flat part end at epoch 7800, which is never.
        flat=1.0 if size == "n" else mix_epochs / epochs,
        tail=(epochs - stop) / epochs,
        final_lr=1.0 if size == "n" else 0.5,
        restart_epochs=epochs - stop,
        freeze=(),
        freeze_norm="none",
        mosaic=0.5,
        mixup=0.5,
        plain_epochs=4,
        mix_epochs=mix_epochs,
        gentle_epochs=epochs - stop,
    )


def rtdetrv4_recipe(size: Literal["s", "m", "l", "x"]) -> Recipe:
    """RT-DETRv4: DEIM's, beside the distillation from DINOv3 that it is about."""
    return replace(deim_recipe(size), source=f"RT-DETRs/RT-DETRv4 rtv4_hgnetv2_{size}_coco.yml")

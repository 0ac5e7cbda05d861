"""RT-DETR (Zhao et al., 2023) and RT-DETRv2 (Lv et al., 2024): the published hyper-parameters on COCO.

Figures: lyuwenyu/RT-DETR, `rtdetr_pytorch/configs/rtdetr` and `rtdetrv2_pytorch/configs/rtdetrv2`, four GPUs of four
images. MultiStep with its milestone at epoch 1000 is a constant rate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from training.config import Undecayed
from training.losses.criterion import CriterionConfig
from training.recipes.recipe import Recipe

Size = Literal["r18", "r34", "r50m", "r50", "r101"]
DiscreteSize = Literal["r18", "r34", "r50m", "r50"]

VARIFOCAL = CriterionConfig(
    classification="vfl", alpha=0.75, gamma=2.0, fgl_weight=0.0, ddf_weight=0.0, union_set=False
)
_NORMS: tuple[Undecayed, ...] = ("backbone-norms", "norms")


def rtdetr_recipe(size: Size) -> Recipe:
    """RT-DETR, 72 epochs (6x): no warm-up, augmentation and multi-scale to the end."""
    frozen = size in ("r50m", "r50", "r101")
    backbone_lr = 1e-6 if size == "r101" else 1e-5
    name = "r50vd_m" if size == "r50m" else f"{size}vd"
    return Recipe(
        source=f"lyuwenyu/RT-DETR rtdetr_{name}_6x_coco.yml",
        criterion=VARIFOCAL,
        lr_batch=16,
        epochs=72,
        batch=16,
        lr=1e-4,
        backbone_lr=backbone_lr,
        backbone_norm_lr=backbone_lr,
        # The list of R101 replaces the one it includes, with which everything is decayed.
        no_decay=() if size == "r101" else ("norms", "biases") if frozen else (*_NORMS, "biases"),
        warmup=0.0,
        ema_warmup=2000,
        freeze=("backbone.conv1",) if frozen else (),
        freeze_norm="backbone" if frozen else "none",
        multi_scale=3,
    )


def rtdetrv2_recipe(size: Size, *, discrete: bool = False) -> Recipe:
    """RT-DETRv2: linear warm-up, and the last epochs with flips only and at one size.

    discrete: the variants with discrete sampling, which start from the weights of the ordinary ones.
    """
    epochs, stop = {"r18": (120, 117), "r34": (120, 117), "r50m": (84, 81), "r50": (72, 71), "r101": (72, 71)}[size]
    length = {120: "120e", 84: "7x", 72: "6x"}[epochs]
    if discrete:
        epochs, stop = {"r18": (36, 33), "r34": (12, 10), "r50m": (36, 33), "r50": (12, 10)}[size]
        length = f"dsp_{epochs // 12}x"
    # R18 has no rate for the backbone: its list of groups replaces the one it includes.
    backbone_lr = {"r18": 1e-4, "r34": 5e-5, "r101": 1e-6}.get(size, 1e-5)
    name = "r50vd_m" if size == "r50m" else f"{size}vd"
    return replace(
        rtdetr_recipe(size),
        source=f"lyuwenyu/RT-DETR rtdetrv2_{name}_{length}_coco.yml",
        epochs=epochs,
        gentle_epochs=epochs - stop,
        backbone_lr=backbone_lr,
        backbone_norm_lr=backbone_lr,
        no_decay={"r18": _NORMS, "r34": (*_NORMS, "biases")}.get(size, ("norms",)),
        warmup=0.1,
        warmup_steps=2000,
        multi_scale=0 if size == "r18" else 3,
    )

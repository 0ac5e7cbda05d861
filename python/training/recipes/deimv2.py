"""DEIMv2 (Huang et al., 2025) on HGNetv2: the published figures on COCO, and short runs that were tried.

Figures: Intellindust-AI-Lab/DEIMv2 `configs/deimv2`. As in D-FINE the norms of the backbone are decayed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from training.losses.criterion import CriterionConfig
from training.recipes.dfine import deim_recipe
from training.recipes.recipe import Recipe, fine_tuning

Size = Literal["atto", "femto", "pico", "n"]


def deimv2_recipe(size: Size) -> Recipe:
    """DEIMv2: 500 epochs for the three smallest, which have no distributions of edges; N as DEIM, with copy-blend."""
    source = f"Intellindust-AI-Lab/DEIMv2 deimv2_hgnetv2_{size}_coco.yml"
    if size == "n":
        return replace(deim_recipe("n"), source=source, copy_blend=0.4, iou_match_epochs=24)
    lr = 2e-3 if size == "atto" else 1.6e-3
    return Recipe(
        source=source,
        criterion=CriterionConfig(fgl_weight=0.0, ddf_weight=0.0, union_set=False),
        lr_batch=128,
        epochs=500,
        batch=128,
        lr=lr,
        backbone_lr=lr / 2,
        backbone_norm_lr=lr / 2,
        no_decay=("norms",) if size == "atto" else ("norms", "biases"),
        schedule="flat-cosine",
        warmup_steps=4000,
        flat=250 / 500,
        tail=32 / 500,
        final_lr=0.5,
        restart_epochs=32,
        iou_match_epochs=50,
        mosaic=0.3 if size == "atto" else 0.5,
        min_box={"atto": 12.0, "femto": 10.0, "pico": 8.0}[size],
        plain_epochs=4,
        mix_epochs=250,
        gentle_epochs=100,
    )


def deimv2_fine_tuning(size: Size) -> Recipe:
    """A short run from COCO weights; atto's rates were tried on BCCD (docs/training.md)."""
    recipe = fine_tuning(deimv2_recipe(size))
    if size == "n":
        return recipe
    lr = {"atto": 4e-3, "femto": 2e-3, "pico": 1.6e-3}[size]
    return replace(recipe, lr=lr, backbone_lr=lr / 2, backbone_norm_lr=lr / 2, no_decay=("vectors",))

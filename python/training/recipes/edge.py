"""The 4 GB student of the RT-DETR-KD study and its R50 teacher: what the study trained with, without its distillation.

Figures: umutonuryasar/rt-detr-kd `configs/rtdetr_r18vd_coco.yml` and `rtdetr_r50vd_coco.yml`: batches of 4, two of
them accumulated. Its colour jitter and its random erasing have no equal here; `photometric` is the nearest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from training.losses.criterion import CriterionConfig
from training.losses.matcher import MatcherConfig
from training.recipes.recipe import Recipe


def edge_recipe(size: Literal["r18", "r50"]) -> Recipe:
    """The plain detection training: cosine with a linear rise, flips and colours, no weight average."""
    return Recipe(
        source=f"umutonuryasar/rt-detr-kd rtdetr_{size}vd_coco.yml",
        criterion=replace(
            CriterionConfig(fgl_weight=0.0, ddf_weight=0.0, union_set=False),
            classification="focal",
            alpha=0.25,
            gamma=2.0,
            matcher=MatcherConfig(class_cost=1.0),
        ),
        lr_batch=8,
        epochs=36 if size == "r18" else 72,
        batch=8,
        lr=1e-3,
        backbone_lr=1e-4,
        backbone_norm_lr=1e-4,
        no_decay=(),
        schedule="cosine",
        warmup_steps=500,
        final_lr=0.0,
        ema_decay=0.0,
        photometric=0.8,
        channel_shuffle=0.0,
        crop=0.0,
        zoom_out=0.0,
    )

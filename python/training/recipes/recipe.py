"""What a recipe is: the options of a training run that belong to a model, all of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from training.config import NormScope, TrainConfig, Undecayed
from training.losses.criterion import CriterionConfig
from training.schedule import ScheduleKind


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The options of `TrainConfig` of the same names, and what only the model decides.

    The defaults are what most of the published recipes share. source: the file the figures are from. criterion: the
    loss. lr_batch: the images per step that the learning rates are meant for, to which they are scaled linearly; None
    for rates that hold for the usual 8 to 16.
    """

    source: str
    criterion: CriterionConfig
    lr_batch: int | None
    epochs: int
    batch: int
    lr: float
    backbone_lr: float
    backbone_norm_lr: float
    weight_decay: float = 1e-4
    no_decay: tuple[Undecayed, ...] = ("norms", "biases")
    clip: float = 0.1
    schedule: ScheduleKind = "step"
    warmup: float = 0.1
    warmup_steps: int = 0
    flat: float = 1.0
    tail: float = 0.0
    final_lr: float = 1.0
    milestones: tuple[int, ...] = ()
    ema_decay: float | None = 0.9999
    ema_warmup: int | None = 1000
    restart_epochs: int = 0
    restart_decay: float = 0.9999
    freeze: tuple[str, ...] = ()
    freeze_norm: NormScope = "none"
    iou_match_epochs: int = 0
    flip: float = 0.5
    # torchvision draws each kind of change with 1/2; here 1/2 is also within, so that 1 is the same.
    photometric: float = 1.0
    channel_shuffle: float = 0.5
    crop: float = 0.8
    zoom_out: float = 0.5
    zoom_limit: float = 4.0
    mosaic: float = 0.0
    mixup: float = 0.0
    copy_blend: float = 0.0
    fill: int = 0
    min_box: float = 1.0
    multi_scale: int = 0
    plain_epochs: int = 0
    mix_epochs: int = 0
    gentle_epochs: int = 0


OPTIONS = tuple(f.name for f in fields(Recipe) if f.name in {option.name for option in fields(TrainConfig)})
"""The fields of a recipe that are options of the command line too."""


def fine_tuning(published: Recipe) -> Recipe:
    """A short run from trained weights, derived from the published recipe; tried for atto and femto only.

    Fifty epochs of batch 16 or less in one cycle at the published rates, flips and colours only, and a weight average
    that is fitted to the length of the run. What is frozen and the loss stay as published.
    """
    return replace(
        published,
        source="derived from the published recipe",
        lr_batch=None,
        epochs=50,
        batch=16,
        schedule="one-cycle",
        warmup=0.1,
        warmup_steps=0,
        flat=0.5,
        tail=0.0,
        final_lr=0.01,
        milestones=(),
        ema_decay=None,
        ema_warmup=None,
        restart_epochs=0,
        iou_match_epochs=0,
        photometric=0.5,
        channel_shuffle=0.0,
        crop=0.0,
        zoom_out=0.0,
        zoom_limit=2.5,
        mosaic=0.0,
        mixup=0.0,
        copy_blend=0.0,
        fill=114,
        min_box=1.0,
        multi_scale=0,
        plain_epochs=0,
        mix_epochs=0,
        gentle_epochs=0,
    )

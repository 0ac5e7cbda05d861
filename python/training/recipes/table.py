"""The recipes as a table for people; docs/recipes.md holds what this prints."""

from __future__ import annotations

from collections.abc import Callable

from training.losses.criterion import CriterionConfig
from training.recipes.catalogue import PUBLISHED, recipe_for
from training.recipes.recipe import Recipe


def recipe_table(*, published: bool) -> str:
    """Every model's recipe as a Markdown table, one row per model. Empty cells: not used."""
    rows = [["model", *_COLUMNS], ["---"] * (len(_COLUMNS) + 1)]
    for name in PUBLISHED:
        recipe = recipe_for(name, published=published)
        rows.append([name, *(column(recipe) for column in _COLUMNS.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _schedule(recipe: Recipe) -> str:
    if recipe.schedule == "flat-cosine" and recipe.final_lr < 1.0:
        return f"flat to {recipe.flat:.2f}, then cosine to {recipe.final_lr:g}"
    if recipe.schedule == "cosine" or recipe.schedule == "one-cycle":
        return f"{recipe.schedule} to {recipe.final_lr:g}"
    return "constant"


def _warmup(recipe: Recipe) -> str:
    if recipe.warmup == 0.0:
        return ""
    return str(recipe.warmup_steps) if recipe.warmup_steps else f"{recipe.warmup:.0%} of the run"


def _loss(criterion: CriterionConfig) -> str:
    parts = [criterion.classification, "l1", "giou"]
    parts += ["fgl"] if criterion.fgl_weight else []
    parts += ["ddf"] if criterion.ddf_weight else []
    return " ".join(parts)


def _restart(recipe: Recipe) -> str:
    return f"{recipe.restart_epochs} at {recipe.restart_decay:g}" if recipe.restart_epochs else ""


def _epochs(recipe: Recipe) -> str:
    """Where the first, the mixing and the strong part of a run end."""
    stop = recipe.epochs - recipe.gentle_epochs
    return f"{recipe.plain_epochs}, {recipe.mix_epochs or stop}, {stop}"


def _some(*names: str) -> Callable[[Recipe], str]:
    """The values of some fields, empty where all are 0."""

    def column(recipe: Recipe) -> str:
        values = [getattr(recipe, name) for name in names]
        return " / ".join(f"{value:g}" for value in values) if any(values) else ""

    return column


_COLUMNS: dict[str, Callable[[Recipe], str]] = {
    "epochs": lambda recipe: str(recipe.epochs),
    "batch": lambda recipe: str(recipe.batch),
    "lr": lambda recipe: f"{recipe.lr:g}",
    "backbone lr": lambda recipe: f"{recipe.backbone_lr:g}",
    "its norms": lambda recipe: f"{recipe.backbone_norm_lr:g}",
    "decay": lambda recipe: f"{recipe.weight_decay:g}",
    "not decayed": lambda recipe: ", ".join(recipe.no_decay),
    "schedule": _schedule,
    "warm-up": _warmup,
    "EMA": lambda recipe: "fitted" if recipe.ema_decay is None else f"{recipe.ema_decay:g}",
    "EMA warm-up": lambda recipe: "fitted" if recipe.ema_warmup is None else str(recipe.ema_warmup),
    "restart": _restart,
    "frozen": lambda recipe: ", ".join(
        (*recipe.freeze, *([] if recipe.freeze_norm == "none" else [f"norms ({recipe.freeze_norm})"]))
    ),
    "loss": lambda recipe: _loss(recipe.criterion),
    "IoU matching": _some("iou_match_epochs"),
    "mosaic / mixup / copy-blend": _some("mosaic", "mixup", "copy_blend"),
    "crop / zoom-out": _some("crop", "zoom_out"),
    "colours / channels": _some("photometric", "channel_shuffle"),
    "plain to, mixing to, strong to": _epochs,
    "multi-scale": _some("multi_scale"),
    "min box": _some("min_box"),
    "source": lambda recipe: recipe.source,
}

"""Every recipe by the name of its model."""

from __future__ import annotations

from typing import get_args

from edgedet import InvalidInputError
from training.recipes import deimv2, dfine, rtdetr
from training.recipes.deimv2 import deimv2_fine_tuning, deimv2_recipe
from training.recipes.dfine import deim_recipe, dfine_recipe, rtdetrv4_recipe
from training.recipes.edge import edge_recipe
from training.recipes.recipe import Recipe, fine_tuning
from training.recipes.rtdetr import rtdetr_recipe, rtdetrv2_recipe

PUBLISHED: dict[str, Recipe] = {
    **{f"rtdetr-{size}": rtdetr_recipe(size) for size in get_args(rtdetr.Size)},
    **{f"rtdetrv2-{size}": rtdetrv2_recipe(size) for size in get_args(rtdetr.Size)},
    **{
        f"rtdetrv2-{size}-dsp": rtdetrv2_recipe(size, discrete=True) for size in get_args(rtdetr.Size) if size != "r101"
    },
    **{f"dfine-{size}": dfine_recipe(size) for size in get_args(dfine.Size)},
    **{f"deim-{size}": deim_recipe(size) for size in get_args(dfine.Size)},
    **{f"rtdetrv4-{size}": rtdetrv4_recipe(size) for size in get_args(dfine.Size) if size != "n"},
    **{("deimv2-n" if size == "n" else size): deimv2_recipe(size) for size in get_args(deimv2.Size)},
    "edge-r18": edge_recipe("r18"),
    "edge-r50": edge_recipe("r50"),
}
_TRIED: dict[str, Recipe] = {size: deimv2_fine_tuning(size) for size in get_args(deimv2.Size) if size != "n"}


def recipe_for(name: str, *, published: bool) -> Recipe:
    """The recipe of a model: its published training, or a short run from trained weights.

    Raises InvalidInputError for a name without a recipe.
    """
    if name not in PUBLISHED:
        raise InvalidInputError(f"model: expected one of {', '.join(PUBLISHED)}, got {name!r}")
    if published:
        return PUBLISHED[name]
    return _TRIED.get(name) or fine_tuning(PUBLISHED[name])

"""What belongs to a model's name: its network, its loss, its hyper-parameters; and how open settings are filled in."""

from training.recipes.build import build_criterion, build_model, input_spec, model_config
from training.recipes.catalogue import PUBLISHED, recipe_for
from training.recipes.recipe import Recipe
from training.recipes.resolve import device_of, resolve, summary
from training.recipes.table import recipe_table

__all__ = [
    "PUBLISHED",
    "Recipe",
    "build_criterion",
    "build_model",
    "device_of",
    "input_spec",
    "model_config",
    "recipe_for",
    "recipe_table",
    "resolve",
    "summary",
]

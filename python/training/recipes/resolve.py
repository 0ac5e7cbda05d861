"""Fills in what a configuration left open, from the recipe of the model and from the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from edgedet import InvalidInputError
from training.config import TrainConfig
from training.distributed import Processes
from training.models.decoder import DecoderConfig
from training.recipes.build import model_config
from training.recipes.catalogue import recipe_for
from training.recipes.recipe import OPTIONS, Recipe

_VIEWS = 8  # of each image in a teacher's cache


def resolve(config: TrainConfig) -> TrainConfig:
    """Fills in what the configuration left open. What it says always stays.

    Published learning rates are scaled linearly to --batch, and epochs of the recipe (when mosaic ends, and so on) to
    --epochs. Raises InvalidInputError for a device that is not there, for a model without a recipe, and for sizes
    that the model cannot take.
    """
    recipe = recipe_for(config.model, published=config.recipe == "published")
    given = {f.name: value for f in fields(config) if (value := getattr(config, f.name)) is not None}
    network = model_config(config.model, num_classes=1)
    denoising = network.decoder.denoising if isinstance(network.decoder, DecoderConfig) else 0
    filled = {**_fitted(recipe, given), "size": network.input_size[0], "denoising": denoising, **given}
    filled.setdefault("views", min(filled["epochs"], _VIEWS) if config.teacher_cache is not None else 0)
    resolved = replace(config, **{**filled, **_machine(config)})
    for size in resolved.policy().sizes:
        model_config(config.model, num_classes=1, size=size)
    return resolved


def summary(config: TrainConfig) -> str:
    """What a resolved run takes from its recipe, for people: one or two lines."""
    recipe = recipe_for(config.model, published=config.recipe == "published")
    text = (
        f"recipe:     {config.recipe} ({recipe.source}), {config.epochs} epochs of batch {config.batch}, "
        f"lr {config.lr:.3g}, backbone {config.backbone_lr:.3g}"
    )
    notes = []
    if recipe.lr_batch not in (None, config.batch):
        notes.append(f"its rates are for a batch of {recipe.lr_batch} and scaled linearly unless given")
    if config.recipe == "published" and config.epochs != recipe.epochs:
        notes.append(f"its epochs are for {recipe.epochs} and scaled to {config.epochs} unless given")
    return text + (f"\n            {'; '.join(notes)}" if notes else "")


def _fitted(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a recipe for a run with the options that are given."""
    values = {name: getattr(recipe, name) for name in OPTIONS}
    scale = 1.0 if recipe.lr_batch is None else given.get("batch", recipe.batch) / recipe.lr_batch
    if "lr" in given:
        scale = given["lr"] / recipe.lr
    for name in ("lr", "backbone_lr", "backbone_norm_lr"):
        values[name] *= scale
    if "backbone_lr" in given:
        values["backbone_norm_lr"] = given["backbone_lr"] * recipe.backbone_norm_lr / recipe.backbone_lr
    stretch = given.get("epochs", recipe.epochs) / recipe.epochs
    for name in ("plain_epochs", "mix_epochs", "gentle_epochs", "restart_epochs", "iou_match_epochs"):
        values[name] = round(values[name] * stretch)
    values["milestones"] = tuple(max(1, round(mark * stretch)) for mark in recipe.milestones)
    return values


def _machine(config: TrainConfig) -> dict[str, Any]:
    """Device, threads, workers and precision, of each process where several share the machine.

    Raises InvalidInputError for what the machine does not have.
    """
    device = device_of(config.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    cores //= Processes.of_launch().local_world
    threads = config.threads or torch.get_num_threads()
    workers = config.workers
    if workers < 0:
        workers = max(0, min(8, cores - (threads if device.type == "cpu" else 1)))
    precision = config.precision
    if precision == "auto":
        precision = "fp32"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    elif precision == "fp16" and device.type == "cpu":
        raise InvalidInputError("precision: expected fp32 or bf16 on a CPU, got fp16; choose one of them")
    return {"device": str(device), "threads": threads, "workers": workers, "precision": precision}


def device_of(name: str) -> torch.device:
    """The device of a name; "auto" takes a GPU if there is one. Raises InvalidInputError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInputError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidInputError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidInputError(f"device: expected a GPU that PyTorch sees, got {name!r}; use --device cpu or auto")
    return device

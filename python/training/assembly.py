"""From a configuration to the parts of a run."""

from __future__ import annotations

from typing import cast

import torch

from training.config import TrainConfig
from training.data.dataset import CocoDataset
from training.distributed import Processes
from training.ema import Ema, warmup_updates
from training.loop import Learner, Precision
from training.models.detector import Detector
from training.optim import build_adamw, freeze, parameter_groups
from training.recipes import build_criterion, build_model, input_spec
from training.teachers.attach import attach
from training.weights.load import load_backbone, load_pretrained


def build_learner(
    config: TrainConfig,
    *,
    dataset: CocoDataset,
    validation: CocoDataset,
    total: int,
    fresh: bool = True,
    processes: Processes | None = None,
) -> Learner:
    """The network with its loss, optimizer, average, and teachers if there are any, on the device of this process.

    config: resolved. dataset: what will be trained on. validation: where teachers are tried. total: steps of the run.
    fresh: start from the weights that the configuration names, if any; else their values do not matter, because a saved
    state will replace them.
    Raises InvalidInputError or ModelError for weights or teachers that do not fit.
    """
    processes = processes or Processes()
    assert config.ema_decay is not None
    device = processes.device(config.device)
    model = build_model(config, num_classes=len(dataset.categories.names))
    if fresh and (report := _load(config, model, dataset)) and processes.first:
        print(report)
    model.to(device)
    freeze(model, config.freeze, norms=config.freeze_norm)
    groups = parameter_groups(
        model,
        lr=config.lr,
        backbone_lr=config.backbone_lr,
        backbone_norm_lr=config.backbone_norm_lr,
        weight_decay=config.weight_decay,
        no_decay=config.no_decay,
    )
    distiller, teachers = None, None
    if config.teacher:
        distiller, teachers = attach(
            config,
            model,
            dataset=dataset,
            validation=validation,
            spec=input_spec(config.size, model=config.model),
            device=device,
            say=print if processes.first else _say_nothing,
        )
        if extra := [*distiller.parameters()]:
            groups.append({"params": extra, "lr": config.lr, "base_lr": config.lr, "weight_decay": 0.0})
    learner = Learner(
        model=model,
        criterion=build_criterion(config),
        optimizer=build_adamw(groups),
        schedule=config.schedule_for(total),
        ema=Ema(model, decay=config.ema_decay, warmup=warmup_updates(config.ema_warmup, total)),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        device=device,
        precision=cast(Precision, config.precision),
        clip=config.clip,
        seed=config.seed,
        processes=processes,
        micro_batch=config.micro_batch,
        distiller=distiller,
        teachers=teachers,
    )
    if config.compile:
        model.backbone.compile()
        model.encoder.compile()
    return learner


def _say_nothing(text: str) -> None:
    """What processes say that are not the first."""


def _load(config: TrainConfig, model: Detector, dataset: CocoDataset) -> str:
    """Puts in the weights that the configuration names; says what was taken from them, or nothing."""
    if config.weights is not None:
        spec = input_spec(model.config.input_size[0], model=config.model)
        return str(load_pretrained(model, config.weights, dataset=dataset, spec=spec))
    if config.backbone_weights is not None:
        return str(load_backbone(model, config.backbone_weights))
    return ""

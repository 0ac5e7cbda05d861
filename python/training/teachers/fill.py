"""Teachers that answer in advance, without a student that learns."""

from __future__ import annotations

from dataclasses import replace

import torch

from edgedet import InvalidInputError
from training.config import TrainConfig
from training.distributed import Processes
from training.recipes import resolve
from training.reporting import Console
from training.stop import StopRequests
from training.trainer import Run


def fill_caches(config: TrainConfig) -> list[str]:
    """Asks a run's teachers about each of its batches that their caches do not know. Returns lines about the caches.

    The batches are those of the run, because the last digits of an answer depend on the batch; so the run that follows
    equals one that fills its caches itself. Ctrl-C and SIGTERM end it after the current batch.
    Raises InvalidInputError without a teacher cache, else as `train` does.
    """
    if config.teacher_cache is None:
        raise InvalidInputError("cache: expected --teacher-cache DIR, where the answers are kept, got none")
    run = Run(resolve(replace(config, compile=False)), Processes(), fresh=True)
    learner, batches = run.learner, run.batches
    assert learner.teachers is not None
    assert learner.distiller is not None
    needed = learner.distiller.needs().keys()
    with StopRequests() as stop, Console(total=run.total) as console:
        for epoch in range(run.config.epochs):
            keys = batches.keys_of(epoch)
            missing = [step for step, each in enumerate(keys) if not learner.teachers.have(each)]
            if not missing:
                continue
            steps = enumerate(batches.epoch(epoch, first_step=missing[0]), missing[0])
            for step, batch in steps:
                if step in missing:
                    with torch.no_grad(), run.autocast():
                        learner.teachers(batch.to(learner.device), needed)
                console.step(epoch * batches.steps + step + 1, f"epoch {epoch + 1}/{run.config.epochs}")
                if step == missing[-1] or stop.signal:
                    break
            if stop.signal:
                console.say("stopped; the same command goes on")
                break
    return learner.teachers.reports()

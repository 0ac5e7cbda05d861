"""A whole run: data, network, epochs, validation, saves, and what is said about them."""

from __future__ import annotations

import math
import signal
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from edgedet import Error, InvalidInputError, ModelError
from edgedet.coco_eval import load_annotations
from training.assembly import build_learner
from training.config import TrainConfig, read_config
from training.data.batches import Batch, TrainingBatches
from training.data.formats import load_splits
from training.distributed import Processes
from training.ema import default_decay, tensors_of
from training.evaluate import evaluate_model
from training.files import write_json
from training.guard import MOST_FILES, BadBatch, recent, save_bad_batch, too_many
from training.journal import Journal
from training.keeper import Keeper
from training.loop import StepResult, autocast, train_steps
from training.memory import OutOfMemoryError, keep_freed_memory, limit_memory, parse_bytes, peak_bytes, readable_bytes
from training.models.detector import Detector
from training.optim import set_training_mode
from training.pictures import draw_batch
from training.recipes import input_spec, resolve, summary
from training.rehearsal import rehearse
from training.reporting import Console
from training.run_state import Progress, is_finite, load_state, suggest_micro_batch
from training.stop import StopRequests
from training.weights.load import load_weights

_ROLLBACK_RATE = 0.5  # what the learning rates are multiplied by when training goes back to an earlier state


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    best: metrics of the best validation; seconds: of training, without validation. signal: the number of the one that
    asked the run to stop, 0 if it went to its end. first: whether this is the process that reports.
    """

    run: Path
    best: dict[str, float]
    seconds: float
    signal: int = 0
    first: bool = True


def train(config: TrainConfig) -> RunResult:
    """Trains, from scratch or from given weights, into a new run folder.

    Ctrl-C, SIGTERM and SIGHUP end the run after the current step, with a state that can be resumed. Where torchrun
    starts processes again after a failure (--max-restarts), a run of the same configuration continues.
    Raises InvalidInputError for a run folder that is in use, bad data or settings; ModelError when training diverges;
    Error when the run cannot be saved.
    """
    config, processes = resolve(config), Processes.of_launch()
    if (config.out / "config.json").exists():
        # What may differ is fitted to the length of the run, or to a machine, which need not be the one before.
        free = {name: getattr(config, name) for name in ("ema_decay", "threads", "workers")}
        if processes.elastic and replace(read_config(config.out), **free) == config:
            return resume(config.out)
        raise InvalidInputError(
            f"{config.out}: expected a new run folder, got one with a run in it; "
            f"choose another --out, or continue it with --resume {config.out}"
        )
    return Run(config, processes, fresh=True).execute(None)


def resume(folder: Path) -> RunResult:
    """Continues a run from its last save, with the result it would have had. Raises as `train` does."""
    run = Run(replace(read_config(folder), out=folder), Processes.of_launch(), fresh=False)
    return run.execute(load_state(folder, run.learner))


class Run:
    """Everything a run holds while it goes on."""

    def __init__(self, config: TrainConfig, processes: Processes, *, fresh: bool) -> None:
        self.processes = processes
        self._print(f"run folder: {config.out}")
        if config.threads:
            torch.set_num_threads(config.threads)
        device = processes.device(config.device)
        if device.type == "cpu":
            keep_freed_memory()
        if config.vram_budget is not None:
            self._print(limit_memory(device, parse_bytes(config.vram_budget)))
        dataset, self.validation = load_splits(config.data, config.train_json, config.val_json)
        load_annotations(self.validation.annotations)  # what only evaluation minds should not surface after an epoch
        self._print(f"training:   {dataset.report}\nvalidation: {self.validation.report}")
        self._print(f"classes:    {', '.join(dataset.categories.names)}\n{summary(config)}")

        self.spec = input_spec(config.size, model=config.model)
        self.batches = TrainingBatches(
            dataset,
            spec=self.spec,
            policy=config.policy(),
            batch=config.batch,
            seed=config.seed,
            workers=config.workers,
            threads=config.threads,
            cache_bytes=config.cache_mb << 20,
            views=config.views,
            rank=processes.rank,
            world=processes.world,
        )
        self.total = self.batches.steps * config.epochs
        decay = config.ema_decay if config.ema_decay is not None else default_decay(self.total)
        self.config = replace(config, ema_decay=decay)
        self.learner = build_learner(
            self.config,
            dataset=dataset,
            validation=self.validation,
            total=self.total,
            fresh=fresh,
            processes=processes,
        )
        self.description = {
            "model": config.model,
            "size": config.size,
            "classes": list(dataset.categories.names),
            "category_ids": list(dataset.categories.ids),
        }
        self.most_objects = max(len(sample.labels) for sample in dataset.samples)
        self.stopped_by = 0

    def execute(self, progress: Progress | None) -> RunResult:
        """Trains from `progress`, or from the start, to the end or until it is asked to stop."""
        config, learner, processes = self.config, self.learner, self.processes
        done = progress.step if progress else 0
        self._rehearse()
        with (
            processes.joined(learner.device),
            StopRequests() as self.stop,
            Console(total=self.total, done=done, silent=not processes.first) as self.console,
        ):
            size = processes.smallest(min(learner.micro_batch or self._images, self._images))
            learner.micro_batch = 0 if size == self._images else size
            processes.spread([*learner.tensors().values(), *tensors_of(learner.ema.module).values()])
            config.out.mkdir(parents=True, exist_ok=True)
            self.keeper = Keeper(config.out, learner, self.description, say=self.console.say)
            try:
                progress = self._begin() if progress is None else progress
                self.journal = Journal(
                    config.out,
                    self.console,
                    device=learner.device,
                    lr=config.lr,
                    epochs=config.epochs,
                    total=self.total,
                    done=done,
                    silent=not processes.first,
                    distiller=learner.distiller,
                )
                progress = self._epochs(progress)
            except OutOfMemoryError as error:
                suggest_micro_batch(config.out, error.micro_batch)
                raise ModelError(f"{error}. {self._last_save()}") from error
            except Error as error:
                raise type(error)(f"{error}. {self._last_save()}") from error
            except OSError as error:
                raise Error(f"{error}. {self._last_save()}") from error
            self._summarise(progress)
        return RunResult(
            run=config.out,
            best=progress.best,
            seconds=progress.seconds,
            signal=self.stopped_by,
            first=processes.first,
        )

    def _begin(self) -> Progress:
        """Makes the run folder what --resume expects: from here on, a crash costs no more than the last steps."""
        progress, out = Progress(), self.config.out
        self.keeper.save(progress, must=True)
        if self.processes.first:
            write_json(out / "config.json", self.config.to_json())
            names = self.validation.categories.names
            draw_batch(out / "first_batch.png", self.batches.preview(), spec=self.spec, names=names)
        return progress

    def _epochs(self, progress: Progress) -> Progress:
        """Trains to the end, or to where a stop was asked for; saves after each epoch."""
        config = self.config
        try:
            while progress.epoch < config.epochs and not self.stopped_by:
                epoch = progress.epoch
                progress = self._epoch(progress)
                due = progress.epoch % config.eval_every == 0 or progress.epoch == config.epochs
                if progress.epoch > epoch and due:
                    progress = self._validate(progress)
                self.stopped_by = self.stopped_by or self.processes.largest(self.stop.signal)
                progress = self._save(progress, must=bool(self.stopped_by) or progress.epoch == config.epochs)
        finally:
            self.journal.close()
        return progress

    def _epoch(self, progress: Progress) -> Progress:
        """Trains to the end of the epoch, to where a stop is asked for, or to where too many steps were bad."""
        config, epoch = self.config, progress.epoch
        self._restart(progress)
        set_training_mode(self.learner.model, frozen=config.freeze, freeze_norm=config.freeze_norm)
        batches = self.batches.epoch(epoch, first_step=progress.epoch_step)
        started, before = time.perf_counter(), progress.seconds
        micro_batch = self.learner.micro_batch
        for batch, result in train_steps(self.learner, batches, epoch=epoch, first_step=progress.step):
            if self.learner.micro_batch != micro_batch:
                micro_batch = self.learner.micro_batch
                self.console.say(f"step {result.step}: out of memory; from here on {micro_batch} images at a time")
            progress = self._counted(progress, result, seconds=before + time.perf_counter() - started)
            self.journal.step(progress, result, epoch=epoch, micro_batch=micro_batch or self._images)
            if result.bad:
                self._keep_bad_batch(batch, result, progress, epoch=epoch)
                if too_many(progress.bad_steps, step=result.step, limit=config.max_bad_steps):
                    return self._rolled_back(progress, why=result.skipped)
            self.stopped_by = self.processes.largest(self.stop.signal)
            if self.stopped_by or progress.epoch > epoch:
                break
            if progress.step % config.save_every == 0:
                step = progress.step
                progress = self._save(progress)
                if progress.step < step:
                    break
        return progress

    def _restart(self, progress: Progress) -> None:
        """Has the last epochs of a recipe start from the best weights so far, unless the weights are these."""
        config, learner = self.config, self.learner
        assert config.ema_decay is not None
        restarting = progress.epoch >= config.epochs - config.restart_epochs
        learner.ema.decay = config.restart_decay if restarting else config.ema_decay
        first = progress.epoch == config.epochs - config.restart_epochs
        worse = progress.best.get("step", progress.step) < progress.step
        if restarting and progress.epoch_step == 0 and progress.best and (first or worse):
            for model in (learner.model, learner.ema.module):
                load_weights(cast(Detector, model), config.out / "best.safetensors")

    def _counted(self, progress: Progress, result: StepResult, *, seconds: float) -> Progress:
        """The progress after a step."""
        bad_steps = recent(progress.bad_steps, step=result.step, limit=self.config.max_bad_steps)
        if result.bad:
            bad_steps = [*bad_steps, result.step]
        done = progress.epoch_step + 1 == self.batches.steps
        return replace(
            progress,
            step=progress.step + 1,
            epoch=progress.epoch + done,
            epoch_step=0 if done else progress.epoch_step + 1,
            seconds=seconds,
            skipped=progress.skipped + bool(result.skipped),
            bad_steps=bad_steps,
        )

    def _validate(self, progress: Progress) -> Progress:
        """Evaluates the averaged weights and keeps them if they are the best so far."""
        learner = self.learner
        metrics = evaluate_model(
            learner.ema.module,
            self.validation,
            spec=self.spec,
            batch=self.config.eval_batch,
            device=learner.device,
            precision=learner.precision,
            processes=self.processes,
            on_image=self.console.counter(f"epoch {progress.epoch}: validation", len(self.validation)),
        )
        self.journal.validation(progress, metrics)
        if metrics["AP"] <= progress.best.get("AP", -math.inf) or not self.keeper.save_best(progress, metrics):
            return progress
        return replace(progress, best={"step": progress.step, **metrics})

    def _save(self, progress: Progress, *, must: bool = False) -> Progress:
        """Saves the state; where the weights are not finite, goes back to the one before instead."""
        if not is_finite(self.learner):
            progress = self._rolled_back(progress, why="the weights are not finite")
        self.processes.check_equal(self.learner.model.parameters())
        self.keeper.save(progress, must=must)
        return progress

    def _keep_bad_batch(self, batch: Batch, result: StepResult, progress: Progress, *, epoch: int) -> None:
        """Saves the first few batches of a series of bad steps."""
        if len(progress.bad_steps) > MOST_FILES:
            return
        bad = BadBatch(
            batch=batch,
            fullest=result.fullest,
            step=result.step,
            epoch=epoch,
            why=result.skipped,
            tensors=tensors_of(self.learner.model),
            classes=len(self.validation.categories.names),
            config=self.config.to_json(),
        )
        suffix = f".rank{self.processes.rank}" if self.processes.world > 1 else ""
        try:
            save_bad_batch(self.config.out, bad, suffix=suffix)
        except OSError as error:
            self.console.say(f"step {result.step}: the batch could not be saved ({error})")

    def _rolled_back(self, progress: Progress, *, why: str) -> Progress:
        """Goes back to the last saved state, with a lower rate. Raises ModelError if that has not helped before."""
        config, learner = self.config, self.learner
        if progress.rollbacks == config.max_rollbacks:
            replay = f"; see why with python -m training replay {config.out} {progress.bad_steps[-1]}"
            raise ModelError(
                f"step {progress.step - 1}: {why}. {progress.skipped} steps of this run were skipped, and going back "
                f"to an earlier state {progress.rollbacks} times, each time at half the learning rate, has not "
                f"helped; lower --lr, warm up longer, or train in fp32{replay if progress.bad_steps else ''}"
            )
        self.processes.any(False)  # not before the first process has written the state
        rate, micro_batch = learner.rate * _ROLLBACK_RATE, learner.micro_batch
        restored = load_state(config.out, learner)
        learner.rate, learner.micro_batch = rate, micro_batch
        self.journal.rollback(progress, restored, rate=rate, why=why)
        restored = replace(
            restored, seconds=progress.seconds, skipped=progress.skipped, rollbacks=progress.rollbacks + 1
        )
        self.keeper.save(restored)
        return restored

    def _rehearse(self) -> None:
        """Finds the micro-batch that memory allows, with the worst step there can be."""
        learner, config = self.learner, self.config
        set_training_mode(learner.model, frozen=config.freeze, freeze_norm=config.freeze_norm)
        before = learner.micro_batch
        rehearse(
            learner,
            images=self._images,
            side=max((self.spec.width, *config.policy().sizes)),
            objects=self.most_objects * (4 if config.mosaic > 0 else 1) * (2 if config.mixup > 0 else 1),
        )
        if learner.micro_batch != before:
            self._print(
                f"memory:     not enough for {before or self._images} images at a time; taking "
                f"{learner.micro_batch}, the batch stays {config.batch}"
            )

    def autocast(self) -> AbstractContextManager[object]:
        """The context of forward passes."""
        return autocast(self.learner.device, self.learner.precision)

    @property
    def _images(self) -> int:
        """Images of this process per step."""
        return len(self.batches.order(0)[0]) // self.processes.world

    def _summarise(self, progress: Progress) -> None:
        """Says what the end of a run should."""
        peak = self.processes.largest(peak_bytes(self.learner.device))
        self.console.say(
            f"peak memory {readable_bytes(peak)}, {progress.skipped} steps skipped, {progress.rollbacks} returns to an "
            f"earlier state"
        )
        for line in self.learner.teachers.reports() if self.learner.teachers is not None else ():
            self.console.say(line)
        if self.stopped_by:
            name = signal.Signals(self.stopped_by).name
            self.console.say(f"{name}: stopped after step {progress.step}; continue with --resume {self.config.out}")

    def _last_save(self) -> str:
        if (self.config.out / "state.json").exists():
            return f"The last state that was saved is whole: continue it with --resume {self.config.out}"
        return "No state had been saved yet"

    def _print(self, text: str) -> None:
        if self.processes.first:
            print(text)

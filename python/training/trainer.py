"""A whole run: data, network, epochs, validation, checkpoints, and what is said about them."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import cast

import torch

from edgedet import InvalidInputError, ModelError
from edgedet.coco_eval import load_annotations
from training.config import TrainConfig, read_config
from training.data.batches import TrainingBatches
from training.data.formats import load_splits
from training.ema import Ema, default_decay
from training.evaluate import evaluate_model
from training.files import write_json
from training.loop import Learner, Precision, StepResult, train_steps
from training.memory import keep_freed_memory
from training.optim import build_adamw, freeze, parameter_groups, set_training_mode
from training.pictures import draw_batch, draw_curve
from training.recipes import build_criterion, build_model, input_spec, resolve
from training.reporting import Board, Console, MetricsFile
from training.run_state import Progress, load_state, save_state
from training.weights.load import load_pretrained
from training.weights.own import save_weights

_RECORD_EVERY = 10  # steps between records of the loss
_BAD_STEPS = 10  # steps in a row whose gradient is not finite, after which a run has failed


@dataclass(frozen=True)
class RunResult:
    """How a run ended. best: metrics of the best validation; seconds: of training, without validation."""

    run: Path
    best: dict[str, float]
    seconds: float
    interrupted: bool


def train(config: TrainConfig) -> RunResult:
    """Trains, from scratch or from given weights, into a new run folder.

    Ctrl-C or SIGTERM ends the run after the current step, with a state that can be resumed.
    Raises InvalidInputError for a run folder that is in use, bad data or settings; ModelError when training diverges.
    """
    config = resolve(config)
    if (config.out / "config.json").exists():
        raise InvalidInputError(
            f"{config.out}: expected a new run folder, got one with a run in it; "
            f"choose another --out, or continue it with --resume {config.out}"
        )
    run = _Run(config, weights=config.weights)
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(config.out / "config.json", run.config.to_json())
    return run.execute(Progress())


def resume(folder: Path) -> RunResult:
    """Continues a run from its last save, with the result it would have had. Raises as `train` does."""
    run = _Run(replace(read_config(folder), out=folder), weights=None)
    return run.execute(load_state(folder, run.learner))


class _Run:
    """Everything a run holds while it goes on."""

    def __init__(self, config: TrainConfig, *, weights: Path | None) -> None:
        print(f"run folder: {config.out}")
        if config.threads:
            torch.set_num_threads(config.threads)
        if config.device == "cpu":
            keep_freed_memory()
        dataset, self.validation = load_splits(config.data, config.train_json, config.val_json)
        load_annotations(self.validation.annotations)  # what only evaluation minds should not surface after an epoch
        print(f"training:   {dataset.report}\nvalidation: {self.validation.report}")
        print(f"classes:    {', '.join(dataset.categories.names)}")

        assert config.size is not None
        self.spec = input_spec(config.size)
        self.batches = TrainingBatches(
            dataset,
            spec=self.spec,
            augmentation=config.augmentation(),
            batch=config.batch,
            seed=config.seed,
            workers=config.workers,
            cache_bytes=config.cache_mb << 20,
        )
        self.total = self.batches.steps * config.epochs
        decay = config.ema_decay if config.ema_decay is not None else default_decay(self.total)
        self.config = replace(config, ema_decay=decay)
        self.learner = _learner(self.config, classes=len(dataset.categories.names), total=self.total, weights=weights)
        self.description = {
            "model": config.model,
            "size": config.size,
            "classes": list(dataset.categories.names),
            "category_ids": list(dataset.categories.ids),
        }

    def execute(self, progress: Progress) -> RunResult:
        """Trains from `progress` to the end, or until it is asked to stop."""
        config, out = self.config, self.config.out
        categories = self.validation.categories
        if progress.step == 0:
            draw_batch(out / "first_batch.png", next(self.batches.epoch(0)), spec=self.spec, names=categories.names)
        self.metrics = MetricsFile(out / "metrics.jsonl", keep_to_step=progress.step)
        self.board = Board(out / "tensorboard", purge_step=progress.step)
        self.started = time.perf_counter()
        interrupted = False
        with _stop_requests() as stop, Console(total=self.total, done=progress.step) as self.console:
            try:
                while progress.epoch < config.epochs:
                    epoch = progress.epoch
                    progress = self._epoch(progress, stop)
                    due = progress.epoch % config.eval_every == 0 or progress.epoch == config.epochs
                    if progress.epoch > epoch and due:
                        progress = self._validate(progress)
                    self._save(progress)
                    if stop.is_set() and progress.epoch < config.epochs:
                        interrupted = True
                        self.console.say(f"stopped after step {progress.step}; continue with --resume {out}")
                        break
            except ModelError as error:
                raise ModelError(f"{error}. {self._last_save()}") from error
            finally:
                self.board.close()
                draw_curve(out / "metrics.jsonl", out / "curve.png")
        return RunResult(run=out, best=progress.best, seconds=progress.seconds, interrupted=interrupted)

    def _epoch(self, progress: Progress, stop: threading.Event) -> Progress:
        """Trains to the end of the epoch, or to the step at which a stop was asked for."""
        config = self.config
        set_training_mode(self.learner.model, frozen=config.freeze, freeze_norm=config.freeze_norm)
        started = time.perf_counter()
        bad = 0

        def on_step(result: StepResult) -> bool:
            nonlocal bad
            bad = 0 if math.isfinite(result.gradient_norm) else bad + 1
            if bad == _BAD_STEPS:
                raise ModelError(
                    f"step {result.step}: expected finite gradients, got none in {_BAD_STEPS} steps in a row; "
                    f"lower --lr, or train in fp32 (--precision fp32)"
                )
            seconds = progress.seconds + time.perf_counter() - started
            self._record(result, epoch=progress.epoch, seconds=seconds)
            return not stop.is_set()

        step = train_steps(
            self.learner,
            self.batches.epoch(
                progress.epoch,
                first_step=progress.epoch_step,
                gentle=progress.epoch >= config.epochs - config.gentle_epochs,
            ),
            epoch=progress.epoch,
            first_step=progress.step,
            on_step=on_step,
        )
        epoch_step = progress.epoch_step + step - progress.step
        done = epoch_step == self.batches.steps
        return replace(
            progress,
            step=step,
            epoch=progress.epoch + done,
            epoch_step=0 if done else epoch_step,
            seconds=progress.seconds + time.perf_counter() - started,
        )

    def _record(self, result: StepResult, *, epoch: int, seconds: float) -> None:
        assert self.config.lr is not None
        rate = self.config.lr * result.factor
        done = result.step + 1
        self.console.step(done, f"epoch {epoch + 1}/{self.config.epochs}  loss {result.loss:.3f}")
        if not math.isfinite(result.gradient_norm) and self.config.precision != "fp16":
            self.console.say(f"step {result.step}: the gradient is not finite, so this step changes no weights")
        if done % _RECORD_EVERY and done != self.total:
            return
        values = {"loss": result.loss, "lr": rate, "gradient_norm": result.gradient_norm, **result.terms}
        self.metrics.write({"kind": "step", "step": done, "epoch": epoch, "seconds": round(seconds, 3), **values})
        self.board.add({f"train/{name}": value for name, value in values.items()}, done)

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
        )
        record = {
            "kind": "validation",
            "step": progress.step,
            "epoch": progress.epoch,
            "seconds": round(progress.seconds, 3),
            "wall_seconds": round(time.perf_counter() - self.started, 3),
        }
        self.metrics.write({**record, **metrics})
        self.board.add({f"validation/{name}": value for name, value in metrics.items()}, progress.step)
        self.console.say(
            f"epoch {progress.epoch}: AP {metrics['AP']:.4f}  AP50 {metrics['AP50']:.4f}  AP75 {metrics['AP75']:.4f}  "
            f"after {progress.seconds:.0f} s of training"
        )
        if metrics["AP"] <= progress.best.get("AP", -math.inf):
            return progress
        progress = replace(progress, best={"step": progress.step, **metrics})
        self._save_weights("best.safetensors", progress, metrics)
        return progress

    def _save(self, progress: Progress) -> None:
        save_state(self.config.out, self.learner, progress)
        self._save_weights("last.safetensors", progress, None)

    def _save_weights(self, name: str, progress: Progress, metrics: dict[str, float] | None) -> None:
        save_weights(
            self.config.out / name,
            self.learner.ema.module,
            {**self.description, "step": progress.step, "metrics": metrics},
        )

    def _last_save(self) -> str:
        if (self.config.out / "state.json").exists():
            return f"The last state that was saved is whole: continue it with --resume {self.config.out}"
        return "No state had been saved yet"


def _learner(config: TrainConfig, *, classes: int, total: int, weights: Path | None) -> Learner:
    assert config.device
    assert config.lr is not None
    assert config.backbone_lr is not None
    assert config.ema_decay is not None
    device = torch.device(config.device)
    model = build_model(config, num_classes=classes)
    if weights is not None:
        print(load_pretrained(model, weights))
    model.to(device)
    freeze(model, config.freeze)
    groups = parameter_groups(model, lr=config.lr, backbone_lr=config.backbone_lr, weight_decay=config.weight_decay)
    return Learner(
        model=model,
        criterion=build_criterion(),
        optimizer=build_adamw(groups),
        schedule=config.schedule_for(total),
        ema=Ema(model, decay=config.ema_decay, warmup=max(1, round(0.05 * total))),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        device=device,
        precision=cast(Precision, config.precision),
        clip=config.clip,
        seed=config.seed,
    )


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second one interrupts at once. Signals reach the main thread only."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

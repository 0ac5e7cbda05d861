"""What a run says while it goes on: to people on the console, to metrics.jsonl and TensorBoard for later."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from training.distillation.distiller import Distiller
from training.loop import StepResult
from training.memory import peak_bytes, readable_bytes
from training.pictures import draw_curve
from training.reporting import Console, Records, Speed
from training.run_state import Progress

_RECORD_EVERY = 10  # steps between records of the loss


class Journal:
    """Says and records steps, validations and what went wrong. Of several processes, only the first has a voice."""

    def __init__(
        self,
        run: Path,
        console: Console,
        *,
        device: torch.device,
        lr: float,
        epochs: int,
        total: int,
        done: int,
        silent: bool,
        distiller: Distiller | None = None,
    ) -> None:
        """lr: the peak rate. epochs, total: of the run, the latter in steps. done: steps behind it.

        distiller: whose adaptive weights are recorded.
        """
        self._run = run
        self._console = console
        self._records = Records(run, keep_to_step=done, say=console.say, silent=silent)
        self._speed = Speed()
        self._device, self._lr, self._epochs, self._total, self._silent = device, lr, epochs, total, silent
        self._distiller = distiller
        self._started = time.perf_counter()

    def step(self, progress: Progress, result: StepResult, *, epoch: int, micro_batch: int) -> None:
        """A step that is done. epoch: it belongs to. micro_batch: images at a time."""
        done = progress.step
        self._speed.add(result.images)
        state = {
            "images_per_second": round(self._speed.images_per_second, 2),
            "skipped": progress.skipped,
            "micro_batch": micro_batch,
            "peak_memory": peak_bytes(self._device),
        }
        self._console.step(
            done,
            f"epoch {epoch + 1}/{self._epochs}  loss {result.loss:.3f}  {state['images_per_second']:.1f} images/s  "
            f"{progress.skipped} skipped  micro-batch {micro_batch}  peak {readable_bytes(peak_bytes(self._device))}",
        )
        about = {"step": done, "epoch": epoch, "seconds": round(progress.seconds, 3)}
        if result.skipped:
            if result.bad:
                self._console.say(f"step {result.step}: {result.skipped}; the step changes nothing")
            self._records.add({"kind": "skipped", **about, "why": result.skipped})
        elif done % _RECORD_EVERY == 0 or done == self._total:
            rate = self._lr * result.factor
            values = {"loss": result.loss, "lr": rate, "gradient_norm": result.gradient_norm, **result.terms}
            if self._distiller is not None:
                adapted = self._distiller.report()
                values |= {name: value for name, value in adapted.items() if math.isfinite(value)}
            board = {f"train/{name}": value for name, value in {**values, **state}.items()}
            self._records.add({"kind": "step", **about, **values, **state}, board=board)

    def validation(self, progress: Progress, metrics: dict[str, float]) -> None:
        """A validation after an epoch."""
        record: dict[str, Any] = {
            "kind": "validation",
            "step": progress.step,
            "epoch": progress.epoch,
            "seconds": round(progress.seconds, 3),
            "wall_seconds": round(time.perf_counter() - self._started, 3),
        }
        self._records.add({**record, **metrics}, board={f"validation/{name}": each for name, each in metrics.items()})
        self._console.say(
            f"epoch {progress.epoch}: AP {metrics['AP']:.4f}  AP50 {metrics['AP50']:.4f}  AP75 {metrics['AP75']:.4f}  "
            f"after {progress.seconds:.0f} s of training"
        )

    def rollback(self, left: Progress, restored: Progress, *, rate: float, why: str) -> None:
        """A return from where the run was to an earlier state."""
        self._records.rewind(restored.step)
        self._records.add({"kind": "rollback", "step": restored.step, "from": left.step, "rate": rate, "why": why})
        self._console.say(
            f"step {left.step - 1}: {why}; going back to step {restored.step} with {rate:g} of the learning rate"
        )

    def close(self) -> None:
        """Flushes, and draws the curves."""
        self._records.close()
        if not self._silent:
            with suppress(OSError):
                draw_curve(self._run / "metrics.jsonl", self._run / "curve.png")

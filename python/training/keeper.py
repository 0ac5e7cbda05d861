"""What of a run reaches the disk, and what happens when the disk takes no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedet import Error
from training.loop import Learner
from training.run_state import Progress, remove_unfinished, save_state
from training.weights.own import save_weights


class Keeper:
    """Saves a run's state and weights. A save that fails is told and tried again at the next one.

    Only the first save and the last must succeed: a run that can keep nothing should not begin, and one whose result
    is lost should not end as if all were well.
    """

    def __init__(self, run: Path, learner: Learner, description: dict[str, Any], *, say: Callable[[str], None]) -> None:
        """description: goes into the weights' metadata, with the step and the metrics."""
        self._run = run
        self._learner = learner
        self._description = description
        self._say = say
        if learner.processes.first:
            remove_unfinished(run)

    def save(self, progress: Progress, *, must: bool = False) -> None:
        """Writes the state that --resume reads, and last.safetensors. Raises Error if it must and cannot."""
        if not self._learner.processes.first:
            return
        try:
            # The state comes last: after a kill in between, going on from the state before writes the weights again.
            self._save_weights("last.safetensors", progress, None)
            save_state(self._run, self._learner, progress)
        except OSError as error:
            text = f"step {progress.step}: the run could not be saved in {self._run} ({error})"
            if must:
                raise Error(f"{text}; make room on the disk") from error
            self._say(f"{text}; training goes on and tries again at the next save, make room on the disk")

    def save_best(self, progress: Progress, metrics: dict[str, float]) -> bool:
        """Writes best.safetensors; returns whether it is there."""
        written = True
        if self._learner.processes.first:
            try:
                self._save_weights("best.safetensors", progress, metrics)
            except OSError as error:
                self._say(f"step {progress.step}: the best weights could not be saved ({error}); training goes on")
                written = False
        return self._learner.processes.from_first(written)

    def _save_weights(self, name: str, progress: Progress, metrics: dict[str, float] | None) -> None:
        description = {**self._description, "step": progress.step, "metrics": metrics}
        save_weights(self._run / name, self._learner.ema.module, description)

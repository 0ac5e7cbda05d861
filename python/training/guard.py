"""What happens to a step whose loss or gradient is not finite: it leaves no trace in the run, but one on the disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.data.batches import Batch
from training.files import write_tensors

_FOLDER = "bad"
MOST_FILES = 4  # per process; each holds a batch and the weights
_WINDOW = 5  # times the number of bad steps that are too many
_ABOUT = ("step", "epoch", "fullest", "why", "classes", "config")
_TARGET = ("labels", "boxes")


class NormStatistics:
    """Running statistics of a model's batch norms, which a forward pass changes even if its step is then skipped."""

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._live = [
            [buffer for buffer in buffers if buffer.is_floating_point()],
            [buffer for buffer in buffers if not buffer.is_floating_point()],
        ]
        self._kept = [[buffer.clone() for buffer in kind] for kind in self._live]

    def keep(self) -> None:
        """Remembers them as they are."""
        for kept, live in zip(self._kept, self._live, strict=True):
            if live:
                torch._foreach_copy_(kept, live)

    def restore(self) -> None:
        """Puts them back as they were when they were last kept."""
        for kept, live in zip(self._kept, self._live, strict=True):
            if live:
                torch._foreach_copy_(live, kept)


def too_many(bad_steps: list[int], *, step: int, limit: int) -> bool:
    """Whether `limit` or more of the last `_WINDOW * limit` steps up to `step` were bad: in a row or nearly so."""
    return len(recent(bad_steps, step=step, limit=limit)) >= limit


def recent(bad_steps: list[int], *, step: int, limit: int) -> list[int]:
    """The bad steps that `too_many` looks at."""
    return [number for number in bad_steps if number > step - _WINDOW * limit]


@dataclass(frozen=True)
class BadBatch:
    """All that is needed to do a bad step again.

    batch: this process's part. fullest: objects of the fullest image of all processes. tensors: the model's parameters
    and buffers as they were before the step, by name. why: what was not finite. classes: how many the model knows.
    config: of the run, in json's types.
    """

    batch: Batch
    fullest: int
    step: int
    epoch: int
    why: str
    tensors: dict[str, Tensor]
    classes: int
    config: dict[str, Any]


def save_bad_batch(run: Path, bad: BadBatch, *, suffix: str = "") -> Path:
    """Writes RUN/bad/step-N.safetensors; of earlier ones the last few are kept. Raises OSError if it cannot."""
    folder = run / _FOLDER
    folder.mkdir(exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in bad.tensors.items()}
    tensors["images"] = bad.batch.images
    for index, target in enumerate(bad.batch.targets):
        tensors |= {f"{name}.{index}": value for name, value in target.items()}
    about = {name: getattr(bad, name) for name in _ABOUT} | {"seeds": bad.batch.seeds}
    for old in sorted(folder.glob(f"step-*{suffix}.safetensors"))[: 1 - MOST_FILES]:
        old.unlink()
    file = folder / f"step-{bad.step:06d}{suffix}.safetensors"
    write_tensors(file, tensors, {"about": json.dumps(about)})
    return file


def load_bad_batches(run: Path, step: int) -> list[BadBatch]:
    """What was saved of a bad step: one per process that took part. Raises InvalidInputError if there is nothing."""
    files = sorted((run / _FOLDER).glob(f"step-{step:06d}*.safetensors"))
    if not files:
        kept = ", ".join(file.stem for file in sorted((run / _FOLDER).glob("step-*.safetensors"))) or "none"
        raise InvalidInputError(f"{run}: expected a saved batch of step {step}, got none; there are: {kept}")
    return [_read(file) for file in files]


def _read(file: Path) -> BadBatch:
    try:
        with safe_open(file, "pt") as handle:
            about = json.loads(handle.metadata()["about"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        images = tensors.pop("images")
        targets = [{name: tensors.pop(f"{name}.{index}") for name in _TARGET} for index in range(len(images))]
        return BadBatch(
            batch=Batch(images=images, targets=targets, seeds=tuple(about.pop("seeds"))),
            tensors={name.removeprefix("model."): tensor for name, tensor in tensors.items()},
            **about,
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{file}: expected a saved batch, got something else ({error!r})") from error

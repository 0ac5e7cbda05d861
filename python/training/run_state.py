"""The files of a run folder that training continues from, and the weights it leaves behind.

    config.json             the resolved configuration
    best.safetensors        averaged weights of the best validation, with what is needed to use them in the metadata
    last.safetensors        averaged weights of the last save, likewise
    state.json              where training stands, and the file with its tensors: the record that --resume reads
    state-000120.safetensors   live weights, averaged weights, distiller and optimizer at step 120
    micro_batch.json        how many images at a time to go on with, where one of several processes ran out of memory

state.json is replaced after the tensors it names are on disk, and older tensors are deleted after that, so a crash at
any moment leaves a state that can be resumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.ema import tensors_of
from training.files import write_json, write_tensors
from training.loop import Learner

_VERSION = 2
_SUGGESTION = "micro_batch.json"
_WRITTEN = ("state", "config.json.", "last.safetensors.", "best.safetensors.", "metrics.jsonl.", _SUGGESTION)
_ADAMW = ("step", "exp_avg", "exp_avg_sq")  # what the fused optimizer keeps per parameter, all on its device


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    step: steps done. epoch, epoch_step: the next step to do. seconds: spent on training so far, without validation.
    best: metrics of the best validation so far. skipped: how many steps changed nothing, because their loss or gradient
    was not finite. bad_steps: the numbers of the recent ones of these. rollbacks: how often training has gone back to
    an earlier state because of them.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    seconds: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    bad_steps: list[int] = field(default_factory=list)
    rollbacks: int = 0


def save_state(run: Path, learner: Learner, progress: Progress) -> None:
    """Writes everything that an exact continuation needs."""
    tensors = learner.tensors()
    tensors |= {f"ema.{name}": tensor for name, tensor in tensors_of(learner.ema.module).items()}
    for name, parameter in _parameters(learner):
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    file = run / f"state-{progress.step:06d}.safetensors"
    write_tensors(file, tensors)
    write_json(
        run / "state.json",
        {
            "version": _VERSION,
            "tensors": file.name,
            "ema_updates": learner.ema.updates,
            "scaler": learner.scaler.state_dict(),
            "rate": learner.rate,
            "micro_batch": learner.micro_batch,
            **asdict(progress),
        },
    )
    for old in run.glob("state-*.safetensors"):
        if old != file:
            old.unlink()
    (run / _SUGGESTION).unlink(missing_ok=True)  # the state now says it


def remove_unfinished(run: Path) -> None:
    """Removes the files that a killed process was still writing."""
    for file in run.glob(".*.*"):
        if any(file.name.startswith(f".{name}") for name in _WRITTEN):
            file.unlink()


def load_state(run: Path, learner: Learner) -> Progress:
    """Puts a learner where the run's last save left it.

    Raises InvalidInputError if there is no state, if it is broken, or if it is of another network.
    """
    file = run / "state.json"
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        version = state["version"]
        if version == _VERSION:
            progress = Progress(**{name: state[name] for name in Progress.__dataclass_fields__})
            tensors_file, updates, scaler = str(state["tensors"]), int(state["ema_updates"]), state["scaler"]
            rate, micro_batch = float(state["rate"]), int(state["micro_batch"])
    except OSError as error:
        raise InvalidInputError(f"{run}: expected state.json to resume from, got none ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{file}: expected the state of a run, got something broken ({error!r})") from error
    if version != _VERSION:
        raise InvalidInputError(f"{file}: expected version {_VERSION}, got {version}; use the release that wrote it")
    tensors = _read_tensors(run / tensors_file)
    _restore(learner.tensors(), tensors)
    _restore({f"ema.{name}": tensor for name, tensor in tensors_of(learner.ema.module).items()}, tensors)
    for name, parameter in _parameters(learner):
        keys = [key for key in _ADAMW if f"optimizer.{key}.{name}" in tensors]
        if keys:
            learner.optimizer.state[parameter] = {
                key: _laid_out(tensors[f"optimizer.{key}.{name}"], parameter) for key in keys
            }
    learner.ema.updates = updates
    learner.scaler.load_state_dict(scaler)
    learner.rate, learner.micro_batch = rate, _smaller(micro_batch, _suggested(run))
    return progress


def is_finite(learner: Learner) -> bool:
    """Whether all weights, live, averaged and the distiller's, and their moments are finite."""
    moments = [value for state in learner.optimizer.state.values() for value in state.values()]
    averaged = [*learner.ema.module.parameters()]
    parameters = (parameter for _, parameter in _parameters(learner))
    checks = [tensor.isfinite().all() for tensor in (*parameters, *averaged, *moments)]
    return bool(torch.stack(checks).all())


def suggest_micro_batch(run: Path, images: int) -> None:
    """Has the next `load_state` take at most that many images at a time."""
    write_json(run / _SUGGESTION, {"images": images})


def _suggested(run: Path) -> int:
    try:
        return int(json.loads((run / _SUGGESTION).read_text(encoding="utf-8"))["images"])
    except OSError:
        return 0


def _smaller(first: int, second: int) -> int:
    """The smaller micro-batch, 0 being the whole batch."""
    return min(first or second, second or first)


def _laid_out(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The tensor with the device and strides of its parameter, side by side with which the fused optimizer walks it."""
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device)
    return torch.empty_like(parameter).detach().copy_(tensor)


def _parameters(learner: Learner) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters with their names in the file: the model's have no prefix."""
    yield from learner.model.named_parameters()
    if learner.distiller is not None:
        yield from learner.distiller.named_parameters(prefix="distiller")


def _restore(live: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in live.items():
            saved = tensors.get(name)
            if saved is None or saved.shape != tensor.shape:
                got = "nothing" if saved is None else f"shape {tuple(saved.shape)}"
                raise InvalidInputError(
                    f"state: expected {name} of shape {tuple(tensor.shape)}, got {got}; "
                    f"was the dataset or the configuration changed?"
                )
            tensor.copy_(saved)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(f"{file}: expected a safetensors file, got something unreadable ({error})") from error

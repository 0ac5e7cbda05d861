"""Where fine-tuning stands, in memory and on the disk: one safetensors file, its numbers in the metadata."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgedet import ModelError
from edgedet.files import write_atomically

_SECONDS_BETWEEN = 30.0
_LARGEST_GRADIENT = 1.0


class Training:
    """A module, its optimiser and what is known of its epochs.

    Attributes:
        epoch: epochs done.
        step: steps done of the next one.
        losses: what judged the module before the first epoch and after each.
        best: index into `losses` of the least total.
        best_weights: the module's parameters then.
    """

    def __init__(self, module: nn.Module, sizes: Sequence[float], file: Path | None) -> None:
        """Start, or go on from a file where there is one. A file that cannot be read counts as missing.

        Args:
            module: what is trained.
            sizes: of each of its parameters, the unit of its steps.
            file: where the state is kept, None for nowhere.
        """
        self._module, self._file = module, file
        groups = [{"params": [one], "size": size} for one, size in zip(module.parameters(), sizes, strict=True)]
        # No weight decay: the weights shall stay near the float ones, not go to zero.
        self._optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self.epoch = self.step = self.best = 0
        self.losses: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}
        self._saved = time.monotonic()
        if file is not None and file.is_file():
            self._restore(file)

    def update(self, loss: Tensor, rate: float) -> None:
        """One step down the gradient, of at most about `rate` times the size of each parameter.

        Raises:
            ModelError: the loss or its gradient is not finite.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._module.parameters(), _LARGEST_GRADIENT)
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            raise ModelError(
                f"expected a finite loss, got {float(loss.detach())} with a gradient of norm {float(norm)} in epoch "
                f"{self.epoch + 1}; lower --lr"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["size"]
        self._optimizer.step()
        self.step += 1
        if time.monotonic() - self._saved > _SECONDS_BETWEEN:
            self.save()

    def judged(self, terms: dict[str, float]) -> None:
        """Take down how good the module is, before the first epoch or at the end of one."""
        self.epoch, self.step = len(self.losses), 0
        self.losses.append(terms)
        if self.epoch == 0 or terms["total"] < self.losses[self.best]["total"]:
            self.best = self.epoch
            self.best_weights = {name: value.clone() for name, value in self._module.state_dict().items()}
        self.save()

    def save(self) -> None:
        """Write the file."""
        self._saved = time.monotonic()
        if self._file is None:
            return
        tensors = {f"now.{name}": value for name, value in self._module.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        for name, parameter in self._module.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        numbers = {"epoch": self.epoch, "step": self.step, "best": self.best, "losses": self.losses}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        copies = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        write_atomically(self._file, save(copies, {"training": json.dumps(numbers)}))

    def remove(self) -> None:
        """Remove the file; what it was for is done."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _restore(self, file: Path) -> None:
        try:
            with safe_open(str(file), "pt") as stored:
                numbers = json.loads(stored.metadata()["training"])
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            epoch, step, index = (int(numbers[key]) for key in ("epoch", "step", "best"))
            losses = [{str(name): float(value) for name, value in terms.items()} for terms in numbers["losses"]]
        except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError):
            return
        now, best = _part(tensors, "now."), _part(tensors, "best.")
        shapes = _shapes(self._module.state_dict())
        if _shapes(now) != shapes or _shapes(best) != shapes or not 0 <= index < len(losses):
            return
        self._module.load_state_dict(now)
        self.epoch, self.step, self.best, self.losses, self.best_weights = epoch, step, index, losses, best
        for name, parameter in self._module.named_parameters():
            moments = {key: tensors.get(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if all(value is not None for value in moments.values()):
                self._optimizer.state[parameter] = moments


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tensors.items()}

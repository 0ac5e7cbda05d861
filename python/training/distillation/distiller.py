"""All distillation of a run in one module: its losses, what they weigh, and what of it is state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.distillation.gam import AdaptiveWeight, gradient_share
from training.distillation.schedule import schedule_factor
from training.distillation.terms import METHODS, Need, Term
from training.models.outputs import DetectorOutput, TeacherOutput, Widths


class Distiller(nn.Module):
    """Computes the weighted distillation terms of a step.

    `Distiller(terms, ...)(output, teachers, epoch=e)` returns scalars named `distil/<method>` (and the teacher, where a
    method follows several), to be added to the detector's loss. Everything is computed in float32, whatever autocast is
    on. Terms are means over images. Projections and generators are parameters here, not of the student; the state of
    adaptive weights are buffers: so a checkpoint of this module's parameters and buffers is all its state.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        student: Widths,
        teachers: Mapping[str, Widths],
        epochs: int,
        watched: Sequence[nn.Parameter] = (),
    ) -> None:
        """student, teachers: what they offer. epochs: of the run, for schedules.

        watched: the parameters whose share of the gradient adaptive weights keep (the encoder's transformer).
        Raises InvalidInputError for terms that the teachers cannot serve, or that are there twice.
        """
        super().__init__()
        self.epochs = epochs
        self._watched = list(watched)  # a list, so that they are not parameters of this module too
        self.terms: dict[str, Term] = {}
        self.teacher_of: dict[str, str] = {}
        self.losses, self.adaptive = nn.ModuleDict(), nn.ModuleDict()
        for term in terms:
            teacher = _choose(term, teachers)
            method = METHODS[term.method]
            followed = {self.teacher_of[name] for name, other in self.terms.items() if other.method == term.method}
            name = f"{term.method}-{teacher}" if followed else term.method
            if teacher in followed:
                raise InvalidInputError(f"distil: expected {term.method} once for each teacher, got it twice")
            self.terms[name], self.teacher_of[name] = term, teacher
            self.losses[name] = method.module(term.options, student, teachers[teacher])
            common = term.common
            if common.rho is not None:
                self.adaptive[name] = AdaptiveWeight(
                    common.weight, rho=common.rho, delta=common.delta, every=common.every
                )

    def needs(self) -> dict[str, frozenset[Need]]:
        """What the terms need of each teacher."""
        found: dict[str, frozenset[Need]] = {}
        for name, term in self.terms.items():
            teacher = self.teacher_of[name]
            found[teacher] = found.get(teacher, frozenset()) | METHODS[term.method].needs
        return found

    def factors(self, epoch: int) -> dict[str, float]:
        """The schedules' factors in an epoch, in [0, 1]; terms that count nothing are left out."""
        found = {}
        for name, term in self.terms.items():
            factor = schedule_factor(term.common.schedule, epoch, self.epochs)
            factor = 1.0 - factor if term.common.rest else factor
            if factor > 0:
                found[name] = factor
        return found

    def teachers_at(self, epoch: int) -> frozenset[str]:
        """Who has to be asked in an epoch."""
        return frozenset(self.teacher_of[name] for name in self.factors(epoch))

    def forward(
        self, student: DetectorOutput, teachers: Mapping[str, TeacherOutput], *, epoch: int, share: float = 1.0
    ) -> dict[str, Tensor]:
        """The weighted terms.

        student: of a model in training mode. teachers: by name, for the same images. share: of the batch that these
        images are, where a step is done in parts.
        """
        terms: dict[str, Tensor] = {}
        said = {name: output.detach() for name, output in teachers.items()}
        with torch.autocast(student.final.logits.device.type, enabled=False):
            for name, factor in self.factors(epoch).items():
                loss: Tensor = self.losses[name](student, said[self.teacher_of[name]])
                weight: Tensor | float = self.terms[name].common.weight
                if name in self.adaptive:
                    weight = self._adaptive(name).weight.float()
                terms[f"distil/{name}"] = loss * weight * (factor * share)
        return terms

    def observe(self, parameters: Sequence[nn.Parameter]) -> None:
        """Tells adaptive weights of a step that is applied: the gradients of the student, averaged over processes.

        A factor that all gradients share (a loss scale, a clip) changes nothing.
        """
        if self.adaptive:
            share = gradient_share(self._watched, parameters)
            for name in self.adaptive:
                self._adaptive(name).observe(share)

    def report(self) -> dict[str, float]:
        """Adaptive weights and the shares they were last fitted to, for records; waits for the device."""
        found = {}
        for name in self.adaptive:
            adaptive = self._adaptive(name)
            found[f"gam/{name}/weight"] = float(adaptive.weight)
            found[f"gam/{name}/share"] = float(adaptive.last_share)
        return found

    def _adaptive(self, name: str) -> AdaptiveWeight:
        return cast(AdaptiveWeight, self.adaptive[name])


def _choose(term: Term, teachers: Mapping[str, Widths]) -> str:
    """The teacher of a term: the one it names, the only one, or the first that has what the method is about."""
    wanted = term.common.teacher
    if wanted is not None:
        if wanted not in teachers:
            raise InvalidInputError(f"distil: expected a teacher out of {', '.join(teachers)}, got {wanted!r}")
        return wanted
    if not teachers:
        raise InvalidInputError("distil: expected a teacher to follow, got none; name one with --teacher")
    for name, widths in teachers.items():
        foundation = not widths.features and widths.classes is None
        if foundation == (term.method == "dsi"):
            return name
    return next(iter(teachers))

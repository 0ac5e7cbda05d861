"""All teachers of a run, as the loop asks them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from edgedet.bundle import InputSpec
from training.data.batches import Batch
from training.models.outputs import TeacherOutput, Widths
from training.teachers.cache import CachedTeacher
from training.teachers.teacher import Teacher


class Teachers:
    """Asks the teachers about batches of the student."""

    def __init__(self, teachers: Mapping[str, Teacher | CachedTeacher], spec: InputSpec) -> None:
        """spec: how the student's images are normalised, which is undone."""
        self._teachers = teachers
        self._mean, self._std = (torch.tensor(value).view(3, 1, 1) for value in (spec.mean, spec.std))
        self._plain = not self._mean.any() and bool((self._std == 1).all())

    @property
    def widths(self) -> dict[str, Widths]:
        """What each offers."""
        return {name: teacher.widths for name, teacher in self._teachers.items()}

    def __call__(self, batch: Batch, names: Collection[str]) -> dict[str, TeacherOutput]:
        """What the named ones say about a batch, on the device of its images."""
        images = batch.images
        if not self._plain:
            images = images * self._std.to(images.device) + self._mean.to(images.device)
        return {
            name: teacher(images, batch.keys) if isinstance(teacher, CachedTeacher) else teacher(images)
            for name, teacher in self._teachers.items()
            if name in names
        }

    def have(self, keys: Sequence[int]) -> bool:
        """Whether all of them have whole answers for these views in their caches."""
        return all(isinstance(each, CachedTeacher) and each.has(keys) for each in self._teachers.values())

    def reports(self) -> list[str]:
        """What there is to say of them at the end of a run."""
        cached = {name: each for name, each in self._teachers.items() if isinstance(each, CachedTeacher)}
        return [f"teacher cache of {name}: {teacher.report()}" for name, teacher in cached.items()]

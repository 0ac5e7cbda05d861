"""What every teacher is: a frozen network that takes the student's images and speaks of the student's classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.distillation.pairing import resize
from training.models.outputs import Prediction, TeacherOutput, Widths

Size = tuple[int, int]  # height, width


class Teacher(nn.Module, ABC):
    """A frozen network. `teacher(images)` takes (B, 3, H, W) float32 RGB in [0, 1] of any size.

    widths: what it offers. description: one line for people: what it is, from where, under which licence.
    """

    widths: Widths
    description: str

    def __init__(
        self,
        *,
        size: Size | None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        bgr: bool = False,
    ) -> None:
        """size: of its input; None to take images as they come. mean, std: of its input. bgr: its order of colours."""
        super().__init__()
        self.size, self.bgr = size, bgr
        self.register_buffer("mean", torch.tensor(list(mean)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    @abstractmethod
    def observe(self, images: Tensor) -> TeacherOutput:
        """What it says about images of its own size and normalisation."""

    def input_size(self, images: Tensor) -> Size:
        """The size in which it looks at these images."""
        return self.size or (int(images.shape[-2]), int(images.shape[-1]))

    @torch.no_grad()
    def forward(self, images: Tensor) -> TeacherOutput:
        """What it says about images."""
        images = resize(images, self.input_size(images))
        if self.bgr:
            images = images.flip(1)
        return self.observe((images - self.mean) / self.std)

    def train(self, mode: bool = True) -> Teacher:
        """Stays as it is, in eval mode."""
        return super().train(False)


def class_columns(own: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    """Where a teacher's classes have the student's, by name; None unless it knows all of them."""
    place = {name: column for column, name in enumerate(own)}
    return tuple(place[name] for name in wanted) if all(name in place for name in wanted) else None


def select_classes(prediction: Prediction, columns: tuple[int, ...]) -> Prediction:
    """The prediction over the student's classes."""
    logits = prediction.logits
    if columns == tuple(range(logits.shape[-1])):
        return prediction
    return Prediction(logits[..., list(columns)], prediction.boxes, prediction.corners, prediction.reference)

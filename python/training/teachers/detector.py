"""A detector of this project as a teacher: own checkpoints, official ones, any architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from edgedet import InvalidInputError
from edgedet.bundle import InputSpec
from training.models.decoder import DecoderConfig
from training.models.deploy.folding import fold_norms
from training.models.detector import Detector
from training.models.edge_decoder import EdgeDecoder
from training.models.outputs import TeacherOutput, Widths
from training.publish import load_checkpoint
from training.teachers.teacher import Size, Teacher, class_columns, select_classes


class DetectorTeacher(Teacher):
    """A detector with weights; what it offers is what its output has."""

    def __init__(
        self, model: Detector, spec: InputSpec, columns: tuple[int, ...] | None, *, size: Size | None, description: str
    ) -> None:
        """model: is changed. columns: of the student's classes among its own, or None if it does not know them.

        size: of its input; None for its own.
        """
        super().__init__(
            size=size or (spec.height, spec.width), mean=spec.mean, std=spec.std, bgr=spec.channels == "bgr"
        )
        fold_norms(model.eval())  # a live teacher takes a step's time
        self.model = model.requires_grad_(False)
        self.columns, self.description = columns, description
        self.widths = widths_of(model, classes=None if columns is None else len(columns))
        record_attention(model)

    def observe(self, images: Tensor) -> TeacherOutput:
        """See `Teacher.observe`."""
        output = self.model(images)
        return TeacherOutput(
            prediction=None if self.columns is None else select_classes(output.final, self.columns),
            features=output.features,
            queries=output.queries[-1],
            attention=output.attention,
        )


def load_detector(path: Path, classes: Sequence[str], *, size: Size | None) -> DetectorTeacher:
    """A run folder, a checkpoint of this project or an official one. Raises as `load_checkpoint` does."""
    loaded = load_checkpoint(path)
    columns = class_columns(loaded.categories.names, classes)
    try:
        replace(loaded.model.config, input_size=size or loaded.model.config.input_size)
    except ValueError as error:
        raise InvalidInputError(f"teacher: expected a size that {path} can take, got one it cannot: {error}") from error
    known = f"{len(loaded.categories.names)} classes" + ("" if columns else ", not the student's")
    side = size or (loaded.spec.height, loaded.spec.width)
    text = f"{loaded.name} from {path}, {known}, input {side[1]}x{side[0]}"
    return DetectorTeacher(loaded.model, loaded.spec, columns, size=size, description=text)


def widths_of(model: Detector, *, classes: int | None) -> Widths:
    """What a detector offers, as a teacher or as a student."""
    encoder, decoder = model.config.encoder, model.config.decoder
    distributions = isinstance(decoder, DecoderConfig) and decoder.refinement == "distribution"
    return Widths(
        classes=classes,
        features=(encoder.hidden_dim,) * len(decoder.strides),
        semantic=encoder.hidden_dim,
        queries=decoder.hidden_dim,
        bins=decoder.reg_max + 1 if isinstance(decoder, DecoderConfig) and distributions else None,
        attention=isinstance(model.decoder, EdgeDecoder),
    )


def record_attention(model: Detector) -> None:
    """Has a detector with plain cross-attention keep its attention maps."""
    if isinstance(model.decoder, EdgeDecoder):
        model.decoder.record_attention = True

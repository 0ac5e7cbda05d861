"""Calibration sets: chosen (`draw`), kept apart from the evaluation images, and recorded in the bundle."""

from __future__ import annotations

from calibration.sets.draw import STRATEGIES, Embedding, Strategy, draw
from calibration.sets.evaluation import EvaluationImages, evaluation_images
from edgedet.calibration_set import (
    FORMAT,
    VERSION,
    RefusedImage,
    Sample,
    SampledImage,
    read_checked,
    read_record,
    read_sample,
    sha256,
)

__all__ = [
    "FORMAT",
    "STRATEGIES",
    "VERSION",
    "Embedding",
    "EvaluationImages",
    "RefusedImage",
    "Sample",
    "SampledImage",
    "Strategy",
    "draw",
    "evaluation_images",
    "read_checked",
    "read_record",
    "read_sample",
    "sha256",
]

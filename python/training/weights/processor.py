"""preprocessor_config.json: how transformers prepares images, written from an InputSpec and held against one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedet import InvalidInputError
from edgedet.bundle import InputSpec
from training.weights.read import read_json

FILE = "preprocessor_config.json"
_PILLOW_BILINEAR = 2  # a triangle filter where it shrinks, which is `antialias`; there is none like `bilinear`


def processor_config(spec: InputSpec) -> dict[str, Any]:
    """For the image processor of RT-DETR, which D-FINE uses too."""
    return {
        "image_processor_type": "RTDetrImageProcessor",
        "do_resize": True,
        "size": {"height": spec.height, "width": spec.width},
        "resample": _PILLOW_BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": (spec.mean, spec.std) != ((0, 0, 0), (1, 1, 1)),
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "do_pad": False,
        "format": "coco_detection",
    }


def check_processor(folder: Path, spec: InputSpec) -> None:
    """Raises InvalidInputError for a folder whose file prepares images otherwise than its config.json says."""
    if not (folder / FILE).is_file():
        return
    stored = read_json(folder / FILE)
    differing = [key for key, value in processor_config(spec).items() if key in stored and stored[key] != value]
    if differing:
        raise InvalidInputError(
            f"{folder / FILE}: expected what config.json says of the input, got other {', '.join(differing)}; "
            "push the weights again"
        )

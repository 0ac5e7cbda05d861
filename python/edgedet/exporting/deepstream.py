"""A bundle as the configuration of DeepStream's Gst-nvinfer, for the parser of examples/deepstream.

nvinfer has NvBufSurfTransform scale a frame to whole grey levels x of the network's size, as edgedet does, and computes
y = net-scale-factor * (x - offset), one factor for all channels. So (x / 255 - mean) / std needs equal deviations, with
the factor 1 / (255 * std) and the offsets 255 * mean.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgedet._core import InvalidInputError
from edgedet.bundle import load_model_json
from edgedet.exporting.folders import labels_text, make_folder
from edgedet.verdict import model_file

CONFIG: Final = "config_infer_primary.txt"
PARSER: Final = "NvDsInferParseEdgedet"
LIBRARY: Final = "libnvdsinfer_edgedet.so"
_TOP_K: Final = 300  # of the parser, unless it is built with another one


def export_deepstream(
    bundle: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    batch: int = 1,
    score_threshold: float = 0.3,
    overwrite: bool = False,
) -> list[str]:
    """Writes the float model, its labels and nvinfer's configuration into a new folder.

    Args:
        bundle: The bundle folder.
        folder: To make.
        batch: Frames in a batch.
        score_threshold: Objects below it are left out, in [0, 1].
        overwrite: Replace an earlier export.

    Returns:
        Where nvinfer does otherwise than edgedet, one line each.

    Raises:
        BundleError: The bundle is damaged.
        InvalidInputError: nvinfer cannot normalise as the network needs it, an option is out of range, or the folder is
            there already.
    """
    if batch < 1 or not 0 <= score_threshold <= 1:
        raise InvalidInputError(f"expected a batch from 1 and a threshold in [0, 1], got {batch} and {score_threshold}")
    spec = load_model_json(bundle)
    notes = differences(spec["input"])
    if spec["output"]["form"] == "logits_boxes" and spec["output"]["top_k"] != _TOP_K:
        notes.append(f"build the parser with -DEDGEDET_TOP_K={spec['output']['top_k']}, else it keeps {_TOP_K} objects")
    model = Path(bundle) / str(model_file(spec, "fp32", "tensorrt"))

    def fill(staging: Path) -> None:
        shutil.copyfile(model, staging / "model.onnx")
        (staging / "labels.txt").write_text(labels_text(spec["classes"]), encoding="utf-8")
        text = config_text(spec, notes, batch=batch, score_threshold=score_threshold)
        (staging / CONFIG).write_text(text, encoding="utf-8")

    make_folder(Path(folder), fill, mark=CONFIG, overwrite=overwrite)
    return notes


def normalisation(image: Mapping[str, Any]) -> tuple[float, tuple[float, float, float]]:
    """net-scale-factor and offsets, the latter in the channel order of the network.

    image: "input" of model.json.

    Raises:
        InvalidInputError: The deviations differ.
    """
    mean, std = image["mean"], image["std"]
    if len(set(std)) > 1:
        raise InvalidInputError(
            f"expected one deviation for all channels, as nvinfer has one net-scale-factor, got std {std}; put the "
            "normalisation into the network, and export that with mean 0 and std 1"
        )
    return 1 / (255 * std[0]), (255 * mean[0], 255 * mean[1], 255 * mean[2])


def differences(image: Mapping[str, Any]) -> list[str]:
    """Where nvinfer cannot prepare frames as the network was trained, for people. image: "input" of model.json."""
    notes = ["frames are scaled by NvBufSurfTransform, which rounds in its own way"]
    if image["filter"] == "antialias":
        notes.append("frames are shrunk without antialiasing, with which this network was trained")
    if image["resize"] == "letterbox":
        notes.append("the shorter side is cut to whole pixels, where edgedet rounds it")
        if image["pad_value"] != 0:
            notes.append(f"borders are black, not of grey level {image['pad_value']}")
    return notes


def config_text(spec: Mapping[str, Any], notes: list[str], *, batch: int, score_threshold: float) -> str:
    """The configuration file. Paths in it are relative to it."""
    image = spec["input"]
    scale, offsets = normalisation(image)
    letterbox = int(image["resize"] == "letterbox")
    values: dict[str, Any] = {
        "gpu-id": 0,
        "gie-unique-id": 1,
        "process-mode": 1,
        "network-type": 0,
        "network-mode": 0,
        "onnx-file": "model.onnx",
        "model-engine-file": f"model.onnx_b{batch}_gpu0_fp32.engine",
        "labelfile-path": "labels.txt",
        "batch-size": batch,
        "infer-dims": f"3;{image['height']};{image['width']}",
        "num-detected-classes": len(spec["classes"]),
        "model-color-format": int(image["channels"] == "bgr"),
        "net-scale-factor": f"{scale:.17g}",
        "offsets": ";".join(f"{offset:.9g}" for offset in offsets),
        "maintain-aspect-ratio": letterbox,
        "symmetric-padding": letterbox,
        "scaling-filter": 1,
        "cluster-mode": 4,
        "parse-bbox-func-name": PARSER,
        "custom-lib-path": LIBRARY,
    }
    lines = [f"# {note}" for note in ("what nvinfer does otherwise than edgedet:", *notes)]
    lines += ["[property]", *(f"{key}={value}" for key, value in values.items())]
    lines += ["", "[class-attrs-all]", f"pre-cluster-threshold={score_threshold:g}", "topk=-1"]
    return "\n".join(lines) + "\n"

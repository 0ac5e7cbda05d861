"""A tiny labelled dataset for tests of training: one red and one blue square per image."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from training.config import TrainConfig
from training.models.detector import Detector, build
from training.recipes import model_config

NAMES, IDS = ("red", "blue"), (3, 8)
SIZE = 160  # network input: the smallest that has a cell for each of atto's queries


def make_dataset(folder: Path, *, train: int = 6, val: int = 3) -> Path:
    """Writes FOLDER/{train,val}/instances.json with images; the same every time."""
    for split, count in (("train", train), ("val", val)):
        images = folder / split / "images"
        images.mkdir(parents=True)
        rng = np.random.default_rng(count)
        document: dict[str, list[dict[str, object]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": name} for i, name in zip(IDS, NAMES, strict=True)],
        }
        for index in range(count):
            pixels = np.full((80, 100, 3), 90, np.uint8)
            for label, colour in enumerate(((220, 20, 20), (20, 20, 220))):
                x, y = int(rng.integers(0, 60)), int(rng.integers(0, 40))
                pixels[y : y + 30, x : x + 30] = colour
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]) + 1,
                        "image_id": index + 1,
                        "category_id": IDS[label],
                        "bbox": [x, y, 30, 30],
                    }
                )
            Image.fromarray(pixels).save(images / f"{index}.png")
            document["images"].append({"id": index + 1, "file_name": f"{index}.png", "width": 100, "height": 80})
        (folder / split / "instances.json").write_text(json.dumps(document))
    return folder


def tiny_config(data: Path, out: Path, **changes: object) -> TrainConfig:
    """A run of a few steps on one thread."""
    settings: dict[str, object] = {
        "data": data, "out": out, "size": SIZE, "epochs": 3, "batch": 2, "denoising": 8, "threads": 1, "workers": 0,
        "crop": 0.3, "zoom_out": 0.3, "vertical_flip": 0.5, "eval_every": 3,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})  # type: ignore[arg-type]


def tiny_network(model: str, *, side: int, classes: int = len(NAMES)) -> Detector:
    """A detector for inputs so small that they have no cell for each of its usual queries, in training mode."""
    config = model_config(model, num_classes=classes, denoising=6)
    decoder = replace(config.decoder, num_queries=40)
    return build(replace(config, input_size=(side, side), decoder=decoder)).train()

"""Writes procedural scenes as a COCO data set: train/ and val/, each with its images and instances.json.

``python -m benchmarks.demo.dataset FOLDER [--train N] [--val N] [--seed S]`` does so from a terminal.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .scenes import CLASSES, SceneConfig, draw_scene


@dataclass(frozen=True)
class DatasetConfig:
    """How many scenes, of what kind, from what seed."""

    seed: int = 6
    train: int = 384
    val: int = 64
    scene: SceneConfig = field(default_factory=SceneConfig)

    def __post_init__(self) -> None:
        """Refuse an empty split."""
        if self.train < 1 or self.val < 1:
            raise ValueError(f"train, val: expected at least one scene each, got {self.train} and {self.val}")


def write_dataset(folder: Path, config: DatasetConfig) -> bool:
    """Draw the data set into `folder`, replacing what is there; return False if it is already there, unchanged.

    Layout: <split>/images/00000.jpg and <split>/instances.json for the splits train and val; category ids count
    from 1. Image i of a split depends on the seed, the split and i only, so that asking for more scenes keeps those
    drawn before.
    """
    recipe = json.dumps(asdict(config), indent=2)
    stamp = folder / "recipe.json"
    if stamp.is_file() and stamp.read_text() == recipe:
        return False
    if folder.exists():
        shutil.rmtree(folder)
    for split, (name, count) in enumerate((("train", config.train), ("val", config.val))):
        _write_split(folder / name, split, count, config)
    stamp.write_text(recipe)
    return True


def _write_split(folder: Path, split: int, count: int, config: DatasetConfig) -> None:
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        scene = draw_scene(np.random.default_rng([config.seed, split, index]), config.scene)
        file_name = f"{index:05}.jpg"
        Image.fromarray(scene.image).save(folder / "images" / file_name, quality=92)
        height, width = scene.image.shape[:2]
        images.append({"id": index + 1, "file_name": file_name, "width": width, "height": height})
        for item in scene.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": item.label + 1,
                    "bbox": list(item.box),
                    "area": item.area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    content = {
        "info": {"description": "Workshop parts, drawn by edgedet", "license": "CC0-1.0"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (folder / "instances.json").write_text(json.dumps(content))


def main() -> None:
    """Draw a data set into the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Draws scenes of small parts as a COCO data set.")
    parser.add_argument("folder", type=Path, help="folder to make; one that is there is replaced")
    parser.add_argument("--train", type=int, default=DatasetConfig.train, help="scenes to learn from (%(default)s)")
    parser.add_argument("--val", type=int, default=DatasetConfig.val, help="scenes to judge by (%(default)s)")
    parser.add_argument("--seed", type=int, default=DatasetConfig.seed, help="other scenes (%(default)s)")
    options = parser.parse_args()
    config = DatasetConfig(seed=options.seed, train=options.train, val=options.val)
    write_dataset(options.folder, config)
    print(f"{options.folder}: {config.train} scenes to learn from, {config.val} to judge by")


if __name__ == "__main__":
    main()

"""The demo's own data set: reproducible, exactly labelled, and as varied as it claims."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.demo.dataset import DatasetConfig, write_dataset
from benchmarks.demo.scenes import CLASSES, SceneConfig, draw_scene
from benchmarks.demo.shapes import PARTS, hexagon, segment

CONFIG = DatasetConfig(seed=3, train=24, val=6)
CROWDED = SceneConfig(objects=(12, 16), clutter=(6, 8), min_visible=0.7)


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    assert write_dataset(folder, CONFIG)
    return folder


def load(folder: Path, split: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / split / "instances.json").read_text())
    return content


def test_same_seed_gives_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", CONFIG)
    assert fingerprint(tmp_path / "again") == fingerprint(dataset)


def test_another_seed_gives_other_scenes(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", DatasetConfig(seed=4, train=24, val=6))
    ours, others = fingerprint(dataset), fingerprint(tmp_path / "other")
    assert ours.keys() == others.keys()
    assert [name for name in ours if ours[name] == others[name]] == []


def test_no_scene_occurs_twice(dataset: Path) -> None:
    hashes = [value for name, value in fingerprint(dataset).items() if name.endswith(".jpg")]
    assert len(hashes) == 30
    assert len(set(hashes)) == 30


def test_more_scenes_keep_the_earlier_ones(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "more", DatasetConfig(seed=3, train=30, val=6))
    more = fingerprint(tmp_path / "more")
    images = {name: value for name, value in fingerprint(dataset).items() if name.endswith(".jpg")}
    assert {name: more[name] for name in images} == images


def test_an_unchanged_recipe_is_reused_and_a_changed_one_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert write_dataset(folder, DatasetConfig(train=2, val=1))
    assert not write_dataset(folder, DatasetConfig(train=2, val=1))
    assert write_dataset(folder, DatasetConfig(train=1, val=1))
    assert len(list((folder / "train" / "images").iterdir())) == 1


def test_an_interrupted_run_starts_over(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_dataset(folder, DatasetConfig(train=2, val=1))
    (folder / "recipe.json").unlink()
    (folder / "train" / "images" / "00001.jpg").write_bytes(b"half")
    assert write_dataset(folder, DatasetConfig(train=2, val=1))
    with Image.open(folder / "train" / "images" / "00001.jpg") as image:
        assert image.size == (256, 256)


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_file_is_consistent(dataset: Path, split: str) -> None:
    content = load(dataset, split)
    assert [category["id"] for category in content["categories"]] == list(range(1, len(CLASSES) + 1))
    assert [category["name"] for category in content["categories"]] == list(CLASSES)
    sizes = {}
    for image in content["images"]:
        with Image.open(dataset / split / "images" / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"])
        sizes[image["id"]] = image["width"], image["height"]
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        image_width, image_height = sizes[annotation["image_id"]]
        assert width > 0
        assert height > 0
        assert 0 <= x <= image_width - width
        assert 0 <= y <= image_height - height
        assert 0 < annotation["area"] <= width * height
    assert {annotation["image_id"] for annotation in content["annotations"]} == set(sizes), "an image without objects"


def test_every_class_is_there_and_sizes_vary(dataset: Path) -> None:
    annotations = load(dataset, "train")["annotations"]
    counts = Counter(annotation["category_id"] for annotation in annotations)
    assert set(counts) == set(range(1, len(CLASSES) + 1))
    assert max(counts.values()) < 4 * min(counts.values())
    sides = np.array([max(annotation["bbox"][2:]) for annotation in annotations])
    assert np.quantile(sides, 0.9) > 2.0 * np.quantile(sides, 0.1)


@pytest.mark.parametrize("config", [SceneConfig(), CROWDED], ids=["default", "crowded"])
@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_tight_around_what_is_visible(config: SceneConfig, seed: int) -> None:
    scene = draw_scene(np.random.default_rng(seed), config)
    assert scene.image.shape == (config.size, config.size, 3)
    assert scene.image.dtype == np.uint8
    assert 1 <= len(scene.objects) <= config.objects[1]
    for index, item in enumerate(scene.objects):
        x, y, width, height = item.box
        mine = scene.owner == index
        inside = mine[y : y + height, x : x + width]
        assert inside.sum() == mine.sum() == item.area, "visible pixels outside the box"
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert edge.any(), "a side of the box touches nothing visible"
    assert set(np.unique(scene.owner)) <= set(range(-1, len(scene.objects)))


def test_heavily_hidden_objects_are_not_there() -> None:
    shares = [item.visible for seed in range(12) for item in draw_scene(np.random.default_rng(seed), CROWDED).objects]
    assert min(shares) >= CROWDED.min_visible
    assert min(shares) < 0.95, "no overlap at all: the test shows nothing"
    assert max(shares) == 1.0


def test_a_crowded_scene_leaves_out_what_does_not_fit() -> None:
    config = SceneConfig(objects=(40, 40), clutter=(0, 0), radius=(40.0, 50.0), min_visible=0.9)
    scene = draw_scene(np.random.default_rng(0), config)
    assert 1 <= len(scene.objects) < 40
    assert all(item.visible >= 0.9 for item in scene.objects)


@pytest.mark.parametrize("name", sorted(PARTS))
def test_a_part_fits_its_radius_and_looks_like_itself(name: str) -> None:
    axis = np.arange(-60, 61, dtype=np.float32)
    x, y = np.broadcast_arrays(axis[None, :], axis[:, None])
    outline = PARTS[name](x, y, 40.0, np.random.default_rng(1))
    covered = outline.distance < 0
    reach = np.hypot(x, y)[covered].max()
    assert 36.0 < reach <= 44.0
    assert outline.paint.shape == (121, 121, 3)
    assert outline.paint.min() >= 0.0
    assert outline.paint.max() <= 1.0
    has_bore = name in {"gear", "nut", "washer"}
    assert covered[60, 60] != has_bore


def test_distances_are_distances() -> None:
    x, y = np.array([[0.0, 10.0, 14.0]], np.float32), np.zeros((1, 3), np.float32)
    np.testing.assert_allclose(hexagon(x, y, 10.0), [[-10.0, 0.0, 4.0]], atol=1e-5)
    np.testing.assert_allclose(segment(x, y, (0.0, 0.0), (10.0, 0.0), 2.0), [[-2.0, -2.0, 2.0]], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"size": 16}, "at least 32 pixels"),
        ({"objects": (0, 3)}, "1 <= fewest"),
        ({"clutter": (3, 2)}, "0 <= fewest"),
        ({"radius": (50.0, 15.0)}, "smallest <= largest"),
        ({"radius": (15.0, 200.0)}, "half the image"),
        ({"min_visible": 0.0}, "a share in"),
    ],
)
def test_a_config_no_scene_can_satisfy_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SceneConfig(**options)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one scene each"):
        DatasetConfig(val=0)

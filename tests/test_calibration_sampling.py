"""Calibration sets: what is drawn, what is passed over, and what is recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cell_world import make_images
from PIL import Image

from calibration.sampling import contact_sheet, draw, evaluation_digests
from edgedet import InvalidInputError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 images to choose from, in `train`, and 16 to evaluate on, in `val`."""
    root = tmp_path_factory.mktemp("images")
    make_images(root / "train", 24, seed=1)
    make_images(root / "val", 16, seed=2)
    return root


def test_the_same_seed_gives_the_same_set(world: Path) -> None:
    draws = [draw(world / "train", count=10, seed=seed) for seed in (7, 7, 8)]
    assert draws[0] == draws[1]
    assert draws[0].images != draws[2].images
    assert len({image.sha256 for image in draws[0].images}) == 10
    assert draws[0].candidates == 24


def test_what_cannot_be_used_is_passed_over_with_a_reason(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(1, 7):
        shutil.copy(world / "train" / f"{number:03d}.png", folder)
    shutil.copy(world / "train" / "001.png", folder / "copy.png")
    shutil.copy(world / "val" / "003.png", folder / "renamed.png")
    (folder / "broken.png").write_bytes((world / "train" / "007.png").read_bytes()[:300])
    (folder / "text.jpg").write_text("not an image")
    sample = draw(folder, count=6, seed=0, exclude=sorted(evaluation_digests(world / "val")))
    with pytest.raises(InvalidInputError, match=r"got 6 of 10 \(4 refused"):
        draw(folder, count=7, seed=0, exclude=sorted(evaluation_digests(world / "val")))
    everything = draw(folder, count=7, seed=0)
    reasons = {image.file: image.reason for image in sample.refused}
    assert set(reasons) <= {"001.png", "copy.png", "renamed.png", "broken.png", "text.jpg"}
    assert all("evaluation" in reasons[name] for name in reasons if name == "renamed.png")
    assert "renamed.png" not in {image.file for image in sample.images}
    assert "renamed.png" in {image.file for image in everything.images}


def test_evaluation_images_may_come_from_an_annotation_file(world: Path, tmp_path: Path) -> None:
    assert evaluation_digests(world / "val" / "instances.json") == evaluation_digests(world / "val")
    lonely = tmp_path / "instances.json"
    shutil.copy(world / "val" / "instances.json", lonely)
    with pytest.raises(InvalidInputError, match="beside it or in images/"):
        evaluation_digests(lonely)


def test_annotations_narrow_the_choice(world: Path, tmp_path: Path) -> None:
    document = json.loads((world / "train" / "instances.json").read_text())
    document["images"] = document["images"][:5]
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] <= 5]
    (tmp_path / "five.json").write_text(json.dumps(document))
    sample = draw(world / "train", count=5, seed=0, annotations=tmp_path / "five.json")
    assert sorted(image.file for image in sample.images) == [f"{number:03d}.png" for number in range(1, 6)]


def test_the_contact_sheet_shows_the_set(world: Path, tmp_path: Path) -> None:
    contact_sheet(world / "train", draw(world / "train", count=12, seed=3), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (960, 192)  # 12 images, 10 per row
        assert np.asarray(sheet).std() > 10


@pytest.mark.slow
def test_hostile_images_never_enter_a_set(shared: Path) -> None:
    folder = shared / "data" / "odd_images"
    sample = draw(folder, count=20, seed=0)
    assert len(sample.images) == 20
    assert all(image.width * image.height <= 100_000_000 for image in sample.images)
    assert sample.refused

"""Calibration sets: what is drawn, what is passed over, and what is recorded."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cell_world import COLOURS, SIDE, make_images, make_model
from numpy.typing import NDArray
from PIL import Image

from calibration.cli import main
from calibration.contact_sheet import contact_sheet
from calibration.quantize import record_sample
from calibration.sampling import (
    STRATEGIES,
    EvaluationImages,
    Sample,
    Strategy,
    draw,
    evaluation_images,
    read_sample,
)
from edgedet import ImageError, InvalidInputError, read_image
from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle


class MeanColour:
    """An embedding that can be worked out by hand: the mean of each colour channel, three images at a time."""

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return pixels.mean(axis=(0, 1), dtype=np.float32)

    def points(self, prepared: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        held = []
        for point in prepared:
            held.append(point)
            if len(held) == 3:
                yield np.stack(held)
                held = []
        if held:
            yield np.stack(held)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 images to choose from, in `train`, and 16 to evaluate on, in `val`."""
    root = tmp_path_factory.mktemp("images")
    make_images(root / "train", 24, seed=1)
    make_images(root / "val", 16, seed=2)
    return root


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(
        tmp_path / "cells",
        make_model(tmp_path / "model.onnx"),
        name="cells",
        input=InputSpec(width=SIDE, height=SIDE),
        output=LogitsBoxes(top_k=16),
        classes=list(COLOURS),
    )


def drawn(folder: Path, strategy: Strategy, *, count: int, seed: int, **options: object) -> Sample:
    embedding = MeanColour() if strategy == "diverse" else None
    return draw(folder, count=count, seed=seed, strategy=strategy, embedding=embedding, **options)  # type: ignore[arg-type]


def save(pixels: NDArray[np.generic], path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)
    return path


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_set(world: Path, strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = (drawn(world / "train", strategy, count=10, seed=seed) for seed in (7, 8))
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(listing(path), reverse=True))
    assert drawn(world / "train", strategy, count=10, seed=7) == first
    assert first.images != other.images
    assert len({image.sha256 for image in first.images}) == 10
    assert (first.strategy, first.seed, first.candidates) == (strategy, 7, 24)
    assert all(image.reason for image in first.images)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_smaller_set_is_the_beginning_of_a_larger_one(world: Path, strategy: Strategy) -> None:
    options = {"annotations": world / "train" / "instances.json"}
    small, large = (drawn(world / "train", strategy, count=count, seed=3, **options) for count in (5, 24))
    assert small.images == large.images[:5]
    assert len({image.file for image in large.images}) == 24


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_cannot_be_used_is_passed_over_with_a_reason(world: Path, tmp_path: Path, strategy: Strategy) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(1, 7):
        shutil.copy(world / "train" / f"{number:03d}.png", folder)
    shutil.copy(world / "train" / "001.png", folder / "copy.png")
    shutil.copy(world / "val" / "003.png", folder / "renamed.png")
    save(read_image(world / "val" / "004.png"), folder / "again.jpg", quality=60)
    (folder / "broken.png").write_bytes((world / "train" / "007.png").read_bytes()[:300])
    (folder / "text.jpg").write_text("not an image")
    evaluation = evaluation_images([world / "val"])
    with pytest.raises(InvalidInputError, match=r"expected 7 usable images in .*, got 6 of 11 \(5 refused, the first"):
        drawn(folder, strategy, count=7, seed=0, exclude=evaluation)
    sample = drawn(folder, strategy, count=6, seed=0, exclude=evaluation)
    assert {image.file for image in sample.images} - {"copy.png"} <= {f"{number:03d}.png" for number in range(1, 7)}
    reasons = {image.file: image.reason for image in drawn(folder, strategy, count=8, seed=0).refused}
    assert reasons.keys() - {"001.png", "copy.png"} == {"broken.png", "text.jpg"}
    with pytest.raises(InvalidInputError, match=r"got 0 of 11 \(11 refused"):
        drawn(folder, strategy, count=1, seed=0, exclude=evaluation_images([folder]))


def test_a_refused_image_says_of_what_it_is_a_copy(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(world / "train", folder)
    shutil.copy(world / "val" / "003.png", folder / "renamed.png")
    save(read_image(world / "val" / "004.png"), folder / "again.jpg", quality=60)
    sample = drawn(folder, "stratified", count=24, seed=0, exclude=evaluation_images([world / "val"]))
    reasons = {image.file: image.reason for image in sample.refused}
    assert reasons.keys() == {"renamed.png", "again.jpg"}
    assert reasons["renamed.png"] == "is the evaluation image 003.png"
    assert reasons["again.jpg"].startswith("looks like the evaluation image 004.png, at most ")


def test_evaluation_images_may_come_from_several_places(world: Path, tmp_path: Path) -> None:
    folder, file = (evaluation_images([world / name]) for name in ("val", "val/instances.json"))
    assert folder.digests == file.digests
    assert len(folder.names) == len(folder.thumbnails) == 16
    assert len(evaluation_images([world / "val", world / "train"]).digests) == 40
    lonely = tmp_path / "instances.json"
    shutil.copy(world / "val" / "instances.json", lonely)
    with pytest.raises(InvalidInputError, match="beside it or in images/"):
        evaluation_images([lonely])
    with pytest.raises(ImageError):
        evaluation_images([tmp_path])
    nothing = evaluation_images([])
    assert (nothing.digests, nothing.names) == ({}, ())


def test_a_broken_evaluation_image_is_known_by_its_digest(world: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes((world / "val" / "001.png").read_bytes()[:300])
    shutil.copy(world / "val" / "002.png", tmp_path)
    evaluation = evaluation_images([tmp_path])
    assert sorted(evaluation.digests.values()) == ["002.png", "broken.png"]
    assert evaluation.names == ("002.png",)


def test_near_copies_are_told_from_what_only_looks_like_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scene = np.asarray(Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((640, 480), 2))
    evaluation = evaluation_images([save(scene, tmp_path / "val" / "scene.png").parent])

    def refused(image: Image.Image) -> bool:
        return bool(evaluation.same_picture(np.asarray(image)))

    def encoded(image: Image.Image, quality: int) -> Image.Image:
        target = io.BytesIO()
        image.save(target, format="JPEG", quality=quality)
        return Image.fromarray(read_image(target.getvalue()))

    picture = Image.fromarray(scene)
    assert all(refused(encoded(picture, quality)) for quality in (95, 50, 10))
    assert all(refused(picture.resize(size, 2)) for size in ((320, 240), (1280, 960), (416, 416), (97, 71)))
    assert refused(picture.convert("L").convert("RGB"))
    moved = scene.copy()
    here = moved[200:240, 300:340]
    here[:] = 0 if here.mean() > 128 else 255  # one small object in front of a fixed camera
    assert not refused(Image.fromarray(moved))
    assert not refused(Image.fromarray(scene[::-1].copy()))
    assert not refused(Image.fromarray(np.clip(scene.astype(int) + 20, 0, 255).astype(np.uint8)))
    grey = np.full((50, 50, 3), 100, np.uint8)
    plain = evaluation_images([save(grey, tmp_path / "plain" / "grey.png").parent])
    assert plain.same_picture(grey + 3)  # what has no gradients has no random ones
    assert not plain.same_picture(grey + 30)


def test_annotations_narrow_the_choice(world: Path, tmp_path: Path) -> None:
    document = json.loads((world / "train" / "instances.json").read_text())
    document["images"] = document["images"][:5]
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] <= 5]
    (tmp_path / "five.json").write_text(json.dumps(document))
    sample = draw(world / "train", count=5, seed=0, annotations=tmp_path / "five.json")
    assert sorted(image.file for image in sample.images) == [f"{number:03d}.png" for number in range(1, 6)]
    with pytest.raises(InvalidInputError, match="got none of 5 there; check --images"):
        draw(tmp_path, count=5, seed=0, annotations=tmp_path / "five.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "expected a count >= 1, got 0"),
        ({"strategy": "best"}, "expected a strategy of random, stratified, diverse, got 'best'"),
        ({"strategy": "diverse"}, "expected an embedding"),
    ],
)
def test_wrong_options_are_named(world: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        draw(world / "train", **{"count": 2, "seed": 0, **options})  # type: ignore[arg-type]


def test_stratified_evens_out_a_skewed_folder(tmp_path: Path) -> None:
    """Ninety dim pictures, six bright, four dark, and as an oracle of evenness what chance gives."""
    rng = np.random.default_rng(0)
    levels = {"mid-tone": (90, 115), "bright": (6, 220), "dark": (4, 20)}
    kinds = {}
    for kind, (number, level) in levels.items():
        for index in range(number):
            name = f"{kind}{index}.png"
            save(rng.normal(level, 2, (20, 30, 3)).clip(0, 255), tmp_path / name)
            kinds[name] = kind

    def counts(strategy: Strategy, seed: int) -> list[int]:
        files = [image.file for image in draw(tmp_path, count=12, seed=seed, strategy=strategy).images]
        return sorted(sum(kinds[file] == kind for file in files) for kind in levels)

    assert [counts("stratified", seed) for seed in range(3)] == [[4, 4, 4]] * 3
    assert max(min(counts("random", seed)) for seed in range(3)) < 4
    sample = draw(tmp_path, count=12, seed=0, strategy="stratified")
    assert {image.reason for image in sample.images} == {f"{kind}, blurred" for kind in levels}
    assert all(image.reason.startswith(kinds[image.file]) for image in sample.images)


def test_stratified_balances_objects_too(world: Path, tmp_path: Path) -> None:
    document = json.loads((world / "train" / "instances.json").read_text())
    document["annotations"] = [
        {"id": number, "image_id": number, "category_id": 1 + (number > 20), "bbox": [0, 0, 50, 50]}
        for number in range(1, 25)  # red in twenty images, blue in four
    ]
    (tmp_path / "instances.json").write_text(json.dumps(document))
    options = {"count": 8, "seed": 0, "annotations": tmp_path / "instances.json"}
    sample = drawn(world / "train", "stratified", **options)  # type: ignore[arg-type]
    blue = {f"{number:03d}.png" for number in range(21, 25)}
    assert blue < {image.file for image in sample.images}
    for image in sample.images:
        assert image.reason.startswith("medium blue, mid-tone, " if image.file in blue else "medium red, mid-tone, ")


def test_diverse_goes_to_what_is_far(tmp_path: Path) -> None:
    for index in range(20):
        save(np.full((8, 8, 3), 100 + index % 3), tmp_path / f"grey{index}.bmp", format="BMP")
        # files of their own, not copies
        with (tmp_path / f"grey{index}.bmp").open("ab") as file:
            file.write(bytes([index]))
    for name, colour in {"red": (250, 0, 0), "blue": (0, 0, 250)}.items():
        save(np.broadcast_to(colour, (8, 8, 3)), tmp_path / f"{name}.png")
    for seed in range(3):
        sample = drawn(tmp_path, "diverse", count=3, seed=seed)
        files = [image.file for image in sample.images]
        assert {"red.png", "blue.png"} < set(files)
        assert sample.images[0].reason == "first, drawn at random"
        here, before = (read_image(tmp_path / file)[0, 0].astype(float) for file in (files[1], files[0]))
        assert sample.images[1].reason == f"{np.linalg.norm(here - before):.2f} from the nearest before"


@pytest.mark.parametrize(("strategy", "total"), [("random", 4), ("stratified", 24), ("diverse", 24)])
def test_progress_reaches_its_end(world: Path, strategy: Strategy, total: int) -> None:
    told: list[tuple[int, int]] = []
    drawn(world / "train", strategy, count=4, seed=0, progress=lambda stage, *step: told.append(step))
    assert told == [(done, total) for done in range(1, total + 1)]


def test_the_record_survives_a_bundle(world: Path, bundle: Path) -> None:
    sample = drawn(world / "train", "diverse", count=5, seed=1)
    record_sample(bundle, sample)
    assert read_sample(bundle) == sample


def test_records_without_reasons_are_read_and_damaged_ones_are_not(world: Path) -> None:
    record = json.loads(json.dumps(draw(world / "train", count=2, seed=0).to_json()))
    for entry in record["images"]:
        del entry["reason"]
    assert [image.reason for image in Sample.from_json(record).images] == ["", ""]
    for damage in ({"file": 5}, {"reason": None}, {"width": "64"}, {"other": 1}):
        with pytest.raises(InvalidInputError, match="damaged sample"):
            Sample.from_json({**record, "images": [{**record["images"][0], **damage}]})


def test_the_contact_sheet_shows_the_set_and_why(world: Path, tmp_path: Path) -> None:
    sample = drawn(world / "train", "stratified", count=12, seed=3)
    contact_sheet(world / "train", sample, tmp_path / "sheet.png")
    silent = Sample.from_json(
        {**sample.to_json(), "images": [{**entry, "reason": ""} for entry in sample.to_json()["images"]]}  # type: ignore[attr-defined]
    )
    contact_sheet(world / "train", silent, tmp_path / "silent.png")
    sheet, without = (read_image(tmp_path / name).astype(int) for name in ("sheet.png", "silent.png"))
    assert sheet.shape == (30 + 2 * 174, 1440, 3)  # a heading, 12 images, 10 per row
    assert sheet[:30].std() > 5
    captions = np.abs(sheet - without).sum(axis=2) > 0
    for row in range(2):
        top = 30 + row * 174
        assert not captions[top : top + 140].any()
        tiles = captions[top + 140 : top + 174].reshape(34, 10, 144).any(axis=(0, 2))
        assert tiles.sum() == (10, 2)[row]
    with pytest.raises(InvalidInputError, match="cannot be written"):
        contact_sheet(world / "train", sample, tmp_path / "missing" / "sheet.png")


def test_a_contact_sheet_of_a_large_set_ends_somewhere(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calibration.contact_sheet.SHOWN", 8)
    contact_sheet(world / "train", drawn(world / "train", "random", count=12, seed=3), tmp_path / "sheet.png")
    assert read_image(tmp_path / "sheet.png").shape == (30 + 174, 8 * 144, 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_command(
    world: Path, bundle: Path, tmp_path: Path, strategy: Strategy, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "train"
    shutil.copytree(world / "train", folder)
    shutil.copy(world / "val" / "002.png", folder / "leak.png")
    images = ["--images", str(folder), "--exclude", str(world / "val"), "--contact-sheet", str(tmp_path / "sheet.png")]
    assert main(["sample", str(bundle), *images, "--strategy", strategy, "--count", "24", "--seed", "5"]) == 0
    said = capsys.readouterr().out
    assert f"24 of 25 images, {strategy}, seed 5, recorded in calibration.json" in said
    sample = read_sample(bundle)
    assert (sample.strategy, sample.seed, len(sample.images)) == (strategy, 5, 24)
    assert "leak.png" not in {image.file for image in sample.images}
    assert all(image.reason for image in sample.images)
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_hostile_images_never_enter_a_set(shared: Path, strategy: Strategy) -> None:
    folder = shared / "data" / "odd_images"
    sample = drawn(folder, strategy, count=20, seed=0)
    assert len(sample.images) == 20
    assert all(image.width * image.height <= 100_000_000 for image in sample.images)
    assert sample.refused


@pytest.mark.slow
def test_of_photos_copies_are_refused_and_no_others(shared: Path) -> None:
    data = shared / "data"
    evaluation = evaluation_images([data / "coco_val2017_subset" / "instances.json"])
    train = draw(data / "coco_train2017_subset" / "images", count=343, seed=0, exclude=evaluation)
    assert train.refused == ()
    for name, path in list(
        zip(evaluation.names, sorted((data / "coco_val2017_subset" / "images").iterdir()), strict=True)
    )[::8]:
        with Image.open(path) as file:
            photo = file.convert("RGB")
        for width, height in (photo.size, (photo.width // 2, photo.height // 2), (320, 320)):
            target = io.BytesIO()
            photo.resize((width, height), 1).save(target, format="JPEG", quality=40)
            assert f"image {name}," in evaluation.same_picture(read_image(target.getvalue()))


def test_without_evaluation_images_everything_may_be_chosen() -> None:
    assert EvaluationImages().same_picture(np.zeros((4, 4, 3), np.uint8)) == ""

"""Batches as a whole: the same images whoever draws them, at the size of the step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_data import NAMES, make_dataset

from edgedet import InvalidInputError
from training.data.batches import Batch, TrainingBatches
from training.data.dataset import CocoDataset, Sample
from training.data.formats import load_splits
from training.data.policy import Augmentation, Policy
from training.data.store import decode
from training.pictures import draw_batch
from training.recipes import input_spec

STRONG = Augmentation(crop=0.5, zoom_out=0.5, mosaic=0.4, mixup=0.6, copy_blend=0.8, channel_shuffle=0.5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    return load_splits(make_dataset(tmp_path_factory.mktemp("data")), None, None)[0]


def make(dataset: CocoDataset, policy: Policy, **options: int) -> TrainingBatches:
    return TrainingBatches(
        dataset, spec=input_spec(64), policy=policy, **{"batch": 6, "seed": 0, "cache_bytes": 1 << 22, **options}
    )


def joined(parts: list[Batch]) -> Batch:
    return Batch(
        images=torch.cat([part.images for part in parts]),
        targets=[target for part in parts for target in part.targets],
        seeds=tuple(seed for part in parts for seed in part.seeds),
    )


def same(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.images, second.images)
        and first.seeds == second.seeds
        and all(
            torch.equal(a[name], b[name])
            for a, b in zip(first.targets, second.targets, strict=True)
            for name in ("labels", "boxes")
        )
    )


@pytest.mark.parametrize("world", [2, 3])
def test_processes_draw_the_parts_of_one_batch(dataset: CocoDataset, world: int) -> None:
    policy = Policy(STRONG, sizes=(64, 96))
    mixed = 0
    for epoch in range(6):
        whole = next(make(dataset, policy).epoch(epoch))
        parts = [
            next(make(dataset, policy, rank=rank, world=world, workers=rank).epoch(epoch)) for rank in range(world)
        ]
        assert {len(part.targets) for part in parts} == {6 // world}
        assert same(joined(parts), whole)
        mixed += sum(len(target["labels"]) > 2 for target in whole.targets)
    assert mixed > 6  # partners were blended in, also from other processes


def test_a_step_has_one_size_and_a_resumed_epoch_the_same_ones(dataset: CocoDataset) -> None:
    policy = Policy(Augmentation(), stop=4, sizes=(64, 96, 128))
    batches = make(dataset, policy, batch=2)
    sizes = [tuple(batch.images.shape[-2:]) for epoch in range(4) for batch in batches.epoch(epoch)]
    assert {(64, 64), (96, 96), (128, 128)} == set(sizes)
    assert [batch.images.shape for batch in batches.epoch(4)] == [(2, 3, 64, 64)] * 3
    later = next(make(dataset, policy, batch=2).epoch(1, first_step=2))
    assert same(later, list(batches.epoch(1))[2])


def test_least_box_size_grows_with_the_input(dataset: CocoDataset) -> None:
    def boxes(sizes: tuple[int, ...]) -> int:
        policy = Policy(Augmentation(flip=0.0, photometric=0.0, min_box=16.0), sizes=sizes)
        return sum(len(target["labels"]) for target in next(make(dataset, policy).epoch(0)).targets)

    assert boxes((64,)) == boxes((128,)) > 0


def test_seeds_are_of_the_image_and_the_epoch(dataset: CocoDataset) -> None:
    batches = make(dataset, Policy(Augmentation()), batch=2)
    of_epochs = [[seed for batch in batches.epoch(epoch) for seed in batch.seeds] for epoch in (0, 1)]
    assert len({*of_epochs[0], *of_epochs[1]}) == 12
    assert all(0 <= seed < 2**63 for seed in of_epochs[0])
    order = [index for indices in batches.order(0) for index in indices]
    other = make(dataset, Policy(Augmentation()), batch=3)
    again = [seed for batch in other.epoch(0) for seed in batch.seeds]
    assert dict(zip(order, of_epochs[0], strict=True)) == dict(
        zip([index for indices in other.order(0) for index in indices], again, strict=True)
    )


def test_epochs_follow_the_policy(dataset: CocoDataset) -> None:
    def images(policy: Policy, epoch: int) -> torch.Tensor:
        return next(make(dataset, policy).epoch(epoch)).images

    policy = Policy(STRONG, start=1, mix_stop=2, stop=3)
    gentle, unmixed = Policy(STRONG.gentle()), Policy(Augmentation(crop=0.5, zoom_out=0.5, channel_shuffle=0.5))
    assert torch.equal(images(policy, 0), images(gentle, 0))
    assert not torch.equal(images(policy, 1), images(unmixed, 1))
    assert torch.equal(images(policy, 2), images(unmixed, 2))
    assert torch.equal(images(policy, 3), images(gentle, 3))


def test_the_preview_shows_the_whole_augmentation_at_its_size(dataset: CocoDataset, tmp_path: Path) -> None:
    policy = Policy(STRONG, start=3, sizes=(96,))
    batch = make(dataset, policy).preview()
    assert torch.equal(batch.images, next(make(dataset, policy).epoch(3)).images)
    draw_batch(tmp_path / "batch.png", batch, spec=input_spec(64), names=NAMES)
    with Image.open(tmp_path / "batch.png") as sheet:
        assert sheet.size == (4 * 96, 2 * 96)
        pixels = np.asarray(sheet, np.float32)
    # The first cell is the first image, but for its boxes and their names.
    error = np.abs(pixels[:96, :96].transpose(2, 0, 1) / 255 - batch.images[0].numpy()).max(axis=0)
    assert np.median(error) < 1 / 255


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_photos_are_decoded_small_and_look_the_same(tmp_path: Path, orientation: int) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((1200, 900), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(tmp_path / "photo.jpg", quality=95, exif=exif)
    width, height = (1200, 900) if orientation == 1 else (900, 1200)
    sample = Sample(1, tmp_path / "photo.jpg", width, height, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    whole = decode(sample)
    assert whole.shape == (height, width, 3)
    assert decode(sample, enough=500).shape == whole.shape  # a half would be too small
    for enough, divisor in ((400, 2), (200, 4), (64, 8)):
        small = decode(sample, enough=enough)
        assert small.shape[:2] == (-(-height // divisor), -(-width // divisor))
        expected = np.asarray(Image.fromarray(whole).resize(small.shape[1::-1], Image.Resampling.BOX), np.float32)
        assert np.abs(small - expected).mean() < 3
    wrong = Sample(1, sample.file, width + 8, height, sample.boxes, sample.labels)
    with pytest.raises(InvalidInputError, match="pixels as the annotations state"):
        decode(wrong, enough=100)


def test_edge_input_is_normalised(dataset: CocoDataset) -> None:
    def images(model: str) -> torch.Tensor:
        spec = input_spec(64, model=model)
        batches = TrainingBatches(dataset, spec=spec, policy=Policy(Augmentation(mixup=0.5)), batch=6, seed=0)
        return next(batches.epoch(0)).images

    mean, std = (
        np.asarray(value, np.float32)[:, None, None] for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    np.testing.assert_allclose(images("edge-r18"), (images("atto").numpy() - mean) / std, atol=1e-5)


@pytest.mark.parametrize("options", [{"batch": 5, "world": 2}, {"rank": 2, "world": 2}, {"batch": 14, "world": 7}])
def test_a_batch_that_cannot_be_shared_is_refused(dataset: CocoDataset, options: dict[str, int]) -> None:
    with pytest.raises(InvalidInputError, match="batch: expected a multiple of the"):
        make(dataset, Policy(Augmentation()), **options)


def test_batches_are_prepared_ahead_only_while_they_are_wanted(dataset: CocoDataset) -> None:
    batches: Iterator[Batch] = make(dataset, Policy(STRONG), batch=2, workers=2).epoch(0)
    next(batches)
    assert len(list(batches)) == 2

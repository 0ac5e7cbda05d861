"""Augmentation against pixels: a coloured rectangle is drawn, moved with the image, and found again."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from numpy.typing import NDArray

from edgedet import InvalidInputError
from edgedet.bundle import InputSpec
from training.data.augment import Augmentation, Source, Tile, augment, colour_matrix, compose, iou_crop
from training.data.batches import recolour

SPEC = InputSpec(width=96, height=64, filter="antialias")
BOXES = np.asarray([[0.25, 0.25, 0.5, 0.75], [0.625, 0.125, 0.75, 0.25]], np.float32)


def drawn(boxes: NDArray[np.float32] = BOXES, *, width: int = 192, height: int = 128) -> Source:
    """Rectangles on black: the first red, the second blue."""
    image = np.zeros((height, width, 3), np.uint8)
    for label, (x0, y0, x1, y1) in enumerate(boxes):
        image[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width), 2 * label] = 255
    return Source(image=image, boxes=boxes, labels=np.arange(len(boxes), dtype=np.int64))


def found(image: NDArray[np.float32], label: int) -> list[float]:
    """Where the rectangle of a label is in a network input: cxcywh in [0, 1], to about half a pixel."""
    ys, xs = np.nonzero(image[2 * label] > 0.5)
    height, width = image.shape[1:]
    x0, x1, y0, y1 = xs.min() / width, (xs.max() + 1) / width, ys.min() / height, (ys.max() + 1) / height
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("place", [(0, 0, 96, 64), (10, 4, 82, 60)])
@pytest.mark.parametrize("region", [(0, 0, 192, 128), (20, 8, 180, 120)])
def test_boxes_go_where_the_pixels_go(
    mirrored: bool, upside_down: bool, place: tuple[int, int, int, int], region: tuple[int, int, int, int]
) -> None:
    tile = Tile(region=region, place=place, mirrored=mirrored, upside_down=upside_down)
    example = compose([drawn()], [tile], spec=SPEC)
    assert example.image.shape == (3, 64, 96)
    assert example.labels.tolist() == [0, 1]
    for box, label in zip(example.boxes, example.labels, strict=True):
        np.testing.assert_allclose(box, found(example.image, int(label)), atol=1.2 / 64)


def test_mosaic_has_every_tile_in_its_place() -> None:
    sources = [drawn(BOXES[:1]), drawn(BOXES[1:]), drawn(np.zeros((0, 4), np.float32)), drawn(BOXES)]
    places = [(0, 0, 40, 30), (40, 0, 96, 30), (0, 30, 40, 64), (40, 30, 96, 64)]
    tiles = [Tile(region=(0, 0, 192, 128), place=place) for place in places]
    example = compose(sources, tiles, spec=SPEC)
    assert example.labels.tolist() == [0, 0, 0, 1]
    for (cx, cy, _, _), place in zip(example.boxes[:2], places[:2], strict=True):
        assert place[0] < cx * 96 < place[2]
        assert place[1] < cy * 64 < place[3]
    expected = [(40 + 56 * 0.375) / 96, (30 + 34 * 0.5) / 64, 56 * 0.25 / 96, 34 * 0.5 / 64]
    np.testing.assert_allclose(example.boxes[2], expected, atol=1e-6)


def test_canvas_outside_the_tile_is_the_pad_value() -> None:
    example = compose([drawn()], [Tile(region=(0, 0, 192, 128), place=(0, 0, 48, 64))], spec=SPEC)
    np.testing.assert_allclose(example.image[:, :, 48:], 114 / 255, atol=1e-6)


def test_cut_boxes_are_clipped_and_those_centred_outside_dropped() -> None:
    # The region ends inside both rectangles: past the centre of the first one, before that of the second one.
    tile = Tile(region=(0, 0, 126, 128), place=(0, 0, 96, 64))
    example = compose([drawn()], [tile], spec=SPEC)
    assert example.labels.tolist() == [0]
    tile = Tile(region=(60, 0, 192, 128), place=(0, 0, 96, 64))
    example = compose([drawn()], [tile], spec=SPEC)
    box = example.boxes[example.labels.tolist().index(0)]
    np.testing.assert_allclose([box[0] - box[2] / 2, box[0] + box[2] / 2], [0, 36 / 132], atol=1e-6)


def test_small_boxes_are_dropped_in_network_pixels() -> None:
    tile = Tile(region=(0, 0, 192, 128), place=(0, 0, 96, 64))
    assert len(compose([drawn()], [tile], spec=SPEC, min_box=7.9).labels) == 2  # the second is 12 x 8 pixels
    assert compose([drawn()], [tile], spec=SPEC, min_box=8.1).labels.tolist() == [0]


def test_same_generator_same_example_and_all_draws_are_valid() -> None:
    settings = Augmentation(
        flip=0.5, vertical_flip=0.5, photometric=0.7, crop=0.5, zoom_out=0.4, mosaic=0.3, min_box=1.0
    )
    kept = 0
    for seed in range(60):
        first, second = (
            augment(
                drawn(), others=lambda rng: drawn(BOXES[: rng.integers(3)]), spec=SPEC, settings=settings,
                rng=default_rng(seed),
            )
            for _ in range(2)
        )  # fmt: skip
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.boxes, second.boxes)
        assert len(first.boxes) == len(first.labels)
        assert np.isfinite(first.image).all()
        corners = np.concatenate(
            [first.boxes[:, :2] - first.boxes[:, 2:] / 2, first.boxes[:, :2] + first.boxes[:, 2:] / 2]
        )
        assert corners.min(initial=0) >= -1e-6
        assert corners.max(initial=0) <= 1 + 1e-6
        kept += len(first.labels)
    assert kept > 60


def test_an_image_without_boxes_stays() -> None:
    empty = drawn(np.zeros((0, 4), np.float32))
    for seed in range(5):
        example = augment(
            empty,
            others=lambda rng: empty,
            spec=SPEC,
            settings=Augmentation(crop=1.0, mosaic=0.5),
            rng=default_rng(seed),
        )
        assert example.boxes.shape == (0, 4)
        assert example.image.shape == (3, 64, 96)


def test_crop_keeps_the_least_overlap() -> None:
    crops = [iou_crop(BOXES, 192, 128, default_rng(seed)) for seed in range(200)]
    assert all(0 <= x0 < x1 <= 192 and 0 <= y0 < y1 <= 128 for x0, y0, x1, y1 in crops)
    smaller = [crop for crop in crops if crop != (0, 0, 192, 128)]
    assert len(smaller) > 40
    for x0, y0, x1, y1 in smaller:
        centres = (BOXES[:, :2] + BOXES[:, 2:]) / 2 * (192, 128)
        assert (np.all((centres > (x0, y0)) & (centres < (x1, y1)), axis=1)).any()
        assert 0.5 <= (x1 - x0) / (y1 - y0) <= 2.0


def test_colour_matrix_is_what_its_parts_say() -> None:
    grey = np.full(3, 0.5)
    hues = []
    for seed in range(100):
        matrix = colour_matrix(default_rng(seed)).astype(np.float64)
        # Every part maps greys to greys; the darkest and the lightest result of mid grey are 0.5 -+ 0.125 * 1.5.
        mapped = matrix[:, :3] @ grey + matrix[:, 3]
        assert np.ptp(mapped) < 1e-3
        assert 0.31 <= mapped[0] <= 0.69
        red = np.clip(matrix[:, :3] @ np.asarray([0.7, 0.3, 0.3]) + matrix[:, 3], 0, 1)
        hues.append((colorsys.rgb_to_hsv(*red)[0] * 360 + 180) % 360 - 180)
    assert max(np.abs(hues)) < 40
    assert np.ptp(hues) > 10


def test_recolour_changes_only_images_with_a_map() -> None:
    images = torch.rand(3, 3, 8, 8)
    swap = np.asarray([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0.25]], np.float32)
    out = recolour(images.clone(), [None, swap, None])
    assert torch.equal(out[0], images[0])
    assert torch.equal(out[2], images[2])
    torch.testing.assert_close(out[1, 0], images[1, 2])
    torch.testing.assert_close(out[1, 2], (images[1, 0] + 0.25).clamp(max=1))
    assert recolour(images, [None, None, None]) is images


@pytest.mark.parametrize("bad", [{"flip": 1.5}, {"mosaic": -0.1}, {"crop": float("nan")}, {"min_box": -1}])
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(bad))):
        Augmentation(**bad)

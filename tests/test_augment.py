"""Augmentation against pixels: a coloured rectangle is drawn, moved with the image, and found again."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image

from edgedet import InvalidInputError
from edgedet.bundle import InputSpec
from training.data.augment import augment, colour_matrix, iou_crop, recolour
from training.data.mixing import Mix, draw_mix, mix_batch
from training.data.mosaic import MosaicDraw, render_mosaic
from training.data.policy import Augmentation, Policy, multi_scale_sizes
from training.data.tiles import Source, Tile, compose

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


def test_tiles_are_all_in_their_places() -> None:
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


def photo(seed: int, width: int, height: int) -> Source:
    """A smooth random image without boxes."""
    coarse = default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return Source(image=image, boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64))


def pil_mosaic(sources: list[Source], draw: MosaicDraw, spec: InputSpec) -> NDArray[np.float32]:
    """The mosaic in the order of the papers: resize by the shorter side, paste, turn about the centre, stretch."""
    short = 200
    tiles = []
    for source in sources:
        height, width = source.image.shape[:2]
        scale = short / min(height, width)
        size = (round(width * scale), round(height * scale))
        tiles.append(Image.fromarray(source.image).resize(size, Image.Resampling.BILINEAR))
    wide, high = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    plane = Image.new("RGB", (2 * wide, 2 * high))
    for tile, corner in zip(tiles, [(0, 0), (wide, 0), (0, high), (wide, high)], strict=True):
        plane.paste(tile, corner)
    # From the turned plane back: undo the move, the turn and the scale about the centre.
    cosine, sine = math.cos(draw.turn) / draw.scale, math.sin(draw.turn) / draw.scale
    x = wide + draw.move[0] * 2 * wide
    y = high + draw.move[1] * 2 * high
    back = (cosine, sine, wide - cosine * x - sine * y, -sine, cosine, high + sine * x - cosine * y)
    turned = plane.transform(plane.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    turned = turned.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    if draw.mirrored:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draw.upside_down:
        turned = turned.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return (np.asarray(turned, np.float32) / 255).transpose(2, 0, 1)


MOSAICS = [
    MosaicDraw(),
    MosaicDraw(turn=0.17, scale=1.4),
    MosaicDraw(turn=-0.15, scale=0.6, move=(0.1, -0.05)),
    MosaicDraw(turn=0.1, scale=0.9, mirrored=True),
    MosaicDraw(turn=0.1, scale=1.1, move=(-0.08, 0.02), upside_down=True),
]


@pytest.mark.parametrize("draw", MOSAICS)
def test_mosaic_is_the_one_of_pillow(draw: MosaicDraw) -> None:
    spec = InputSpec(width=160, height=128, filter="antialias")
    sources = [photo(index, *size) for index, size in enumerate([(200, 200), (300, 200), (240, 320), (180, 200)])]
    ours = render_mosaic(sources, draw, spec=spec).image
    theirs = pil_mosaic(sources, draw, spec)
    # Where images meet and end, the two orders of resampling differ by a part of a pixel.
    error = np.abs(ours - theirs).mean(axis=0)
    assert np.median(error) < 0.01
    assert (error < 0.06).mean() > 0.93
    moved = render_mosaic(sources, MosaicDraw(turn=draw.turn + 0.03, scale=draw.scale), spec=spec).image
    assert np.abs(moved - theirs).mean() > 2 * error.mean()  # the comparison sees two degrees


@pytest.mark.parametrize("draw", MOSAICS)
@pytest.mark.parametrize("corner", range(4))
def test_mosaic_boxes_go_where_the_pixels_go(draw: MosaicDraw, corner: int) -> None:
    empty = drawn(np.zeros((0, 4), np.float32))
    tall = drawn(np.zeros((0, 4), np.float32), width=96, height=128)
    sources = [empty, tall, empty, empty]
    sources[corner] = drawn()
    example = render_mosaic(sources, draw, spec=SPEC, min_box=2.0)
    assert example.image.shape == (3, 64, 96)
    for box, label in zip(example.boxes, example.labels, strict=True):
        np.testing.assert_allclose(box, found(example.image, int(label)), atol=1.6 / 64)
    if draw.scale < 1.0:
        assert 0 in example.labels


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


def test_zoomed_and_cropped_boxes_go_where_the_pixels_go() -> None:
    settings = Augmentation(crop=0.8, zoom_out=0.6, zoom_limit=4.0, fill=0, photometric=0.0, min_box=3.0)
    whole = small = 0
    for seed in range(80):
        example = augment(drawn(), others=lambda rng: drawn(), spec=SPEC, settings=settings, rng=default_rng(seed))
        for box, label in zip(example.boxes, example.labels, strict=True):
            np.testing.assert_allclose(box, found(example.image, int(label)), atol=1.5 / 64)
            small += bool(label == 0 and box[2] < 0.15)
        whole += len(example.labels)
    assert whole > 80
    assert small > 5  # zooming out happens, up to a quarter


def test_outside_of_images_is_the_fill() -> None:
    tile = Tile(region=(0, 0, 192, 128), place=(0, 0, 48, 64))
    assert compose([drawn()], [tile], spec=SPEC, fill=0).image[:, :, 48:].max() == 0
    mosaic = render_mosaic([drawn()] * 4, MosaicDraw(scale=0.5), spec=SPEC, fill=114).image
    np.testing.assert_allclose(mosaic[:, :10], 114 / 255, atol=1e-6)


def test_same_generator_same_example_and_all_draws_are_valid() -> None:
    settings = Augmentation(
        flip=0.5,
        vertical_flip=0.5,
        photometric=0.7,
        crop=0.5,
        zoom_out=0.4,
        mosaic=0.3,
        min_box=1.0,
        channel_shuffle=0.3,
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


def test_recolour_is_an_affine_map_clipped() -> None:
    image = default_rng(0).random((3, 8, 8), dtype=np.float32)
    before = image.copy()
    recolour(image, np.asarray([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0.25]], np.float32))
    np.testing.assert_allclose(image[0], before[2], atol=1e-6)
    np.testing.assert_allclose(image[1], before[1], atol=1e-6)
    np.testing.assert_allclose(image[2], (before[0] + 0.25).clip(max=1), atol=1e-6)


@pytest.mark.parametrize("bad", [{"flip": 1.5}, {"mosaic": -0.1}, {"crop": float("nan")}, {"min_box": -1}])
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(bad))):
        Augmentation(**bad)


def test_channels_swap() -> None:
    red = Source(np.full((8, 8, 3), (250, 100, 10), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    orders = set()
    for seed in range(40):
        settings = Augmentation(photometric=0.0, channel_shuffle=1.0)
        image = augment(red, others=lambda rng: red, spec=SPEC, settings=settings, rng=default_rng(seed)).image
        orders.add(tuple((image[:, 0, 0] * 255).round().astype(int).tolist()))
    assert {tuple(sorted(order)) for order in orders} == {(10, 100, 250)}
    assert len(orders) == 6


# Mixing


def batch() -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    images = torch.stack(
        [torch.from_numpy(compose([drawn()], [Tile((0, 0, 192, 128), (0, 0, 96, 64))], spec=SPEC).image)]
    )
    images = torch.cat([images, torch.full((1, 3, 64, 96), 0.5), torch.rand(1, 3, 64, 96)])
    boxes = torch.tensor([[0.375, 0.5, 0.25, 0.5], [0.6875, 0.1875, 0.125, 0.125]])
    none = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    return images, [{"labels": torch.tensor([0, 1]), "boxes": boxes}, none, none]


def test_mixup_blends_images_as_they_were_and_joins_targets() -> None:
    images, targets = batch()
    before = images.clone()
    mixes = [Mix("mixup", 0.45, default_rng(0)), Mix("mixup", 0.55, default_rng(0)), None]
    mixed = mix_batch(images, targets, mixes, [2, 0, 1])
    torch.testing.assert_close(images[0], 0.45 * before[0] + 0.55 * before[2])
    torch.testing.assert_close(images[1], 0.55 * before[1] + 0.45 * before[0])
    assert torch.equal(images[2], before[2])
    assert [len(target["labels"]) for target in mixed] == [2, 2, 0]
    assert torch.equal(mixed[1]["boxes"], targets[0]["boxes"])


def test_an_image_is_not_mixed_with_itself() -> None:
    images, targets = batch()
    before = images.clone()
    mixed = mix_batch(images, targets, [Mix("mixup", 0.5, default_rng(0))], [0])
    assert torch.equal(images, before)
    assert len(mixed[0]["labels"]) == 2


@pytest.mark.parametrize("seed", range(8))
def test_copied_objects_are_in_their_boxes(seed: int) -> None:
    images, targets = batch()
    mixed = mix_batch(images, targets, [None, Mix("copy-blend", 0.45, default_rng(seed)), None], [2, 0, 1])[1]
    # The second rectangle is 12 x 8 pixels, below the least area.
    assert mixed["labels"].tolist() == [0]
    cx, cy, width, height = (mixed["boxes"][0] * torch.tensor([96, 64, 96, 64])).tolist()
    assert (width, height) == (24, 32)
    red = images[1, 0] > 0.5  # grey under red is lighter, grey under the black margin is darker
    ys, xs = torch.nonzero(red, as_tuple=True)
    assert (xs.min() + xs.max() + 1) / 2 == pytest.approx(cx, abs=0.6)
    assert (ys.min() + ys.max() + 1) / 2 == pytest.approx(cy, abs=0.6)
    assert images[1, 0, round(cy), round(cx)] == pytest.approx(0.45 * 0.5 + 0.55, abs=0.02)
    assert bool((images[1, 0] < 0.3).any())  # the margin


def test_mixes_are_drawn_as_often_as_asked() -> None:
    settings = Augmentation(mixup=0.5, copy_blend=0.4)
    kinds = [mix.kind if (mix := draw_mix(settings, default_rng(seed))) else "" for seed in range(2000)]
    assert kinds.count("mixup") == pytest.approx(1000, abs=70)
    assert kinds.count("copy-blend") == pytest.approx(400, abs=60)


# By epoch


def test_policy_is_that_of_deim() -> None:
    settings = Augmentation(mosaic=0.5, mixup=0.5, crop=0.8, copy_blend=0.4)
    policy = Policy(settings, start=4, mix_stop=29, stop=50, sizes=(480, 640))
    plain, strong, unmixed = policy.augmentation_at(0), policy.augmentation_at(4), policy.augmentation_at(29)
    assert plain == policy.augmentation_at(3) == policy.augmentation_at(50) == settings.gentle()
    assert strong == policy.augmentation_at(28) == settings
    assert (unmixed.mosaic, unmixed.mixup, unmixed.copy_blend, unmixed.crop) == (0, 0, 0, 0.8)
    assert unmixed == policy.augmentation_at(49)
    assert (policy.sizes_at(0), policy.sizes_at(49), policy.sizes_at(50)) == ((480, 640), (480, 640), ())
    assert Policy(settings).augmentation_at(1000) == settings


def test_sizes_are_those_of_rtdetr() -> None:
    published = [480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800]
    assert sorted(multi_scale_sizes(640, 3)) == published
    assert multi_scale_sizes(640, 0) == ()
    assert multi_scale_sizes(320, 2) == (224, 256, 288, 320, 320, 384, 352, 320)

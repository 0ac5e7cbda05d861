"""Tiled inference: plans that cover, merges against a NumPy reference and scenes whose objects are known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cell_world import CELL, COLOURS, SIDE, make_bundle, make_model
from numpy.typing import NDArray
from PIL import Image
from tile_reference import Found, merge

import edgedet
from edgedet import Detector, InvalidInputError, _core
from edgedet.labels import COCO80
from edgedet.onnx_import import import_model


def plan(image: tuple[int, int], tile: tuple[int, int], format: Any = "rgb", **options: Any) -> list[Any]:
    return _core.plan_tiles(*image, format, _core.TileOptions(width=tile[0], height=tile[1], **options))


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("overlap", [0, 0.2, 0.5, 1, 33])
@pytest.mark.parametrize("tile", [34, 64, 101, 640])
@pytest.mark.parametrize("length", [2, 64, 66, 100, 640, 1000, 4096])
def test_plans_cover_evenly_with_the_overlap_that_was_asked_for(
    length: int, tile: int, overlap: float, step: int
) -> None:
    if overlap == 33 and tile == 34 and length > 3000:
        return  # too many
    tiles = plan((length, 64), (tile, 64), "nv12" if step == 2 else "rgb", overlap=overlap, whole=False)
    assert {(y, h) for _, y, _, h in tiles} == {(0, 64)}
    starts = [x for x, *_ in tiles]
    (size,) = {w for _, _, w, _ in tiles}
    assert size == min(tile // step * step, length)
    assert starts[0] == 0
    assert starts[-1] + size == length
    assert all(start % step == 0 for start in starts)
    if len(starts) == 1:
        return
    wanted = overlap * tile if overlap < 1 else overlap
    advances = np.diff(starts)
    assert advances.min() >= step
    assert (size - advances >= min(wanted, size - step)).all()
    assert advances.max() - advances.min() <= step  # evenly
    # One tile fewer would not do.
    furthest = max((size - int(np.ceil(wanted / step)) * step) // step * step, step)
    assert size + (len(starts) - 2) * furthest < length


def test_tiles_go_row_by_row_and_the_whole_image_is_last() -> None:
    tiles = plan((100, 60), (60, 40), overlap=20)
    assert tiles == [(0, 0, 60, 40), (40, 0, 60, 40), (0, 20, 60, 40), (40, 20, 60, 40), (0, 0, 100, 60)]
    assert plan((100, 60), (500, 500), overlap=0.2) == [(0, 0, 100, 60)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": (0, 8)}, "tile width: expected 1 pixels or more, got 0"),
        ({"tile": (8, -1)}, "tile height"),
        ({"overlap": 8}, "overlap"),
        ({"overlap": -0.1}, "overlap"),
        ({"overlap": float("nan")}, "overlap"),
        ({"overlap": 0}, "expected fewer than 4096, got 15625"),
    ],
)
def test_plans_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        plan((1000, 1000), **{"tile": (8, 8), **options})


def random_found(rng: np.random.Generator, tiles: list[tuple[int, int, int, int]], classes: int) -> list[Found]:
    """Objects as tiles see them, with noise, misses and ghosts; scores are of few values, so that there are ties."""
    count = int(rng.integers(1, 25))
    centres, sides = rng.uniform(0, 200, (count, 2)), rng.uniform(4, 120, (count, 2))
    objects = np.concatenate((centres - sides / 2, centres + sides / 2), axis=1)
    labels = rng.integers(classes, size=count)
    found: list[Found] = []
    for x, y, width, height in tiles:
        seen = np.clip(objects - [x, y, x, y] + rng.normal(0, 2, objects.shape), 0, [width, height, width, height])
        keep = (seen[:, 2:] - seen[:, :2]).min(axis=1) > 2
        keep &= rng.random(count) > 0.1
        ghosts = np.sort(rng.uniform(0, 1, (3, 2, 2)), axis=1).reshape(3, 4) * [width, height, width, height]
        boxes = np.concatenate((seen[keep], ghosts)).astype(np.float32)
        scores = rng.choice([0.1, 0.3, 0.5, 0.9], size=len(boxes)).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        names = np.concatenate((labels[keep], rng.integers(classes, size=3))).astype(np.int32)
        found.append((boxes[order], scores[order], names[order]))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_merging_is_what_the_reference_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiles = plan((200, 200), (int(rng.integers(60, 130)), 90), overlap=float(rng.uniform(0, 0.6)))
    found = random_found(rng, tiles, classes=int(rng.integers(1, 4)))
    match = float(rng.choice([0.3, 0.5, 0.8]))
    got, expected = _core.merge_tiles(tiles, 200, 200, found, match), merge(tiles, 200, 200, found, match)
    assert 0 < len(expected[1]) < sum(len(scores) for _, scores, _ in found)
    for left, right in zip(got, expected, strict=True):
        np.testing.assert_array_equal(left, right)


def seen_by(tiles: list[tuple[int, int, int, int]], objects: NDArray[Any], labels: NDArray[Any]) -> list[Found]:
    """What a perfect detector finds: of each object what lies in the tile, if that is 4 pixels or more, surer the more
    of it there is.
    """
    total = np.prod(objects[:, 2:] - objects[:, :2], axis=1)
    found: list[Found] = []
    for x, y, width, height in tiles:
        boxes = np.clip(objects - [x, y, x, y], 0, [width, height, width, height]).astype(np.float32)
        sides = boxes[:, 2:] - boxes[:, :2]
        keep = sides.min(axis=1) >= 4
        scores = (0.5 + 0.4 * np.prod(sides, axis=1) / total).astype(np.float32)
        order = [at for at in np.argsort(-scores, kind="stable") if keep[at]]
        found.append((boxes[order], scores[order], labels[order].astype(np.int32)))
    return found


def as_set(boxes: NDArray[Any], labels: NDArray[Any]) -> list[tuple[float, ...]]:
    return sorted((*np.round(box, 2).tolist(), int(label)) for box, label in zip(boxes, labels, strict=True))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("overlap", [0.15, 0.3, 60])
@pytest.mark.parametrize("seed", range(10))
def test_known_objects_are_found_once(seed: int, overlap: float, whole: bool) -> None:
    """A crowd of one class that touches and hides itself up to an IoU of 0.2, of all sizes up to several tiles."""
    rng = np.random.default_rng(seed)
    width, height = 1000, 700
    objects: list[NDArray[Any]] = []
    for side in (600, 400, *([150] * 6), *([40] * 60), *([15] * 60)):
        for _ in range(20):
            sides = rng.integers(max(6, side // 2), side, 2)
            corner = rng.integers(0, [width, height] - sides)
            box = np.array([*corner, *(corner + sides)], float)
            if all(iou(box, other) < 0.2 for other in objects):
                objects.append(box)
                break
    boxes, labels = np.array(objects), rng.integers(2, size=len(objects))
    # Two that both fill a tile look alike there: those that can are of classes of their own.
    large = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) >= 200
    labels[large] = 2 + np.arange(large.sum())
    tiles = plan((width, height), (250, 200), overlap=overlap, whole=whole)
    found = seen_by(tiles, boxes, labels)
    got, _, classes = _core.merge_tiles(tiles, width, height, found)
    assert sum(len(scores) for _, scores, _ in found) > 1.2 * len(boxes)
    assert as_set(got, classes) == as_set(boxes, labels)


def iou(a: NDArray[Any], b: NDArray[Any]) -> float:
    inter = float(np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)))
    return inter / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter)


def one(box: list[float], score: float = 0.9, label: int = 0) -> Found:
    return np.array([box], np.float32), np.array([score], np.float32), np.array([label], np.int32)


TWO = [(0, 0, 100, 100), (60, 0, 100, 100)]  # of an image of 160 x 100


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        # Whole in both: the better one.
        (one([65, 10, 90, 40], 0.8), one([6, 11, 31, 41], 0.9), [([66, 11, 91, 41], 0.9)]),
        # Whole in the left one, cut by the right one's border: the whole box, the better score.
        (one([30, 10, 80, 90], 0.6), one([0, 10, 20, 90], 0.9), [([30, 10, 80, 90], 0.9)]),
        # Cut in both: the hull.
        (one([20, 10, 100, 90], 0.6), one([0, 12, 80, 90], 0.9), [([20, 10, 140, 90], 0.9)]),
        # Beside each other in the overlap: two.
        (one([62, 10, 78, 40]), one([22, 10, 38, 40]), [([62, 10, 78, 40], 0.9), ([82, 10, 98, 40], 0.9)]),
        # Of another class: two.
        (one([65, 10, 90, 40]), one([5, 10, 30, 40], 0.9, 1), [([65, 10, 90, 40], 0.9), ([65, 10, 90, 40], 0.9)]),
        # A whole box of little worth has no say.
        (one([60, 10, 95, 90], 0.3), one([0, 10, 50, 90], 0.9), [([60, 10, 110, 90], 0.9)]),
        # A cut piece that is too small to agree with the whole object, but lies in it.
        (one([20, 0, 90, 90], 0.9), one([0, 60, 28, 88], 0.8), [([20, 0, 90, 90], 0.9)]),
    ],
)
def test_two_tiles_by_hand(left: Found, right: Found, expected: list[tuple[list[float], float]]) -> None:
    boxes, scores, _ = _core.merge_tiles(TWO, 160, 100, [left, right])
    assert [(box.tolist(), round(float(score), 4)) for box, score in zip(boxes, scores, strict=True)] == expected


def test_what_a_tile_saw_as_two_is_two() -> None:
    """Boxes of one tile are never merged, however alike, nor through a third one of another tile."""
    twins = tuple(np.repeat(part, 2, axis=0) for part in one([65, 10, 90, 40]))
    boxes, _, _ = _core.merge_tiles(TWO, 160, 100, [twins, one([5, 10, 30, 40])])  # type: ignore[list-item]
    assert len(boxes) == 2


@pytest.mark.parametrize(
    ("tiles", "found", "match", "message"),
    [
        (TWO, [one([0, 0, 1, 1])], 0.5, "expected detections of 2 tiles, got 1"),
        (TWO, [one([0, 0, 1, 1])] * 2, 0.0, "match"),
        (TWO, [one([0, 0, 1, 1])] * 2, 1.1, "match"),
        (TWO, [one([0, 0, 1, 1], float("nan"))] * 2, 0.5, "NaN"),
    ],
)
def test_merges_that_cannot_be(tiles: Any, found: Any, match: float, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        _core.merge_tiles(tiles, 160, 100, found, match)


@pytest.fixture(scope="module")
def cells_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    return make_bundle(folder / "bundle", make_model(folder / "cells.onnx"))


@pytest.fixture(scope="module")
def cells(cells_bundle: Path) -> Detector:
    return Detector(cells_bundle, score_threshold=0.5, threads=1, requests=2)


def cell_scene(rows: int, columns: int, seed: int) -> tuple[NDArray[np.uint8], list[tuple[int, ...]]]:
    """Grey with coloured cells on a grid, and the box and class of each."""
    rng = np.random.default_rng(seed)
    image = np.full((rows * CELL, columns * CELL, 3), 110, np.uint8)
    objects = []
    for row, column in itertools.product(range(rows), range(columns)):
        if rng.random() < 0.3:
            label = int(rng.integers(2))
            image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = list(COLOURS.values())[label]
            objects.append((column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL, label))
    return image, sorted(objects)


def test_each_cell_of_a_large_scene_is_found_once(cells: Detector) -> None:
    image, objects = cell_scene(10, 13, seed=1)  # 160 x 208: tiles start at multiples of 48, which is 3 cells
    for view in (image, np.pad(image, ((0, 0), (3, 9), (0, 0)))[:, 3 : 3 + image.shape[1]]):
        found = cells.detect_tiled(view, overlap=CELL, whole=False)
        rows = zip(np.round(found.boxes).astype(int).tolist(), found.labels.tolist(), strict=True)
        assert sorted((*box, label) for box, label in rows) == objects
        assert (np.diff(found.scores) <= 0).all()
    assert len(cells(image)) != len(objects)


@pytest.mark.parametrize("format", ["rgb", "bgr", "gray", "nv12"])
def test_tiles_are_what_crops_are(cells_bundle: Path, format: Any) -> None:
    """Detections of copied crops, merged, to the last bit: strides, planes and even tiles are right."""
    rng = np.random.default_rng(5)
    height, width = 150, 230
    detector = Detector(cells_bundle, threads=1, requests=2)
    if format in ("rgb", "bgr"):
        image: Any = np.repeat(np.repeat(rng.integers(0, 256, (15, 23, 3), np.uint8), 10, 0), 10, 1)
    else:
        luma = np.repeat(np.repeat(rng.integers(0, 256, (15, 23), np.uint8), 10, 0), 10, 1)
        chroma = rng.integers(100, 156, (height // 2, width), np.uint8)
        image = luma if format == "gray" else (np.pad(luma, ((0, 0), (0, 31)))[:, :width], chroma)
    tile, overlap = (77, 65), 21
    tiles = plan((width, height), tile, format, overlap=overlap)
    crops: list[Any] = []
    for x, y, w, h in tiles:
        if format == "nv12":
            assert x % 2 == y % 2 == w % 2 == h % 2 == 0
            crops.append((image[0][y : y + h, x : x + w].copy(), image[1][y // 2 : (y + h) // 2, x : x + w].copy()))
        else:
            crops.append(image[y : y + h, x : x + w].copy())
    parts = [(part.boxes, part.scores, part.labels) for part in detector(crops, format=format)]
    boxes, scores, labels = _core.merge_tiles(tiles, width, height, parts)
    found = detector.detect_tiled(image, tile=tile, overlap=overlap, format=format)
    assert len(found) > 0
    np.testing.assert_array_equal(found.boxes, boxes)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": (0, 5)}, "tile"),
        ({"tile": 64}, "tile"),
        ({"tile": (64, 64), "overlap": 64}, "overlap"),
        ({"overlap": "much"}, "overlap"),
        ({"match": 0}, "match"),
        ({"whole": 1}, "whole"),
        ({"format": "yuv"}, "format"),
    ],
)
def test_options_that_cannot_be(cells: Detector, options: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        cells.detect_tiled(np.zeros((100, 100, 3), np.uint8), **options)


def test_an_image_of_one_tile_is_a_plain_detection(cells: Detector) -> None:
    image, _ = cell_scene(4, 4, seed=3)
    plain, tiled = cells(image), cells.detect_tiled(Image.fromarray(image))
    np.testing.assert_array_equal(plain.boxes, tiled.boxes)
    assert plain.names == tiled.names
    assert image.shape[0] == SIDE


@pytest.mark.slow
def test_a_mosaic_of_a_photograph(shared: Path, tmp_path: Path) -> None:
    """Objects that a published model finds in a photograph are found once in each of its copies in a large image."""
    import_model(shared / "models" / "deimv2_hgnetv2_femto_coco.onnx", tmp_path / "femto", labels=COCO80)
    detector = Detector(tmp_path / "femto", score_threshold=0.3, threads=2)
    images = shared / "data" / "coco_val2017_subset" / "images"
    once = []
    for file in sorted(images.glob("*.jpg"))[:4]:
        photo = edgedet.read_image(file)
        height, width = photo.shape[:2]
        alone = detector(photo).filter(0.6)
        places = [(20, 30), (90 + width, 10), (50, 70 + height), (130 + width, 90 + height)]
        mosaic = np.full((2 * height + 120, 2 * width + 160, 3), 114, np.uint8)
        for x, y in places:
            mosaic[y : y + height, x : x + width] = photo
        found = detector.detect_tiled(mosaic, tile=(width, height), overlap=0.5)
        for (x, y), row in itertools.product(places, alone):
            box = np.array(row.box) + np.array([x, y, x, y])
            scores = [one.score for one in found if one.label == row.label and iou(box, np.array(one.box)) > 0.5]
            assert scores, (file.name, row)
            once.append(sum(score > 0.5 for score in scores) <= 1)
    assert len(once) >= 20
    assert np.mean(once) >= 0.95

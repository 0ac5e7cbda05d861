"""Decoding against the NumPy reference and the table of edge cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import reference
from numpy.typing import NDArray

from edgedet import InvalidInputError, ModelError, decode_logits, decode_scored

Floats = NDArray[np.float32]
SIZE = {"width": 416, "height": 320, "image_width": 640, "image_height": 480}


def head(queries: int, classes: int, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-4, 2, (queries, classes)).astype(np.float32)
    boxes = rng.uniform(0, 1, (queries, 4)).astype(np.float32)
    return logits, boxes


def compare(got: tuple[Floats, Floats, NDArray[np.int32]], expected: reference.Rows) -> None:
    boxes, scores, labels = got
    assert (boxes.dtype, scores.dtype, labels.dtype) == (np.float32, np.float32, np.int32)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_allclose(scores, expected.scores, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(boxes, expected.boxes, rtol=1e-6, atol=2e-3)


def compare_logits(logits: Floats, boxes: Floats, **options: Any) -> None:
    sizes = SIZE | {key: options.pop(key) for key in SIZE if key in options}
    compare(
        decode_logits(logits, boxes, **sizes, **options),
        reference.decode_logits(
            logits,
            boxes,
            size=(sizes["width"], sizes["height"]),
            image_size=(sizes["image_width"], sizes["image_height"]),
            **options,
        ),
    )


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("top_k", [1, 7, 300, 5000])
@pytest.mark.parametrize("shape", [(1, 1), (1, 80), (150, 80), (300, 3), (1000, 1203), (37, 41)])
def test_logits_match_reference(shape: tuple[int, int], top_k: int, resize: str) -> None:
    compare_logits(*head(*shape), top_k=top_k, resize=resize)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1, 1), (4000, 3), (3, 4000)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_boxes_are_mapped_and_clipped(size: tuple[int, int], resize: str) -> None:
    logits, boxes = head(50, 4)
    boxes = boxes * 2 - np.float32(0.5)  # many reach beyond the image
    compare_logits(logits, boxes, resize=resize, image_width=size[0], image_height=size[1])
    mapped, _, _ = decode_logits(
        logits, boxes, **(SIZE | {"image_width": size[0], "image_height": size[1]}), resize=resize
    )
    assert mapped.min() >= 0
    assert (mapped.max(axis=0) <= [*size, *size]).all()


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("top_k", [1, 64, 300, 100_000])
def test_ties_are_kept_in_order_of_the_index(levels: int, top_k: int) -> None:
    _, boxes = head(150, 80)
    logits = np.random.default_rng(5).integers(0, levels, (150, 80)).astype(np.float32)
    compare_logits(logits, boxes, top_k=top_k)


def test_negative_zero_ties_with_zero() -> None:
    _, boxes = head(2, 3)
    _, scores, labels = decode_logits(np.array([[-0.0, 0.0, -0.0], [0.0, -1.0, 0.0]], np.float32), boxes, **SIZE)
    assert labels.tolist() == [0, 1, 2, 0, 2, 1]
    assert scores[:5].tolist() == [0.5] * 5


@pytest.mark.parametrize("queries", [3, 400])
def test_infinite_logits_are_ordinary(queries: int) -> None:
    logits, boxes = head(queries, 80)
    logits[1, 5], logits[2, 6], logits[0, :] = math.inf, math.inf, -math.inf
    _, scores, labels = decode_logits(logits, boxes, **SIZE, top_k=queries * 80)
    assert labels[:2].tolist() == [5, 6]
    assert scores[:2].tolist() == [1, 1]
    assert labels[-80:].tolist() == list(range(80))
    assert (scores[-80:] == 0).all()


def test_extreme_logits_neither_overflow_nor_round_away() -> None:
    logits = np.array([[1e30, 90.0, 17.0, 0.0, -17.0, -80.0, -1e30]], np.float32)
    _, scores, _ = decode_logits(logits, head(1, 7)[1], **SIZE)
    expected = [1.0, 1.0, 1 / (1 + math.exp(-17)), 0.5, math.exp(-17) / (1 + math.exp(-17)), math.exp(-80), 0.0]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.5, 0.999999, 1.0])
def test_threshold_is_on_scores(threshold: float) -> None:
    logits, boxes = head(150, 80)
    compare_logits(logits, boxes, score_threshold=threshold)
    _, scores, _ = decode_logits(np.array([[0.0, 1.0, -1.0]], np.float32), boxes[:1], **SIZE, score_threshold=0.5)
    assert scores[-1] == 0.5  # the threshold itself is in


def test_a_head_without_rows_gives_no_detections() -> None:
    boxes, scores, labels = decode_logits(np.zeros((0, 80), np.float32), np.zeros((0, 4), np.float32), **SIZE)
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize("shape", [(1, 1), (7, 11), (150, 80)])
def test_nan_logits_are_an_error_wherever_they_are(shape: tuple[int, int]) -> None:
    for flat in {0, 1, shape[0] * shape[1] // 2, shape[0] * shape[1] - 1}:
        logits, boxes = head(*shape)
        logits.ravel()[flat % logits.size] = math.nan
        with pytest.raises(ModelError, match="NaN"):
            decode_logits(logits, boxes, **SIZE, top_k=1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_winning_boxes_are_finite(value: float) -> None:
    logits, boxes = head(10, 4)
    logits[3, 2], boxes[3, 1] = 9, value
    with pytest.raises(ModelError, match="finite"):
        decode_logits(logits, boxes, **SIZE)
    logits[3, :] = -30  # the row no longer wins, so its box does not matter
    decode_logits(logits, boxes, **SIZE, top_k=10)


def scored(rows: int, seed: int = 0) -> tuple[NDArray[np.int64], Floats, Floats]:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-20, 440, (rows, 4)).astype(np.float32)
    return rng.integers(0, 80, rows), corners, rng.uniform(0, 1, rows).astype(np.float32)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("rows", [0, 1, 300, 5000])
@pytest.mark.parametrize(("top_k", "threshold"), [(300, 0.0), (5, 0.0), (100_000, 0.7)])
def test_scored_match_reference(rows: int, resize: str, top_k: int, threshold: float) -> None:
    labels, boxes, scores = scored(rows)
    scores = (scores * 20).round() / np.float32(20)  # with ties
    options: dict[str, Any] = {"resize": resize, "top_k": top_k, "score_threshold": threshold}
    compare(
        decode_scored(labels, boxes, scores, classes=80, **SIZE, **options),
        reference.decode_scored(labels, boxes, scores, size=(416, 320), image_size=(640, 480), **options),
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("labels", -1, "labels"),
        ("labels", 80, "labels"),
        ("labels", 2**40, "labels"),
        ("scores", math.nan, "NaN"),
        ("boxes", math.nan, "finite"),
    ],
)
def test_broken_scored_heads_are_refused(field: str, value: float, message: str) -> None:
    labels, boxes, scores = scored(20)
    arrays = {"labels": labels, "boxes": boxes, "scores": scores}
    arrays[field][4] = value
    with pytest.raises(ModelError, match=message):
        decode_scored(**arrays, classes=80, **SIZE)


@pytest.mark.parametrize(
    "change",
    [
        {"top_k": 0},
        {"score_threshold": -0.1},
        {"score_threshold": 1.5},
        {"score_threshold": math.nan},
        {"width": 0},
        {"image_height": -3},
    ],
    ids=str,
)
def test_bad_options_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(change))):
        decode_logits(*head(2, 2), **(SIZE | change))


def test_shapes_must_agree() -> None:
    logits, boxes = head(4, 3)
    with pytest.raises(InvalidInputError, match=r"\(Q, 4\)"):
        decode_logits(logits, boxes[:3], **SIZE)
    with pytest.raises(InvalidInputError, match=r"\(Q, 4\)"):
        decode_logits(logits.ravel(), boxes, **SIZE)
    labels, corners, scores = scored(4)
    with pytest.raises(InvalidInputError, match=r"\(R,\)"):
        decode_scored(labels, corners, scores[:3], classes=80, **SIZE)

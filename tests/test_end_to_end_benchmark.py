"""The comparison with the plain Python way compares equal work: both find the same objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_onnx

import edgedet
from benchmarks.end_to_end import OURS, PLAIN, PLAIN_OPENVINO, compare, markdown, measure, synthetic_frame


def check(figures: dict[str, Any]) -> None:
    agreement = figures["agreement_with_onnxruntime"]
    assert agreement["same_labels"]
    assert agreement["largest_box_difference_px"] < 0.05
    assert agreement["largest_score_difference"] < 1e-3
    assert set(figures["end_to_end_ms"]) == {OURS, PLAIN, PLAIN_OPENVINO}
    table = markdown(figures)
    assert all(f"| {name} |" in table for name in figures["end_to_end_ms"])


def test_a_tiny_model(tmp_path: Path) -> None:
    model = tiny_onnx.scored_model(tmp_path / "tiny.onnx")
    figures = measure(model, synthetic_frame(64, 48), threads=1, rounds=2, calls=2, warmup=1)
    check(figures)
    assert figures["agreement_with_onnxruntime"]["detections"] == 2  # of 0.9, 0.6 and just below 0.3
    assert figures["calls"] == 4


def test_a_real_model_on_a_photo(shared: Path) -> None:
    model = shared / "models" / "deimv2_hgnetv2_atto_coco.onnx"
    photo = edgedet.read_image(shared / "data" / "coco_val2017_subset" / "images" / "000000001000.jpg")
    figures = measure(model, photo[..., ::-1].copy(), threads=1, rounds=1, calls=1, warmup=0)
    check(figures)
    assert figures["agreement_with_onnxruntime"]["detections"] >= 5


def test_ratios_are_of_medians() -> None:
    taken = {"a": [[1.0, 2.0, 9.0], [2.0, 2.0, 2.0]], "b": [[4.0, 4.0, 4.0], [6.0, 2.0, 6.0]]}
    assert compare(taken, "a", "b") == pytest.approx(
        {"ratio_of_medians": 2.0, "lowest_round": 2.0, "highest_round": 3.0}
    )

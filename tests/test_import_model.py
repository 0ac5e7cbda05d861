"""Importing foreign ONNX models: what the graph says is believed, what does not fit is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_onnx
from onnx import TensorProto

import edgedet
from edgedet.bundle import LabelsBoxesScores, LogitsBoxes, load_model_json
from edgedet.labels import COCO80, Labels
from edgedet.onnx_import import import_model, read_form

LABELS = Labels(tiny_onnx.CLASSES, (1, 2, 3))
FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32


def port(name: str, shape: Sequence[int | None], dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": dtype}


IMAGE = port("pixel_values", (None, 3, 640, 480))


def test_a_raw_head_is_recognised(tmp_path: Path) -> None:
    bundle = import_model(tiny_onnx.logits_model(tmp_path / "tiny.onnx"), tmp_path / "bundle", labels=LABELS)
    spec = load_model_json(bundle)
    assert spec["name"] == "tiny"
    assert (spec["input"]["width"], spec["input"]["height"]) == (32, 32)
    assert spec["output"] == {"form": "logits_boxes", "logits": "logits", "boxes": "boxes", "top_k": 9}
    assert spec["classes"] == ["red", "green", "blue"]


@pytest.mark.parametrize("sizes", [True, False])
def test_a_post_processed_head_is_recognised(tmp_path: Path, sizes: bool) -> None:
    model = tiny_onnx.scored_model(tmp_path / "tiny.onnx", sizes=sizes)
    output = load_model_json(import_model(model, tmp_path / "bundle", labels=LABELS))["output"]
    assert output["form"] == "labels_boxes_scores"
    assert output["top_k"] == 3
    assert output.get("size_input") == ("orig_target_sizes" if sizes else None)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([port("logits", (1, 300, 80)), port("pred_boxes", (1, 300, 4))], LogitsBoxes(boxes="pred_boxes")),
        (
            [port("dets", (1, 100, 4)), port("labels", (1, 100, 2))],
            LogitsBoxes(logits="labels", boxes="dets", top_k=200),
        ),
        ([port("logits", (1, 10, 4)), port("boxes", (1, 10, 4))], LogitsBoxes(top_k=40)),  # four classes
        ([port("logits", (None, None, 80)), port("boxes", (None, None, 4))], LogitsBoxes()),
        (
            [port("s", (1, 50)), port("b", (1, 50, 4)), port("l", (1, 50), "int32")],
            LabelsBoxesScores(labels="l", boxes="b", scores="s", top_k=50),
        ),
    ],
)
def test_names_and_order_of_outputs_do_not_matter(outputs: list[dict[str, Any]], expected: object) -> None:
    image, output = read_form({"inputs": [IMAGE], "outputs": outputs}, "x.onnx")
    assert image is IMAGE
    assert output == expected


def test_the_published_models(shared: Path, tmp_path: Path) -> None:
    for name, side in (("atto", 320), ("femto", 416)):
        bundle = import_model(shared / "models" / f"deimv2_hgnetv2_{name}_coco.onnx", tmp_path / name, labels=COCO80)
        spec = load_model_json(bundle)
        assert (spec["input"]["width"], spec["input"]["height"]) == (side, side)
        assert spec["output"] == {
            "form": "labels_boxes_scores",
            "labels": "labels",
            "boxes": "boxes",
            "scores": "scores",
            "top_k": 300,
            "size_input": "orig_target_sizes",
        }
        assert spec["category_ids"][-1] == 90


def test_a_dynamic_size_must_be_given(tmp_path: Path) -> None:
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx", side="S")
    with pytest.raises(edgedet.InvalidInputError, match=r"size is dynamic, images \(\?, 3, \?, \?\).*--size"):
        import_model(model, tmp_path / "bundle", labels=LABELS)
    spec = load_model_json(import_model(model, tmp_path / "bundle", labels=LABELS, size=(64, 64)))
    assert (spec["input"]["width"], spec["input"]["height"]) == (64, 64)


def test_a_fixed_size_is_not_overruled(tmp_path: Path) -> None:
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx")
    with pytest.raises(edgedet.InvalidInputError, match="32x32, got 64x32"):
        import_model(model, tmp_path / "bundle", labels=LABELS, size=(64, 32))


def test_the_number_of_labels_is_checked(tmp_path: Path) -> None:
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx")
    with pytest.raises(edgedet.InvalidInputError, match=r"the head has 3 classes.*but 80 labels"):
        import_model(model, tmp_path / "bundle", labels=COCO80)


HEAD = {"logits": (FLOAT, (1, 5, 3)), "boxes": (FLOAT, (1, 5, 4))}
GOOD = {"images": (FLOAT, (1, 3, 32, 32))}


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"images": (FLOAT, (3, 32, 32))}, HEAD, r"input images \(3, 32, 32\) float32"),
        ({"images": (FLOAT, (1, 32, 32, 3))}, HEAD, r"3 channels, got images \(1, 32, 32, 3\); .*transpose"),
        ({"images": (FLOAT, (1, 1, 32, 32))}, HEAD, "3 channels"),
        ({"images": (TensorProto.UINT8, (1, 3, 32, 32))}, HEAD, "not supported(.|\n)*uint8"),
        ({**GOOD, "mask": (FLOAT, (1, 1, 32, 32))}, HEAD, "input mask"),
        ({**GOOD, "text": (INT64, (1, 5))}, HEAD, "input text"),
        (GOOD, {"logits": (FLOAT, (1, 5, 3))}, "output logits"),
        (GOOD, {"boxes": (FLOAT, (1, 5, 4))}, "output boxes"),
        (GOOD, {"logits": (FLOAT, (1, 5, 3)), "boxes": (FLOAT, (1, 5, 5))}, r"output boxes \(1, 5, 5\)"),
        (GOOD, {"logits": (FLOAT, (5, 3)), "boxes": (FLOAT, (5, 4))}, r"output boxes \(5, 4\)"),
        (GOOD, {**HEAD, "masks": (FLOAT, (1, 5, 8, 8))}, "output masks"),
        (GOOD, {"output0": (FLOAT, (1, 84, 8400))}, "output output0"),
    ],
)
def test_other_forms_are_listed(
    tmp_path: Path,
    inputs: dict[str, tuple[int, Sequence[int]]],
    outputs: dict[str, tuple[int, Sequence[int]]],
    message: str,
) -> None:
    model = tiny_onnx.free_model(tmp_path / "other.onnx", inputs, outputs)
    with pytest.raises(edgedet.ModelError, match=message) as caught:
        import_model(model, tmp_path / "bundle", labels=LABELS)
    assert "expected" in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_queries_that_disagree(tmp_path: Path) -> None:
    outputs = {"logits": (FLOAT, (1, 5, 3)), "boxes": (FLOAT, (1, 6, 4))}
    model = tiny_onnx.free_model(tmp_path / "other.onnx", GOOD, outputs)
    with pytest.raises(edgedet.ModelError, match=r"5.*6|6.*5"):
        import_model(model, tmp_path / "bundle", labels=LABELS)
    assert not (tmp_path / "bundle").exists()


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx", poison=float("nan"))
    with pytest.raises(edgedet.ModelError, match="NaN"):
        import_model(model, tmp_path / "bundle", labels=LABELS)
    assert not (tmp_path / "bundle").exists()


def test_boxes_that_are_not_finite(tmp_path: Path) -> None:
    boxes = np.array([[0.5, np.inf, 0.5, 0.5]], np.float32)
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx", boxes=boxes)
    with pytest.raises(edgedet.ModelError):
        import_model(model, tmp_path / "bundle", labels=LABELS)


def test_labels_outside_the_classes(tmp_path: Path) -> None:
    model = tiny_onnx.scored_model(tmp_path / "tiny.onnx")
    with pytest.raises(edgedet.ModelError, match="label"):
        import_model(model, tmp_path / "bundle", labels=Labels(("only", "two"), (1, 2)))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x12\x07pytorch" * 50])
def test_files_that_are_no_model(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "bad.onnx"
    model.write_bytes(content)
    with pytest.raises(edgedet.ModelError, match=r"bad\.onnx"):
        import_model(model, tmp_path / "bundle", labels=LABELS)
    with pytest.raises(edgedet.ModelError, match="got nothing there"):
        import_model(tmp_path / "missing.onnx", tmp_path / "bundle", labels=LABELS)


def test_a_truncated_model(tmp_path: Path) -> None:
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx")
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(edgedet.ModelError, match=r"tiny\.onnx"):
        import_model(model, tmp_path / "bundle", labels=LABELS)


def test_weights_in_other_files(tmp_path: Path) -> None:
    inside = onnx.load(tiny_onnx.logits_model(tmp_path / "inside.onnx"))
    outside = tmp_path / "outside.onnx"
    onnx.save(inside, outside, save_as_external_data=True, location="outside.data", size_threshold=0)
    assert (tmp_path / "outside.data").is_file()
    with pytest.raises(edgedet.ModelError, match="weights inside"):
        import_model(outside, tmp_path / "bundle", labels=LABELS)


@pytest.mark.parametrize(
    "options", [{"std": (1.0, 0.0, 1.0)}, {"mean": (float("nan"), 0.0, 0.0)}, {"pad_value": 300}, {"resize": "crop"}]
)
def test_options_outside_their_range(tmp_path: Path, options: dict[str, Any]) -> None:
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx")
    with pytest.raises(edgedet.BundleError, match=f"{next(iter(options))}|NaN"):
        import_model(model, tmp_path / "bundle", labels=LABELS, **options)
    assert not (tmp_path / "bundle").exists()

"""ONNX files that say what they are: read by onnxruntime, imported again without options, hostile ones refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import tiny_onnx

import edgedet
from edgedet.bundle import InputSpec, LogitsBoxes, add_model, load_model_json, write_bundle
from edgedet.cli import main
from edgedet.labels import COCO80, Labels
from edgedet.onnx_import import import_model
from edgedet.onnx_metadata import read_metadata

INPUT = InputSpec(
    width=32,
    height=32,
    resize="letterbox",
    filter="antialias",
    channels="bgr",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    pad_value=7,
)
OTHERS = Labels(COCO80.names[:3], COCO80.category_ids[:3])
LICENCE = {"weights": "Apache-2.0", "data": "eigene Fotos, größtenteils"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(
        tmp_path / "bundle",
        tiny_onnx.logits_model(tmp_path / "plain.onnx"),
        name="tiny",
        input=INPUT,
        output=LogitsBoxes(top_k=5),
        classes=tiny_onnx.CLASSES,
        category_ids=(3, 7, 90),
        licence=LICENCE,
    )


def with_entries(source: Path, target: Path, **changes: Any) -> Path:
    """A copy with other metadata; texts are written as they are, None removes an entry."""
    model = onnx.load(source)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    for key, value in changes.items():
        entries.pop(f"edgedet.{key}", None)
        if value is not None:
            entries[f"edgedet.{key}"] = value if isinstance(value, str) else json.dumps(value)
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, target)
    return target


def test_onnxruntime_reads_what_the_bundle_says(bundle: Path) -> None:
    add_model(bundle, "int8", "openvino", bundle / "model.onnx")
    spec = json.loads((bundle / "model.json").read_text())
    for name, precision in (("model.onnx", "fp32"), ("model.openvino.int8.onnx", "int8")):
        onnx.checker.check_model(str(bundle / name), full_check=True)
        said = onnxruntime.InferenceSession(bundle / name, providers=["CPUExecutionProvider"]).get_modelmeta()
        values = {key: json.loads(text) for key, text in said.custom_metadata_map.items()}
        assert values == {
            "edgedet.version": 1,
            "edgedet.precision": precision,
            **{
                f"edgedet.{key}": spec[key] for key in ("name", "input", "output", "classes", "category_ids", "licence")
            },
        }
        assert said.producer_name == "edgedet"
        assert "edgedet.*" in said.description


def test_what_a_file_says_of_others_stays(tmp_path: Path) -> None:
    model = onnx.load(tiny_onnx.logits_model(tmp_path / "plain.onnx"))
    model.producer_name, model.producer_version, model.doc_string = "pytorch", "2.13", "Trained in a hurry."
    onnx.helper.set_model_props(model, {"author": "someone", "edgedet": "not ours"})
    onnx.save(model, tmp_path / "theirs.onnx")
    made = import_model(tmp_path / "theirs.onnx", tmp_path / "bundle", labels=OTHERS)
    again = onnx.load(made / "model.onnx")
    assert (again.producer_name, again.producer_version, again.doc_string) == ("pytorch", "2.13", "Trained in a hurry.")
    others = [(entry.key, entry.value) for entry in again.metadata_props if not entry.key.startswith("edgedet.")]
    assert others == [("author", "someone"), ("edgedet", "not ours")]
    assert again.graph == model.graph


def test_a_file_alone_becomes_the_same_bundle(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "elsewhere.onnx"
    (bundle / "model.onnx").rename(alone)
    assert main(["import", str(alone), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "model.json").read_bytes() == (bundle / "model.json").read_bytes()
    assert (tmp_path / "again" / "model.onnx").read_bytes() == alone.read_bytes()
    assert "tiny" in capsys.readouterr().out


def test_options_win(bundle: Path, tmp_path: Path) -> None:
    made = import_model(
        bundle / "model.onnx",
        tmp_path / "again",
        labels=OTHERS,
        name="other",
        resize="stretch",
        mean=(0, 0, 0),
        licence={"data": "CC BY 4.0"},
    )
    spec = load_model_json(made)
    assert spec["name"] == "other"
    assert spec["classes"] == list(OTHERS.names)
    assert spec["input"]["resize"] == "stretch"
    assert spec["input"]["mean"] == [0, 0, 0]
    assert spec["input"]["pad_value"] == 7
    assert spec["licence"] == {"weights": "Apache-2.0", "data": "CC BY 4.0"}
    assert read_metadata(made / "model.onnx")["name"] == "other"
    assert len([entry for entry in onnx.load(made / "model.onnx").metadata_props if entry.key == "edgedet.name"]) == 1


def test_an_open_size_is_the_bundles(tmp_path: Path) -> None:
    model = tiny_onnx.logits_model(tmp_path / "open.onnx", side="S")
    made = import_model(model, tmp_path / "bundle", labels=OTHERS, size=(64, 32))
    assert load_model_json(import_model(made / "model.onnx", tmp_path / "again"))["input"]["width"] == 64


def test_another_tool_may_rename_the_head(bundle: Path, tmp_path: Path) -> None:
    other = tiny_onnx.logits_model(tmp_path / "renamed.onnx", names=("images", "scores", "boxes"))
    entries = {entry.key: entry.value for entry in onnx.load(bundle / "model.onnx").metadata_props}
    model = onnx.load(other)
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, other)
    assert load_model_json(import_model(other, tmp_path / "again"))["output"] == {
        "form": "logits_boxes",
        "logits": "scores",
        "boxes": "boxes",
        "top_k": 9,
    }


def test_without_metadata_labels_are_needed(tmp_path: Path) -> None:
    model = tiny_onnx.logits_model(tmp_path / "plain.onnx")
    assert read_metadata(model) == {}
    with pytest.raises(edgedet.InvalidInputError, match=r"plain\.onnx: does not name its classes; .*--labels"):
        import_model(model, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "metadata is of version 2, known is 1"),
        ({"version": None}, "metadata is of version None"),
        ({"precision": '"int8"'}, r"expected a float model, got the int8 model of 'tiny'"),
        ({"precision": None}, "expected a float model"),
        ({"classes": "[" * 100_000}, r"metadata edgedet\.classes is no JSON"),
        ({"classes": '["a",'}, r"metadata edgedet\.classes is no JSON"),
        ({"classes": {"0": "red"}}, r"edgedet\.classes to be a list"),
        ({"classes": [1, 2, 3]}, "of the kinds that model.json has"),
        ({"classes": ["red", "red", "blue"]}, "expected each class name once"),
        ({"classes": ["a", "b"], "category_ids": [1, 2]}, "the head has 3 classes.*but 2 labels"),
        ({"category_ids": [1, 2, 2.5]}, "of the kinds that model.json has"),
        ({"category_ids": [1, 2, 1 << 70]}, "category_ids"),
        ({"licence": {"weights": 7}}, "of the kinds that model.json has"),
        ({"licence": {"weights": "x" * (1 << 20)}}, "has more than 1048576 bytes"),
        ({"name": ["tiny"]}, r"edgedet\.name to be a str"),
        ({"input": None}, "expected an object that says how images become input, got NoneType"),
        ({"input": {"width": "wide", "height": 32}}, '"width": expected a side in pixels, got wide'),
        ({"input": {"width": 32, "height": 32, "mean": [[1]]}}, '"mean": expected three finite numbers'),
        ({"input": {"width": 32, "height": 32, "resize": "melt"}}, "resize"),
        ({"input": {"width": 32, "height": 32, "mean": "grey"}}, "mean"),
        ({"input": {"width": 32, "height": 32, "std": [0, 1, 1]}}, "std"),
        ({"input": {"width": 32, "height": 32, "pad_value": 10**9}}, "pad_value"),
        ({"input": '{"width": 32, "height": 32, "mean": [NaN, 0, 0]}'}, "mean|finite"),
        ({"output": {"form": "logits_boxes", "logits": "logits", "boxes": "boxes", "top_k": 0}}, "top_k"),
    ],
)
def test_metadata_is_not_trusted(bundle: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    hostile = with_entries(bundle / "model.onnx", tmp_path / "hostile.onnx", **changes)
    with pytest.raises(edgedet.Error, match=message) as caught:
        import_model(hostile, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert len(str(caught.value)) < 2000


def test_files_that_are_no_onnx(bundle: Path, tmp_path: Path) -> None:
    for content in (b"", b"\x00\x01", b"{}", (bundle / "model.onnx").read_bytes()[:-1]):
        (tmp_path / "broken.onnx").write_bytes(content)
        before = (bundle / "model.json").read_bytes()
        with pytest.raises(edgedet.ModelError, match=r"broken\.onnx: expected an ONNX file"):
            add_model(bundle, "int8", "openvino", tmp_path / "broken.onnx")
        assert (bundle / "model.json").read_bytes() == before
        load_model_json(bundle)


def test_a_file_of_many_parts_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "parts.onnx").write_bytes(b"\x08\x07" * 1_000_000)
    with pytest.raises(edgedet.ModelError, match="more than 100000 parts"):
        read_metadata(tmp_path / "parts.onnx")

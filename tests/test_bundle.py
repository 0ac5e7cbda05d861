"""Bundles: written whole, checked on load, and every way to spoil one is named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny_onnx

import edgedet
from edgedet.bundle import (
    InputSpec,
    LabelsBoxesScores,
    LogitsBoxes,
    add_json,
    add_model,
    load_model_json,
    name_model,
    set_best,
    write_bundle,
)
from edgedet.labels import COCO80, Labels, read_labels

INPUT = InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_onnx.logits_model(tmp_path / "source.onnx")


@pytest.fixture
def bundle(tmp_path: Path, model: Path) -> Path:
    return write_bundle(
        tmp_path / "bundle", model, name="tiny", input=INPUT, output=LogitsBoxes(top_k=3), classes=tiny_onnx.CLASSES
    )


def document(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "model.json").read_text())


def test_what_is_written(bundle: Path, model: Path) -> None:
    content = (bundle / "model.onnx").read_bytes()
    assert document(bundle) == {
        "format": "edgedet.bundle",
        "version": 1,
        "name": "tiny",
        "input": {
            "name": "images",
            "width": 32,
            "height": 32,
            "resize": "stretch",
            "filter": "bilinear",
            "channels": "rgb",
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
            "pad_value": 114,
        },
        "output": {"form": "logits_boxes", "logits": "logits", "boxes": "boxes", "top_k": 3},
        "classes": ["red", "green", "blue"],
        "category_ids": [1, 2, 3],
        "models": {"fp32": {"*": "model.onnx"}},
        "best": {},
        "files": {"model.onnx": {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}},
        "licence": {"weights": "not stated", "data": "not stated"},
    }
    assert onnx.load(bundle / "model.onnx").graph == onnx.load(model).graph
    assert sorted(entry.name for entry in bundle.parent.iterdir()) == ["bundle", "source.onnx"]


def test_reading_gives_what_was_written(bundle: Path) -> None:
    written, read = document(bundle), load_model_json(bundle)
    for key in ("name", "input", "output", "classes", "category_ids", "models", "best", "files", "licence"):
        assert read[key] == written[key], key


def test_the_other_form_and_every_option(tmp_path: Path) -> None:
    made = write_bundle(
        tmp_path / "bundle",
        tiny_onnx.scored_model(tmp_path / "source.onnx"),
        name="scored",
        input=InputSpec(
            width=32,
            height=32,
            resize="letterbox",
            filter="antialias",
            channels="bgr",
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            pad_value=0,
        ),
        output=LabelsBoxesScores(top_k=3, size_input="orig_target_sizes"),
        classes=tiny_onnx.CLASSES,
        category_ids=[3, 10, 90],
        licence={"weights": "Apache-2.0"},
    )
    spec = load_model_json(made)
    assert spec["output"] == {
        "form": "labels_boxes_scores",
        "labels": "labels",
        "boxes": "boxes",
        "scores": "scores",
        "top_k": 3,
        "size_input": "orig_target_sizes",
    }
    assert spec["input"]["resize"] == "letterbox"
    assert spec["input"]["channels"] == "bgr"
    assert spec["input"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert spec["category_ids"] == [3, 10, 90]
    assert spec["licence"] == {"weights": "Apache-2.0", "data": "not stated"}


def test_nothing_is_left_behind_by_a_bundle_that_would_not_be_valid(tmp_path: Path, model: Path) -> None:
    target = tmp_path / "bad"
    with pytest.raises(edgedet.BundleError) as caught:
        write_bundle(target, model, name="x", input=INPUT, output=LogitsBoxes(), classes=["a", "b"], category_ids=[1])
    assert str(target) in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["source.onnx"]


def test_overwriting_is_asked_for_and_only_of_bundles(tmp_path: Path, model: Path, bundle: Path) -> None:
    def write(target: Path, *, overwrite: bool) -> None:
        write_bundle(
            target, model, name="new", input=INPUT, output=LogitsBoxes(), classes=["a", "b", "c"], overwrite=overwrite
        )

    with pytest.raises(edgedet.BundleError, match="exists"):
        write(bundle, overwrite=False)
    write(bundle, overwrite=True)
    assert load_model_json(bundle)["name"] == "new"
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    with pytest.raises(edgedet.BundleError, match="not a bundle"):
        write(home, overwrite=True)
    assert (home / "letter.txt").read_text() == "dear"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bundle", "home", "source.onnx"]


def test_a_failed_overwrite_keeps_the_old_bundle(model: Path, bundle: Path) -> None:
    before = document(bundle)

    def refuse(folder: Path) -> None:
        raise edgedet.ModelError(f"{folder} does not run")

    with pytest.raises(edgedet.ModelError, match=r"bundle does not run"):
        write_bundle(
            bundle,
            model,
            name="new",
            input=INPUT,
            output=LogitsBoxes(),
            classes=["a", "b", "c"],
            overwrite=True,
            check=refuse,
        )
    assert document(bundle) == before


def spoil_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(bundle: Path) -> None:
        value = document(bundle)
        change(value)
        (bundle / "model.json").write_text(json.dumps(value))

    return spoil


def flip_a_bit(bundle: Path) -> None:
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(content)


def rename_file(value: dict[str, Any], name: str) -> None:
    value["files"] = {name: value["files"]["model.onnx"]}
    value["models"]["fp32"]["*"] = name


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flip_a_bit, "sha256"),
        (lambda b: (b / "model.onnx").write_bytes((b / "model.onnx").read_bytes()[:-1]), "bytes"),
        (lambda b: (b / "model.onnx").write_bytes((b / "model.onnx").read_bytes() + b"x"), "bytes"),
        (lambda b: (b / "model.onnx").unlink(), "model.onnx"),
        (lambda b: (b / "model.json").unlink(), "model.json"),
        (lambda b: (b / "model.json").write_text(""), "model.json"),
        (lambda b: (b / "model.json").write_text((b / "model.json").read_text()[:-20]), "model.json"),
        (lambda b: (b / "model.json").write_text("[1, 2]"), "model.json"),
        (lambda b: (b / "model.json").write_bytes(b"\xff\xfe\x00"), "model.json"),
        (lambda b: (b / "model.json").write_text("[" * 100_000), "model.json"),
        (spoil_json(lambda v: v.update(version=2)), "version"),
        (spoil_json(lambda v: v.update(version="1")), "version"),
        (spoil_json(lambda v: v.update(format="other")), "format"),
        (spoil_json(lambda v: v.pop("classes")), "classes"),
        (spoil_json(lambda v: v.update(classes=[])), "classes"),
        (spoil_json(lambda v: v.update(classes=[1, 2, 3])), "classes"),
        (spoil_json(lambda v: v.update(category_ids=[1, 2])), "category_ids"),
        (spoil_json(lambda v: v["input"].update(width=0)), "width"),
        (spoil_json(lambda v: v["input"].update(width=-5)), "width"),
        (spoil_json(lambda v: v["input"].update(width=1e9)), "width"),
        (spoil_json(lambda v: v["input"].update(width="32")), "width"),
        (spoil_json(lambda v: v["input"].update(resize="crop")), "resize"),
        (spoil_json(lambda v: v["input"].update(filter="lanczos")), "filter"),
        (spoil_json(lambda v: v["input"].update(std=[1, 0, 1])), "std"),
        (spoil_json(lambda v: v["input"].update(mean=[0, 0])), "mean"),
        (spoil_json(lambda v: v["input"].update(pad_value=256)), "pad_value"),
        (spoil_json(lambda v: v["output"].update(form="segmentation")), "form"),
        (spoil_json(lambda v: v["output"].pop("logits")), "logits"),
        (spoil_json(lambda v: v["output"].update(top_k=0)), "top_k"),
        (spoil_json(lambda v: v.update(models={})), "models"),
        (spoil_json(lambda v: v["models"]["fp32"].update(openvino="other.onnx")), "other.onnx"),
        (spoil_json(lambda v: v.update(best={"openvino": "int8"})), "int8"),
        (spoil_json(lambda v: rename_file(v, "../source.onnx")), "source.onnx"),
        (spoil_json(lambda v: rename_file(v, "/etc/passwd")), "passwd"),
        (spoil_json(lambda v: rename_file(v, "sub/model.onnx")), "sub"),
        (spoil_json(lambda v: rename_file(v, "..")), r"\.\."),
        (spoil_json(lambda v: v["files"]["model.onnx"].update(sha256="abc")), "sha256"),
        (spoil_json(lambda v: v["files"]["model.onnx"].pop("bytes")), "bytes"),
    ],
)
def test_a_spoilt_bundle_is_refused(bundle: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(bundle)
    with pytest.raises(edgedet.BundleError, match=message):
        load_model_json(bundle)
    with pytest.raises(edgedet.BundleError, match=message):
        edgedet.Detector(bundle)


def test_a_link_that_leads_out_of_the_bundle_has_no_other_content(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").unlink()
    (tmp_path / "secret").write_text("key")
    (bundle / "model.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(edgedet.BundleError):
        load_model_json(bundle)


def test_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(edgedet.BundleError, match="nowhere"):
        load_model_json(tmp_path / "nowhere")


def test_unknown_keys_are_ignored_and_kept(bundle: Path) -> None:
    spoil_json(lambda v: v.update(colour_of_the_cover="blue"))(bundle)
    assert "colour_of_the_cover" not in load_model_json(bundle)
    add_json(bundle, "report.json", {"drop": 0.1})
    assert document(bundle)["colour_of_the_cover"] == "blue"


def test_models_are_added_and_best_is_recorded(bundle: Path, tmp_path: Path) -> None:
    other = tiny_onnx.logits_model(tmp_path / "other.onnx", boxes=tiny_onnx.BOXES[::-1])
    assert add_model(bundle, "int8", "openvino", other) == "model.openvino.int8.onnx"
    assert onnx.load(bundle / "model.openvino.int8.onnx").graph == onnx.load(other).graph
    set_best(bundle, "openvino", "int8")
    spec = load_model_json(bundle)
    assert spec["models"] == {"fp32": {"*": "model.onnx"}, "int8": {"openvino": "model.openvino.int8.onnx"}}
    assert spec["best"] == {"openvino": "int8"}
    # The same file again changes nothing; another one is no longer the one that was verified.
    add_model(bundle, "int8", "openvino", other)
    set_best(bundle, "openvino", "int8")
    add_model(bundle, "int8", "openvino", tmp_path / "source.onnx")
    assert load_model_json(bundle)["best"] == {}
    assert onnx.load(bundle / "model.openvino.int8.onnx").graph == onnx.load(tmp_path / "source.onnx").graph
    assert sorted(entry.name for entry in bundle.iterdir()) == ["model.json", "model.onnx", "model.openvino.int8.onnx"]


def test_the_float_file_serves_in_half_types_too(bundle: Path, tmp_path: Path) -> None:
    name_model(bundle, "bf16", "openvino", "model.onnx")
    set_best(bundle, "openvino", "bf16")
    assert load_model_json(bundle)["models"] == {"fp32": {"*": "model.onnx"}, "bf16": {"openvino": "model.onnx"}}
    # Another float model is one that nobody verified in bfloat16.
    other = tiny_onnx.logits_model(tmp_path / "other.onnx", boxes=tiny_onnx.BOXES[::-1])
    add_model(bundle, "fp32", "*", other)
    spec = load_model_json(bundle)
    assert spec["best"] == {}
    assert spec["models"]["bf16"] == {"openvino": "model.onnx"}
    with pytest.raises(edgedet.BundleError, match=r"expected one of model\.onnx, got 'model\.bf16\.onnx'"):
        name_model(bundle, "bf16", "openvino", "model.bf16.onnx")


def test_best_needs_a_model(bundle: Path) -> None:
    with pytest.raises(edgedet.BundleError, match="expected a int8 model for openvino, got fp32"):
        set_best(bundle, "openvino", "int8")
    set_best(bundle, "openvino", "fp32")
    assert load_model_json(bundle)["best"] == {"openvino": "fp32"}


def test_documents_are_added_and_replaced(bundle: Path) -> None:
    for drop in (0.1, 0.02):
        add_json(bundle, "report.json", {"drop": drop})
        content = (bundle / "report.json").read_bytes()
        assert json.loads(content) == {"drop": drop}
        assert load_model_json(bundle)["files"]["report.json"] == {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        }
    with pytest.raises(ValueError, match="Out of range"):
        add_json(bundle, "report.json", {"drop": float("nan")})
    (bundle / "report.json").write_text("{}")
    with pytest.raises(edgedet.BundleError, match=r"report\.json"):
        add_json(bundle, "calibration.json", {})


@pytest.mark.parametrize("name", ["../escaped.json", "sub/report.json", "/tmp/report.json", "model.json", "", ".."])
def test_documents_stay_in_the_bundle(bundle: Path, name: str) -> None:
    with pytest.raises(edgedet.BundleError, match="plain file name"):
        add_json(bundle, name, {})
    assert sorted(entry.name for entry in bundle.parent.iterdir()) == ["bundle", "source.onnx"]


def test_files_to_add_must_exist(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(edgedet.BundleError, match="expected an ONNX file"):
        add_model(bundle, "int8", "openvino", tmp_path / "nothing.onnx")
    assert sorted(entry.name for entry in bundle.iterdir()) == ["model.json", "model.onnx"]


def test_a_crash_while_replacing_leaves_a_valid_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(bundle, "int8", "openvino", tmp_path / "source.onnx")
    set_best(bundle, "openvino", "int8")
    other = tiny_onnx.logits_model(tmp_path / "other.onnx", boxes=tiny_onnx.BOXES[::-1])
    rename = Path.replace

    done = []
    for survive in range(4):
        trial = Path(shutil.copytree(bundle, tmp_path / f"trial_{survive}"))
        left = survive

        def crash(source: Path, target: Path) -> Path:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crash)
            with contextlib.suppress(KeyboardInterrupt):
                add_model(trial, "int8", "openvino", other)
                done.append(survive)
        spec = load_model_json(trial)
        # Whole, with the old file verified as best, or without either, or with the new file that nobody verified.
        assert spec["best"] == ({"openvino": "int8"} if survive == 0 else {})
        assert ("int8" in spec["models"]) == (survive in (0, 3))
    assert done == [3]  # three renames: the file forgotten, the file replaced, the file recorded


def test_labels(tmp_path: Path) -> None:
    assert read_labels("coco80") is COCO80
    assert len(COCO80.names) == 80
    assert dict(zip(COCO80.names, COCO80.category_ids, strict=True))["toothbrush"] == 90
    names = tmp_path / "names.txt"
    names.write_text("cat\n\n hot dog \n")
    assert read_labels(names) == Labels(("cat", "hot dog"), (1, 2))
    coco = tmp_path / "data.json"
    coco.write_text(json.dumps({"categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}]}))
    assert read_labels(coco) == Labels(("a", "b"), (3, 7))


def test_the_coco_table_is_that_of_the_dataset(shared: Path) -> None:
    assert read_labels(shared / "data" / "coco_val2017_subset" / "instances.json") == COCO80


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n \n", "one class name per line"),
        ("twice.txt", b"a\nb\na\n", "each class name once, got a"),
        ("binary.txt", b"\xff\xfe\xfa", 'expected "coco80"'),
        ("broken.json", b"{", "expected COCO JSON"),
        ("other.json", b'{"classes": []}', "expected COCO JSON"),
        ("none.json", b'{"categories": []}', "at least one class"),
    ],
)
def test_bad_labels(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(edgedet.InvalidInputError, match=message):
        read_labels(tmp_path / name)
    with pytest.raises(edgedet.InvalidInputError, match=r"missing\.txt"):
        read_labels(tmp_path / "missing.txt")

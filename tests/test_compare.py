"""`edgedet compare`: who agrees with whom, how fast, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
from PIL import Image

import edgedet
from edgedet import Detections, Detector, InvalidInputError
from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle
from edgedet.cli import main
from edgedet.compare.agreement import compare_image, summarise
from edgedet.compare.classes import relabel, shared_classes
from edgedet.compare.side import Side, read_side

Run = Callable[..., "tuple[int, str, str]"]


def found(*rows: tuple[str, float, tuple[float, float, float, float]]) -> Detections:
    names = [name for name, _, _ in rows]
    order = ("car", "dog", "cat")
    return Detections(
        np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([order.index(name) for name in names], np.int32),
        names,
    )


LEFT, MIDDLE, RIGHT = (0.0, 0.0, 10.0, 10.0), (40.0, 0.0, 50.0, 10.0), (80.0, 0.0, 90.0, 10.0)


def test_agreement_by_hand() -> None:
    a = found(("car", 0.9, LEFT), ("dog", 0.8, MIDDLE), ("car", 0.35, RIGHT), ("cat", 0.1, (0, 50, 9, 59)))
    b = found(("cat", 0.7, MIDDLE), ("car", 0.6, (0.0, 0.0, 10.0, 8.0)), ("dog", 0.5, RIGHT), ("car", 0.2, RIGHT))
    image = compare_image(a, b, score=0.3)
    assert image.pairs.tolist() == [[0, 1], [2, 3]]  # the second car of B is below the score, but at half of A's
    assert image.renamed == ((1, 0),)
    assert (image.only_a, image.only_b) == ((), (2,))
    assert image.box_px.tolist() == [2.0, 0.0]
    assert image.score == pytest.approx([0.3, 0.15])
    assert image.objects == 4
    assert image.severity(a, b) == pytest.approx(0.5 + 0.8)
    total = summarise([image, image], score=0.3)
    assert (total.objects, total.agreed, total.only_a, total.only_b, total.renamed) == (8, 4, 0, 2, 2)
    assert total.share == 0.5
    assert total.box_mean_px == 1.0


def test_what_b_alone_is_sure_of_may_be_weak_in_a() -> None:
    """A has it below the score: that is the same object, whichever side is asked first."""
    a, b = found(("car", 0.2, LEFT)), found(("car", 0.35, LEFT))
    for first, second in ((a, b), (b, a)):
        image = compare_image(first, second, score=0.3)
        assert (image.pairs.tolist(), image.only_a, image.only_b) == ([[0, 0]], (), ())
    assert compare_image(found(("car", 0.1, LEFT)), b, score=0.3).only_b == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_agreement_is_symmetric_and_counts_every_confident_row_once(seed: int) -> None:
    draw = np.random.default_rng(seed)

    def some() -> Detections:
        corner = draw.uniform(0, 40, (25, 2))
        boxes = np.concatenate((corner, corner + draw.uniform(5, 20, (25, 2))), axis=1).astype(np.float32)
        labels = draw.integers(0, 3, 25).astype(np.int32)
        scores = np.sort(draw.uniform(0, 1, 25))[::-1].astype(np.float32)
        return Detections(boxes, scores, labels, [str(label) for label in labels])

    a, b = some(), some()
    image = compare_image(a, b, score=0.3)
    rows_a = [*image.pairs[:, 0].tolist(), *image.only_a, *(i for i, _ in image.renamed)]
    rows_b = [*image.pairs[:, 1].tolist(), *image.only_b, *(j for _, j in image.renamed)]
    assert len(set(rows_a)) == len(rows_a)
    assert len(set(rows_b)) == len(rows_b)
    assert set(np.flatnonzero(a.scores >= 0.3)) <= set(rows_a)
    assert set(np.flatnonzero(b.scores >= 0.3)) <= set(rows_b)
    for i, j in image.pairs.tolist():
        assert a.labels[i] == b.labels[j]
        assert max(a.scores[i], b.scores[j]) >= 0.3


def test_nothing_found_is_full_agreement() -> None:
    image = compare_image(found(), found(), score=0.3)
    assert summarise([image], score=0.3).share == 1.0
    assert image.severity(found(), found()) == 0.0


def test_classes_are_matched_by_name() -> None:
    shared = shared_classes(["Traffic Light", "car", "dog"], ["dog", "traffic_light", "boat"])
    assert (shared.names, shared.only_a, shared.only_b) == (("Traffic Light", "dog"), ("car",), ("boat",))
    assert (shared.of_a.tolist(), shared.of_b.tolist()) == ([0, -1, 1], [1, 0, -1])
    kept = relabel(found(("car", 0.9, LEFT), ("cat", 0.5, RIGHT)), shared.of_b, shared.names)
    assert (kept.names, kept.labels.tolist()) == (["dog"], [1])
    assert shared_classes(["car", "dog"], ["dog", "car"], ["DOG"]).names == ("dog",)
    with pytest.raises(InvalidInputError, match="did you mean 'dog'"):
        shared_classes(["car", "dog"], ["dog", "car"], ["dogg"])
    with pytest.raises(InvalidInputError, match="classes in common"):
        shared_classes(["car"], ["boat"])


def test_how_a_side_is_written(tmp_path: Path) -> None:
    assert read_side("b") == Side("b", Path("b"))
    assert read_side("b@int8") == Side("b@int8", Path("b"), precision="int8")
    assert read_side("b@openvino") == Side("b@openvino", Path("b"), "openvino")
    assert read_side("x/b@tensorrt:fp16") == Side("x/b@tensorrt:fp16", Path("x/b"), "tensorrt", "fp16")
    odd = tmp_path / "b@int8"
    odd.mkdir()
    assert read_side(str(odd)).bundle == odd
    for text, hint in (
        ("b@openvno", "'openvino'"),
        ("b@openvino:in8", "'int8'"),
        ("b@int8:openvino", "BUNDLE@BACKEND"),
    ):
        with pytest.raises(InvalidInputError, match=hint):
            read_side(text)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        options = ["--frames", "4", "--threads", "1"]
        code = main(["compare", *[str(argument) for argument in arguments], *options])
        return code, *capsys.readouterr()

    return call


def make(folder: Path, classes: Sequence[str], boxes: Any = tiny_onnx.BOXES) -> Path:
    model = tiny_onnx.logits_model(folder.with_suffix(".onnx"), boxes=np.asarray(boxes, np.float32))
    return write_bundle(
        folder,
        model,
        name=folder.name,
        input=InputSpec(width=tiny_onnx.SIZE, height=tiny_onnx.SIZE),
        output=LogitsBoxes(logits="logits", boxes="boxes", top_k=9),
        classes=list(classes),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles a and b, which differ in one box, c, which calls green "grass", and pictures with labels."""
    folder = tmp_path_factory.mktemp("world")
    make(folder / "a", tiny_onnx.CLASSES)
    moved = tiny_onnx.BOXES.copy()
    moved[0] = (0.2, 0.8, 0.2, 0.2)
    make(folder / "b", tiny_onnx.CLASSES, moved)
    make(folder / "c", ("red", "grass", "blue"))
    (folder / "pictures").mkdir()
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255)), ("green", (0, 255, 0))):
        Image.new("RGB", (80, 48), colour).save(folder / "pictures" / f"{name}.png")
    box = [20, 12, 40, 24]
    document = {
        "images": [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(("a", "b", "green"), start=1)],
        "categories": [{"id": 11, "name": "Blue"}, {"id": 12, "name": "red"}, {"id": 13, "name": "green"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": category, "bbox": box}
            for n, category in enumerate((12, 11, 13), start=1)
        ],
    }
    (folder / "labels.json").write_text(json.dumps(document))
    return folder


def test_a_bundle_agrees_with_itself(world: Path, run: Run) -> None:
    code, out, _ = run(f"{world / 'a'}@fp32", world / "a", "--images", world / "pictures")
    assert code == 0
    assert "agreement  100.0% of " in out
    assert "worst disagreements" not in out


def test_two_bundles(world: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "deep"
    labels = ["--images", world / "pictures", "--annotations", world / "labels.json"]
    code, text, _ = run(world / "a", world / "b", *labels, "--out", out)
    assert code == 0
    report = json.loads((out / "compare.json").read_text())
    for side in "ab":
        target = tmp_path / f"{side}.json"
        command = ["eval", str(world / side), "--json", str(target), "--threads", "1", *map(str, labels)]
        assert main(command) == 0
        assert report["accuracy"][f"{side}_ap"] == pytest.approx(json.loads(target.read_text())["AP"], abs=1e-5)
    assert report["accuracy"]["a_ap"] > report["accuracy"]["b_ap"]
    assert report["images"] == 3
    # The first query of every picture moved, so both have it alone; the others stayed.
    for image in report["worst"]:
        assert [each["box"] for each in image["only_a"]] == [pytest.approx([20, 12, 60, 36], abs=1e-3)]
        assert [each["box"] for each in image["only_b"]] == [pytest.approx([8, 33.6, 24, 43.2], abs=1e-3)]
    assert len(report["worst"]) == 3
    assert report["speed"]["turns"] == 4
    assert "only A: red" in text
    page = (out / "compare.html").read_text()
    assert page.count("<img ") == 6
    assert "<script" not in page
    sheet = np.asarray(Image.open(out / "worst.png"))
    assert sheet.shape[2] == 3
    assert sheet.std() > 20


def test_other_class_lists(world: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["--images", world / "pictures", "--annotations", world / "labels.json"]
    code, out, _ = run(world / "a", world / "c", *labels, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["classes"] == {
        "compared": ["red", "blue"], "only_a": ["green"], "only_b": ["grass"], "not_judged": ["green"]
    }  # fmt: skip
    assert {each["name"] for each in report["accuracy"]["classes"] if each["objects"]} == {"red", "Blue"}
    assert report["accuracy"]["drop"] == 0.0
    code, out, _ = run(world / "a", world / "c", "--images", world / "pictures")
    assert "only A knows green: not compared" in out
    assert "only B knows grass: not compared" in out


def test_bounds(world: Path, run: Run) -> None:
    images = ["--images", world / "pictures"]
    assert run(world / "a", world / "b", *images, "--min-agreement", "0.1")[0] == 0
    code, _, err = run(world / "a", world / "b", *images, "--min-agreement", "0.99")
    assert code == 1
    assert "missed: agreement: expected 99.0% or more" in err
    labels = [*images, "--annotations", world / "labels.json", "--max-drop", "0.01"]
    code, _, err = run(world / "a", world / "b", *labels)
    assert code == 1
    assert "missed: AP" in err
    assert run(world / "b", world / "a", *labels)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "nowhere", "--images", "pictures"], "nowhere"),
        (["a@int9", "b", "--images", "pictures"], "did you mean 'int8'?"),
        (["a", "b", "--images", "missing"], "no such file or folder"),
        (["a", "b", "--images", "a"], "no image in this folder"),
        (["a", "b", "--images", "a", "--annotations", "labels.json"], "not there"),
        (["a", "b", "--images", "pictures", "--annotations", "none.json"], "none.json"),
        (["a", "b", "--images", "pictures", "--max-drop", "0.1"], "--annotations"),
        (["a", "b", "--images", "pictures", "--classes", "gren"], "did you mean 'green'?"),
        (["a", "b", "--images", "pictures", "--worst", "1000"], "60 at the most"),
        (["a", "b", "--images", "pictures", "--score", "0"], "a score in (0, 1]"),
        (["a", "b", "--images", "pictures", "--out", "labels.json/x"], "cannot be made"),
    ],
)
def test_bad_input(arguments: list[str], message: str, world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_unreadable_images_are_left_out(world: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    code, _, err = run(world / "a", world / "b", "--images", tmp_path)
    assert code == 2
    assert "none of the 1 images can be read" in err
    Image.new("RGB", (80, 48), (255, 0, 0)).save(tmp_path / "good.png")
    code, out, err = run(world / "a", world / "b", "--images", tmp_path)
    assert code == 2
    assert "broken.png" in err
    assert "only A: red" in out


def test_interrupted_it_leaves_no_results(
    world: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    detect = edgedet.Detector.__call__

    def interrupted(self: Detector, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return detect(self, *arguments, **options)

    monkeypatch.setattr(edgedet.Detector, "__call__", interrupted)
    code, _, err = run(world / "a", world / "b", "--images", world / "pictures", "--out", tmp_path / "out")
    assert code == 130
    assert "interrupted" in err
    assert list((tmp_path / "out").iterdir()) == []

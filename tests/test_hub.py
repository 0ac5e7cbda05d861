"""Folders of the Hugging Face hub's layout: transformers loads them, they come back bit for bit; hostile ones fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_onnx
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import edgedet
from edgedet.bundle import InputSpec, LogitsBoxes, load_model_json, write_bundle
from edgedet.cli import main as edgedet_main
from edgedet.hub import pull_bundle
from edgedet.model_card import Card
from training.cli import main
from training.hub import CardFacts, pull_checkpoint, push_checkpoint
from training.models.detector import build
from training.models.zoo import detector_config
from training.publish import load_checkpoint
from training.weights.fit import tensors_of
from training.weights.own import save_weights
from training.weights.read import read_description

CLASSES, IDS = ("cat", "traffic light", 'a "quoted" [one]'), (3, 7, 90)
METRICS = {"AP": 0.4321, "AP50": 0.61}


def checkpoint(folder: Path, name: str, size: int, **more: Any) -> Path:
    """A checkpoint as training writes one, with random weights."""
    torch.manual_seed(0)
    model = build(detector_config(name, num_classes=len(CLASSES), input_size=(size, size)))
    described = {"model": name, "size": size, "classes": list(CLASSES), "category_ids": list(IDS), "step": 7}
    save_weights(folder / f"{name}.safetensors", model, {**described, "metrics": METRICS, **more})
    return folder / f"{name}.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A checkpoint and the folder it was pushed to, by the name of the detector; made once."""
    root = tmp_path_factory.mktemp("hub")
    sizes = {"atto": 160, "dfine-n": 320, "rtdetrv2-r18": 160}
    made: dict[str, tuple[Path, Path]] = {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in made:
            file = checkpoint(root, name, sizes[name])
            facts = CardFacts(licence={"weights": "Apache-2.0", "data": "CC BY 4.0"}, datasets=("detection/coco",))
            made[name] = file, push_checkpoint(file, root / name, facts=facts)
        return made[name]

    return get


def front_of(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("name", ["dfine-n", "rtdetrv2-r18"])
def test_transformers_loads_it(folders: Any, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    file, folder = folders(name)
    ours = load_checkpoint(file)
    theirs, report = transformers.AutoModelForObjectDetection.from_pretrained(folder, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert type(theirs).__module__.startswith("transformers.models."), "no code of the folder's"
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    frame = np.random.default_rng(0).integers(0, 256, (90, 250, 3), np.uint8)
    pixels = processor(Image.fromarray(frame), return_tensors="pt")["pixel_values"]
    spec = ours.spec
    wanted = edgedet.preprocess(frame, width=spec.width, height=spec.height, filter="antialias")
    np.testing.assert_allclose(pixels[0], wanted, rtol=0, atol=1e-6)
    with torch.inference_mode():  # in double precision, where near ties among cells do not swap queries
        images = pixels.double()
        got, expected = theirs.eval().double()(images), ours.model.double()(images).final
    torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(got.pred_boxes, expected.boxes, rtol=0, atol=1e-4)
    assert theirs.config.id2label == dict(enumerate(CLASSES))


@pytest.mark.parametrize("name", ["atto", "dfine-n"])
def test_it_comes_back_bit_for_bit(folders: Any, tmp_path: Path, name: str) -> None:
    file, folder = folders(name)
    before, there = load_checkpoint(file), load_checkpoint(folder)
    assert main(["pull", str(folder), "--out", str(tmp_path / "back.safetensors")]) == 0
    after = load_checkpoint(tmp_path / "back.safetensors")
    for one in (there, after):
        assert (one.name, one.categories, one.spec) == (before.name, before.categories, before.spec)
        state = one.model.state_dict()
        assert state.keys() == before.model.state_dict().keys()
        for key, tensor in before.model.state_dict().items():
            assert torch.equal(state[key], tensor), key
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {str(label): name for label, name in enumerate(CLASSES)}
    assert "auto_map" not in config
    if name == "atto":
        assert (config["model_type"], config["architectures"]) == ("edgedet", ["EdgedetForObjectDetection"])
        with safe_open(folder / "model.safetensors", "pt") as stored:
            assert set(stored.keys()) <= set(tensors_of(before.model)), "our names"
    with pytest.raises(edgedet.InvalidInputError, match=r"back\.safetensors: exists"):
        pull_checkpoint(str(folder), tmp_path / "back.safetensors")


def test_an_input_of_its_own_comes_back(tmp_path: Path) -> None:
    spec = InputSpec(width=160, height=160, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    file = checkpoint(tmp_path, "atto", 160, input=asdict(spec))
    folder = push_checkpoint(file, tmp_path / "folder")
    assert load_checkpoint(folder).spec == spec
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["do_normalize"] is True
    assert processor["image_std"] == [0.229, 0.224, 0.225]


def test_the_card_says_what_was_measured(folders: Any) -> None:
    _, folder = folders("atto")
    front, body = front_of(folder)
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "edgedet"
    assert front["pipeline_tag"] == "object-detection"
    assert front["datasets"] == ["detection/coco"]
    assert "base_model" not in front
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "mAP", "name": "AP, validation of the training", "value": 0.4321}]
    assert "| AP, validation of the training | 0.4321 |" in body
    assert "## Latency\n\nNot measured." in body
    assert "- Training data: CC BY 4.0 (detection/coco)" in body
    assert r"a \"quoted\" \[one\]" in body.replace('"', r"\"")
    hub = pytest.importorskip("huggingface_hub")
    read = hub.ModelCard((folder / "README.md").read_text(encoding="utf-8")).data
    assert read.eval_results[0].metric_value == 0.4321
    assert read.license == "apache-2.0"


def test_a_card_of_an_unknown_model_invents_nothing() -> None:
    spec = {
        "name": "x",
        "input": asdict(InputSpec(width=8, height=8)),
        "classes": ["<script>alert(1)</script>", "line\n# one"],
        "licence": {"weights": "not stated", "data": "Hausgemacht: ja"},
    }
    text = str(Card(spec=spec, library="edgedet", usage=[]))
    front = yaml.safe_load(text.split("---\n", 2)[1])
    assert front == {"library_name": "edgedet", "pipeline_tag": "object-detection"}
    assert text.count("Not measured.") == 2
    assert "<script>" not in text
    assert "\n# one" not in text
    assert "Trained from: not stated" in text
    free = {**spec, "licence": {"weights": "Our own: see LICENSE", "data": "x"}}
    front = yaml.safe_load(str(Card(spec=free, library="edgedet", usage=[])).split("---\n", 2)[1])
    assert (front["license"], front["license_name"]) == ("other", "Our own: see LICENSE")


@pytest.fixture
def with_bundle(folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A bundle of the checkpoint's classes and input, and the folder with both."""
    file, _ = folders("atto")
    ours = load_checkpoint(file)
    model = tiny_onnx.logits_model(tmp_path / "tiny.onnx", side=160)
    bundle = write_bundle(
        tmp_path / "bundle",
        model,
        name="tiny atto",
        input=ours.spec,
        output=LogitsBoxes(top_k=9),
        classes=CLASSES,
        category_ids=IDS,
        licence={"weights": "MIT", "data": "own photographs"},
    )
    report = {
        "backend": "openvino",
        "device": "Some CPU",
        "threads": 2,
        "evaluation": {"images": 328},
        "ap": {"fp32": {"AP": 0.31}, "int8": {"AP": 0.305}},
        "latency_ms": {"fp32": {"p50": 8.5, "p99": 9.75}, "int8": {"p50": 6.25, "p99": 7.0}},
    }
    monkeypatch.setattr("training.hub.read_report", lambda folder, spec: report)
    arguments = ["push", str(file), str(tmp_path / "hub"), "--bundle", str(bundle), "--base-model", "someone/atto"]
    assert main(arguments) == 0
    return bundle, tmp_path / "hub"


def test_a_bundle_goes_with_it_and_lends_its_figures(with_bundle: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, folder = with_bundle
    front, body = front_of(folder)
    assert front["license"] == "mit"
    assert front["base_model"] == "someone/atto"
    metrics = {metric["name"]: metric["value"] for metric in front["model-index"][0]["results"][0]["metrics"]}
    assert metrics == {
        "AP, validation of the training": 0.4321,
        "AP, fp32 on openvino, 328 images": 0.31,
        "AP, int8 on openvino, 328 images": 0.305,
    }
    assert "| int8 | 6.25 | 7.00 |" in body
    assert "On Some CPU, 2 threads." in body
    assert edgedet_main(["pull", str(folder), "--out", str(tmp_path / "pulled")]) == 0
    for path in bundle.iterdir():
        assert (tmp_path / "pulled" / path.name).read_bytes() == path.read_bytes()
    assert edgedet_main(["pull", str(folder), "--out", str(tmp_path / "pulled")]) == 2
    assert edgedet_main(["pull", str(folder), "--out", str(tmp_path / "pulled"), "--force"]) == 0


def test_a_stale_report_lends_nothing(folders: Any, tmp_path: Path) -> None:
    file, _ = folders("atto")
    bundle = write_bundle(
        tmp_path / "bundle",
        tiny_onnx.logits_model(tmp_path / "tiny.onnx", side=160),
        name="tiny",
        input=load_checkpoint(file).spec,
        output=LogitsBoxes(top_k=9),
        classes=CLASSES,
        category_ids=IDS,
    )
    edgedet.bundle.add_json(bundle, "report.json", {"backend": "openvino", "ap": {"fp32": {"AP": 0.99}}})
    _, body = front_of(push_checkpoint(file, tmp_path / "hub", bundle=bundle))
    assert "0.99" not in body
    other = tiny_onnx.logits_bundle(tmp_path, name="other")
    with pytest.raises(
        edgedet.InvalidInputError, match="expected the bundle of these weights, got one with other width"
    ):
        push_checkpoint(file, tmp_path / "again", bundle=other)
    assert not (tmp_path / "again").exists()


def test_a_bundle_is_pulled_without_torch(with_bundle: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = with_bundle
    missing = ("torch", "safetensors", "transformers", "huggingface_hub", "onnx")
    arguments = ["pull", str(folder), "--out", str(tmp_path / "pulled")]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}));"
        f"from edgedet.cli import main; sys.exit(main({arguments}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert load_model_json(tmp_path / "pulled")["name"] == "tiny atto"


def change_config(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["edgedet"].update(changes)
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def change_tensor(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("input_proj.0.conv.weight"))
    save_file({**tensors, name: change(tensors[name]).contiguous()}, folder / "model.safetensors")


def grow(folder: Path) -> None:
    """A sparse file above the limit."""
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate((4 << 30) + 1)


def replace(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))


def pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change_config(version=2), "expected edgedet of version 1"),
        (change_config(model="gigantic"), "expected weights of a known model, got gigantic"),
        (change_config(size=10**9), "expected an input size of 1 to 4096"),
        (change_config(size="160"), "expected an input size of 1 to 4096"),
        (change_config(category_ids=[1]), "expected a number for each class"),
        (change_config(category_ids=7), "description of a checkpoint"),
        (change_config(input={"width": 160}), '"height": expected a side in pixels'),
        (change_config(input={"width": 64, "height": 64}), "expected images of 160 x 160, got 64 x 64"),
        (change_config(input={"width": 160, "height": 160, "std": [0, 1, 1]}), '"std"'),
        (
            change_config(input={"width": 160, "height": 160, "mean": [0.5, 0.5, 0.5]}),
            "got other do_normalize, image_mean",
        ),
        (replace("config.json", b"{"), "expected JSON"),
        (replace("config.json", b"[" * 100_000), "expected JSON"),
        (replace("config.json", b" " * ((16 << 20) + 1)), "expected JSON"),
        (replace("config.json", b'{"model_type": "edgedet"}'), "expected model_type"),
        (replace("preprocessor_config.json", b"null"), "expected a JSON object"),
        (replace("model.safetensors", b"\x80\x04K\x01."), "expected safetensors"),
        (lambda folder: change_tensor(folder, lambda tensor: tensor[:1]), "1 of another shape"),
        (lambda folder: change_tensor(folder, lambda tensor: tensor * float("nan")), "expected finite weights"),
        (lambda folder: (folder / "model.safetensors").unlink(), "a Hugging Face folder with model.safetensors"),
        (grow, "expected at most 4294967296 bytes"),
        (shard, "names of files beside it"),
        (pipe, "got something else"),
    ],
)
def test_hostile_folders(folders: Any, tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    _, folder = folders("atto")
    shutil.copytree(folder, tmp_path / "hostile")
    spoil(tmp_path / "hostile")
    with pytest.raises(edgedet.Error, match=message):
        pull_checkpoint(str(tmp_path / "hostile"), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def spoil_bundle(name: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: change(folder / "bundle" / name) and None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "bundle"), "expected a bundle in bundle/"),
        (spoil_bundle("model.onnx", lambda file: file.write_bytes(b"x")), "bytes"),
        (spoil_bundle("model.json", lambda file: file.write_text("{")), "model.json"),
        (
            spoil_bundle(
                "model.json", lambda file: file.write_text(file.read_text().replace("model.onnx", "../a.onnx"))
            ),
            "model.json",
        ),
    ],
)
def test_hostile_bundles(
    with_bundle: tuple[Path, Path], tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    _, folder = with_bundle
    spoil(folder)
    with pytest.raises(edgedet.BundleError, match=message):
        pull_bundle(folder, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_links_and_strange_files_of_a_bundle(with_bundle: tuple[Path, Path], tmp_path: Path) -> None:
    """The hub's cache is made of links, so links are followed; what they lead to has to have the sha256."""
    _, folder = with_bundle
    (folder / "bundle" / "model.onnx").rename(tmp_path / "blob")
    (folder / "bundle" / "model.onnx").symlink_to(tmp_path / "blob")
    (folder / "bundle" / "run.pkl").write_bytes(b"\x80\x04K\x01.")
    pulled = pull_bundle(folder, tmp_path / "pulled")
    assert sorted(path.name for path in pulled.iterdir()) == ["model.json", "model.onnx"]
    assert not (pulled / "model.onnx").is_symlink()
    (folder / "bundle" / "model.onnx").unlink()
    (folder / "bundle" / "model.onnx").symlink_to("/dev/zero")
    with pytest.raises(edgedet.BundleError):
        pull_bundle(folder, tmp_path / "again")


def test_the_hub_gives_what_was_pinned(with_bundle: tuple[Path, Path], tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("huggingface_hub")
    _, folder = with_bundle
    commit = "0123456789abcdef0123456789abcdef01234567"
    asked = []

    def snapshot_download(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert all(
            pattern.endswith((".json", ".onnx", ".html", ".safetensors", "README.md")) for pattern in allow_patterns
        )
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    pull_bundle("hub:someone/atto", tmp_path / "bundle-of-the-hub", revision=commit)
    pull_checkpoint("hub:someone/atto", tmp_path / "weights.safetensors", revision=commit)
    assert asked == [("someone/atto", commit)] * 2
    assert (read_description(tmp_path / "weights.safetensors") or {})["model"] == "atto"
    for revision in (None, "main", "0123"):
        with pytest.raises(edgedet.InvalidInputError, match=r"expected the commit to take, 40 digits"):
            pull_bundle("hub:someone/atto", tmp_path / "x", revision=revision)
    with pytest.raises(edgedet.InvalidInputError, match="revision for models of the hub only"):
        pull_bundle(folder, tmp_path / "x", revision=commit)
    with pytest.raises(edgedet.InvalidInputError, match="expected a folder, or hub:OWNER/NAME"):
        pull_bundle(tmp_path / "nowhere", tmp_path / "x")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(edgedet.Error, match=r"pip install 'edgedet\[hub\]'"):
        pull_bundle("hub:someone/atto", tmp_path / "x", revision=commit)


def test_an_existing_folder_stays(folders: Any) -> None:
    file, folder = folders("atto")
    with pytest.raises(edgedet.InvalidInputError, match=r"atto: exists"):
        push_checkpoint(file, folder)

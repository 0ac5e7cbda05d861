"""Frozen networks to learn from: what they say is what their own code says, and what cannot teach is refused."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from test_deploy import small_config
from test_models import nearest, shaken
from tiny_onnx import free_model, logits_model, scored_model
from torch import Tensor, nn

from edgedet import BundleError, Error, InvalidInputError, ModelError
from edgedet.bundle import InputSpec, LabelsBoxesScores, LogitsBoxes, write_bundle
from edgedet.labels import COCO80
from training.export import write_bundle_from_model
from training.models.detector import build
from training.teachers import graph as graph_module
from training.teachers import source as source_module
from training.teachers.foundation import FoundationTeacher, load_foundation
from training.teachers.graph import load_graph
from training.teachers.source import Source, open_teacher, parse_source, parse_sources

onnx = pytest.importorskip("onnx")
transformers = pytest.importorskip("transformers")

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
SIGLIP = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SIGLIP, "vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def made(kind: str) -> Any:
    """A tiny model of each kind with random weights."""
    if kind == "dinov2":
        config = transformers.Dinov2Config(**VIT, image_size=42, patch_size=14)
        return transformers.Dinov2Model(config)
    if kind == "dinov2_with_registers":
        config = transformers.Dinov2WithRegistersConfig(**VIT, image_size=42, patch_size=14, num_register_tokens=3)
        return transformers.Dinov2WithRegistersModel(config)
    if kind == "dinov3_vit":
        config = transformers.DINOv3ViTConfig(**VIT, intermediate_size=24, patch_size=16, num_register_tokens=4)
        return transformers.DINOv3ViTModel(config)
    if kind == "dinov3_convnext":
        config = transformers.DINOv3ConvNextConfig(hidden_sizes=[4, 6, 8, 12], depths=[1, 1, 2, 1])
        return transformers.DINOv3ConvNextModel(config)
    fixed, naflex = {**SIGLIP, "image_size": 32, "patch_size": 8}, {**SIGLIP, "num_patches": 16, "patch_size": 16}
    if kind == "siglip":
        return transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=fixed))
    if kind == "siglip_vision_model":
        return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**fixed))
    if kind == "siglip2":
        return transformers.Siglip2Model(transformers.Siglip2Config(text_config=TEXT, vision_config=naflex))
    assert kind == "siglip2_vision_model"
    return transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**naflex))


# side of a patch, tokens before the patches, normalisation
KINDS: dict[str, tuple[int, int, Any]] = {
    "dinov2": (14, 1, IMAGENET),
    "dinov2_with_registers": (14, 4, IMAGENET),
    "dinov3_vit": (16, 5, IMAGENET),
    "dinov3_convnext": (32, 1, IMAGENET),
    "siglip": (8, 0, HALF),
    "siglip_vision_model": (8, 0, HALF),
    "siglip2": (16, 0, HALF),
    "siglip2_vision_model": (16, 0, HALF),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, nn.Module]]:
    """The folder and the vision part of a tiny model; made once each."""
    known: dict[str, tuple[Path, nn.Module]] = {}

    def get(kind: str) -> tuple[Path, nn.Module]:
        if kind not in known:
            torch.manual_seed(1)
            model = made(kind).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            folder = tmp_path_factory.mktemp(kind)
            model.save_pretrained(folder)
            known[kind] = folder, getattr(model, "vision_model", model)
        return known[kind]

    return get


def copied(folder: Path, target: Path, **config: Any) -> Path:
    """A folder with another config.json."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    stored = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**stored, **config}))
    return target


@torch.no_grad()
def tokens_of(kind: str, model: Any, images: Tensor, patch: int) -> Tensor:
    """What transformers gives for images, as it is documented: SigLIP 2 with padding, as its processor makes it."""
    if kind.startswith("siglip2"):
        height, width = images.shape[-2] // patch, images.shape[-1] // patch
        rows = torch.zeros(len(images), height * width + 3, 3 * patch * patch)
        mask = torch.zeros(len(images), height * width + 3, dtype=torch.int64)
        for image in range(len(images)):
            for cell in range(height * width):
                y, x = cell // width * patch, cell % width * patch
                rows[image, cell] = images[image, :, y : y + patch, x : x + patch].permute(1, 2, 0).flatten()
                mask[image, cell] = 1
        shapes = torch.tensor([[height, width]] * len(images))
        return model(rows, pixel_attention_mask=mask, spatial_shapes=shapes).last_hidden_state[:, : height * width]
    if kind.startswith("siglip"):
        return model(images, interpolate_pos_encoding=True).last_hidden_state
    return model(images).last_hidden_state


# Vision foundation models


@pytest.mark.parametrize("kind", KINDS)
def test_patches_are_what_transformers_computes(kind: str, saved: Any) -> None:
    folder, model = saved(kind)
    patch, before, (mean, std) = KINDS[kind]
    teacher = load_foundation(str(folder), size=None)
    images = torch.rand(2, 3, 96, 160)
    patches = teacher(images).patches
    assert patches is not None
    size = (3 * patch, 5 * patch)  # of the grid of a map with stride 32
    assert teacher.input_size(images) == size
    if size != (96, 160):
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    images = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    tokens = tokens_of(kind, model, images, patch)
    assert patches.shape == (2, tokens.shape[-1], 3, 5)
    assert teacher.widths.semantic == tokens.shape[-1]
    for row in range(3):
        for column in range(5):
            wanted = tokens[:, before + 5 * row + column]
            torch.testing.assert_close(patches[:, :, row, column], wanted, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_where_its_patch_is(kind: str, saved: Any) -> None:
    patch = KINDS[kind][0]
    teacher = load_foundation(str(saved(kind)[0]), size=(4 * patch, 3 * patch))
    plain = torch.full((1, 3, 4 * patch, 3 * patch), 0.4)
    marked = plain.repeat(32, 1, 1, 1)  # a random network mixes its tokens much; the mean of many marks tells
    marked[:, :, 2 * patch : 3 * patch, patch : 2 * patch] = torch.rand(32, 3, patch, patch)
    change = (teacher(marked).patches - teacher(plain).patches).norm(dim=1).mean(0)  # type: ignore[operator]
    assert divmod(int(change.argmax()), 3) == (2, 1)
    assert change[2, 1] > 1.5 * change.median()


@pytest.mark.parametrize("kind", KINDS)
def test_foundation_models_are_frozen(kind: str, saved: Any) -> None:
    teacher = load_foundation(str(saved(kind)[0]), size=None).train()
    assert not [name for name, parameter in teacher.named_parameters() if parameter.requires_grad]
    assert not [name for name, module in teacher.named_modules() if module.training]
    assert all(parameter.dtype == torch.float32 for parameter in teacher.parameters())
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    first, second = teacher(images).patches, teacher(images).patches
    assert first is not None
    assert not first.requires_grad
    assert torch.equal(first, second)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "images", "expected"),
    [
        (None, (640, 640), (280, 280)),  # 20 x 20 patches of 14
        (None, (480, 640), (210, 280)),
        (None, (20, 600), (14, 266)),  # at least one; 18.75 to 19
        ((100, 224), (640, 640), (98, 224)),
        ((3, 14), (640, 640), (14, 14)),
    ],
)
def test_sizes_are_whole_patches(given: Any, images: tuple[int, int], expected: tuple[int, int], saved: Any) -> None:
    teacher = load_foundation(str(saved("dinov2")[0]), size=given)
    assert teacher.input_size(torch.empty(1, 3, *images)) == expected


def test_foundation_description(tmp_path: Path, saved: Any) -> None:
    folder, model = saved("dinov3_vit")
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    said = load_foundation(str(folder), size=None).description
    assert said == (
        f"dinov3_vit from {folder}, {millions:.1f} M parameters, patches of 16 pixels, "
        "the family is published under DINOv3 License"
    )
    licensed = copied(folder, tmp_path / "licensed")
    for text, licence in (
        ("---\nlicense: apache-2.0\ntags:\n- vision\n---\n# Model", "apache-2.0"),
        ("---\ntags: []\nlicense: other\nlicense_name: 'mine'\n---\n", "mine"),
        ("---\nlicense: other\n---\n", "other"),
    ):
        (licensed / "README.md").write_text(text)
        assert load_foundation(str(licensed), size=None).description.endswith(f", licence {licence}")
    (licensed / "README.md").write_text("license: mit, or so")
    assert "published under" in load_foundation(str(licensed), size=None).description


def test_normalisation_is_the_models_own(tmp_path: Path, saved: Any) -> None:
    folder = copied(saved("dinov2")[0], tmp_path / "own")
    file = folder / "preprocessor_config.json"

    def normalisation() -> tuple[list[float], list[float]]:
        teacher = load_foundation(str(folder), size=None)
        return teacher.mean.flatten().tolist(), teacher.std.flatten().tolist()

    file.write_text(json.dumps({"image_mean": [0.25, 0.5, 0.75], "image_std": [0.5, 1, 2], "do_normalize": True}))
    assert normalisation() == ([0.25, 0.5, 0.75], [0.5, 1, 2])
    file.write_text(json.dumps({"do_normalize": False, "image_mean": [0.25, 0.5, 0.75]}))
    assert normalisation() == ([0, 0, 0], [1, 1, 1])
    file.write_text(json.dumps({"do_resize": True}))
    assert normalisation()[1] == pytest.approx(IMAGENET[1])
    for bad in ({"image_mean": [0.5]}, {"image_std": [0.5, 0.5, 0]}, {"image_std": ["a", 1, 1]}, {"image_mean": None}):
        file.write_text(json.dumps(bad))
        with pytest.raises(InvalidInputError, match=r"expected (three numbers|image_std above 0)"):
            load_foundation(str(folder), size=None)


def test_shards_and_half_precision(tmp_path: Path, saved: Any) -> None:
    folder, _ = saved("dinov3_vit")
    again = transformers.DINOv3ViTModel.from_pretrained(folder)
    again.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    again.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    images = torch.rand(1, 3, 64, 64)
    wanted = load_foundation(str(folder), size=None)(images).patches
    shards = load_foundation(str(tmp_path / "shards"), size=None)(images).patches
    half = load_foundation(str(tmp_path / "half"), size=None)(images).patches
    assert wanted is not None
    torch.testing.assert_close(shards, wanted)
    torch.testing.assert_close(half, wanted, atol=0.1, rtol=0.1)
    assert half is not None
    assert half.dtype == torch.float32


def test_nothing_pickled_is_read(tmp_path: Path, saved: Any) -> None:
    folder, model = saved("dinov2")
    pickled = copied(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(InvalidInputError, match=r"expected model.safetensors or its index .* save_pretrained"):
        load_foundation(str(pickled), size=None)


def test_a_configuration_names_no_code_and_no_files(tmp_path: Path, saved: Any) -> None:
    """Neither kernels nor adapters nor other weights are looked for; the architecture is all that counts."""
    folder, _ = saved("dinov2")
    odd = copied(
        folder,
        tmp_path / "odd",
        attn_implementation="someone/kernel",
        _attn_implementation="someone/kernel",
        auto_map={"AutoModel": "someone/code--model.Model"},
        transformers_weights="other.safetensors",
        return_dict=False,
        dtype="float16",
    )
    (odd / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/else"}))
    (odd / ".metadata").write_bytes(b"\x80\x04not a pickle")
    images = torch.rand(1, 3, 64, 96)
    wanted = load_foundation(str(folder), size=None)(images).patches
    assert torch.equal(load_foundation(str(odd), size=None)(images).patches, wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "error", "match"),
    [
        ({"model_type": "clip"}, InvalidInputError, r"expected .* dinov2, .*siglip2_vision_model.* got 'clip'"),
        ({"model_type": None}, InvalidInputError, r"got None"),
        ({"model_type": ["dinov2"]}, InvalidInputError, r"got \['dinov2'\]"),
        ({"quantization_config": {"load_in_8bit": True}}, InvalidInputError, r"expected float weights, got quantised"),
        ({"hidden_size": 32}, ModelError, r"expected the weights of dinov2 as its config.json"),
        ({"hidden_size": "many"}, ModelError, r"expected the weights of dinov2"),
        ({"hidden_size": 1 << 22, "num_attention_heads": 1}, ModelError, r"numbers for \d+ parameters"),
        ({"num_hidden_layers": 3}, ModelError, r"numbers for \d+ parameters"),
        ({"model_type": "siglip"}, ModelError, r"expected the weights of siglip"),
        ({"model_type": "siglip_vision_model"}, ModelError, r"expected the weights of siglip"),
    ],
)
def test_foundation_refusals(
    config: Mapping[str, Any], error: type[Error], match: str, tmp_path: Path, saved: Any
) -> None:
    folder = copied(saved("dinov2")[0], tmp_path / "bad", **config)
    with pytest.raises(error, match=match):
        load_foundation(str(folder), size=None)


def test_damaged_foundation_weights(tmp_path: Path, saved: Any) -> None:
    folder, model = saved("siglip_vision_model")
    renamed = {f"other.{name}": tensor for name, tensor in model.state_dict().items()}
    poisoned = {name: torch.full_like(tensor, float("nan")) for name, tensor in model.state_dict().items()}
    safetensors = importlib.import_module("safetensors.torch")
    bad = copied(folder, tmp_path / "bad")
    for content, error, match in (
        (b"junk" * 10, InvalidInputError, "as safetensors, got something else"),
        (safetensors.save(renamed, {"format": "pt"}), ModelError, r"got others \(no "),
        (safetensors.save(poisoned, {"format": "pt"}), ModelError, "expected finite weights"),
    ):
        (bad / "model.safetensors").write_bytes(content)
        with pytest.raises(error, match=match):
            load_foundation(str(bad), size=None)
    with pytest.raises(InvalidInputError, match="check the path"):
        load_foundation(str(tmp_path / "nowhere"), size=None)
    (bad / "model.safetensors").unlink()
    (bad / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../away.safetensors"}}))
    with pytest.raises(InvalidInputError, match=r"expected away.safetensors"):
        load_foundation(str(bad), size=None)


def test_without_a_connection_the_hub_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # it was read when first imported
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("facebook/dinov3-vitb16-pretrain-lvd1689m", "not an id"):
        with pytest.raises(
            InvalidInputError, match=rf"hub:{name}: expected .* got none \(.*\); check its id"
        ) as caught:
            open_teacher(parse_source(f"dsi=hub:{name}@224"), ["a"])
        assert "\n" not in str(caught.value)


def test_a_model_of_the_hub_loads_as_its_folder(monkeypatch: pytest.MonkeyPatch, saved: Any) -> None:
    folder, _ = saved("dinov2")
    asked = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    teacher = open_teacher(Source("dsi", "hub:facebook/dinov2-small", 28), ["a"])
    assert isinstance(teacher, FoundationTeacher)
    assert teacher.size == (28, 28)
    assert teacher.description.startswith("dinov2 from hub:facebook/dinov2-small, ")
    ((name, patterns),) = asked
    assert name == "facebook/dinov2-small"
    assert all(pattern.endswith((".json", ".safetensors", "README.md")) for pattern in patterns)


def test_transformers_is_an_extra(monkeypatch: pytest.MonkeyPatch, saved: Any) -> None:
    folder, _ = saved("dinov2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Error, match=r"pip install 'edgedet\[foundation\]'"):
        load_foundation(str(folder), size=None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Error, match=r"pip install 'edgedet\[foundation\]'"):
        load_foundation("hub:facebook/dinov2-small", size=None)


def test_training_imports_without_transformers() -> None:
    """Nor the hub's client: no module of it imports them at its top."""
    for file in (ROOT / "python" / "training").rglob("*.py"):
        for statement in ast.parse(file.read_text()).body:
            text = ast.unparse(statement) if isinstance(statement, ast.Import | ast.ImportFrom) else ""
            assert not re.match(r"(import|from) (transformers|huggingface_hub)", text), file


# ONNX files and bundles

SPEC = InputSpec(width=64, height=96, channels="bgr", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
OWN, STUDENTS = list("edcba"), list("abcde")


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(0)
    model = build(small_config("atto")).eval()
    shaken(model)
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, detector: Any) -> Path:
    return write_bundle_from_model(
        detector,
        tmp_path_factory.mktemp("graph") / "bundle",
        name="small",
        input=SPEC,
        classes=OWN,
        category_ids=[1, 2, 3, 4, 5],
        licence={"weights": "Apache-2.0"},
    )


def rows_of(teacher: Any, images: Tensor) -> Tensor:
    prediction = teacher(images).prediction
    return torch.cat((prediction.logits, prediction.boxes), dim=-1)


def test_a_bundle_teaches_what_its_model_says(bundle: Path, detector: Any) -> None:
    """With its own normalisation and order of colours, over the student's classes in their order."""
    teacher = load_graph(bundle, STUDENTS, size=None)
    images = torch.rand(2, 3, 96, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SPEC.mean, SPEC.std))
    with torch.no_grad():
        final = detector((images.flip(1) - mean) / std).final
    wanted = torch.cat((final.logits.flip(-1), final.boxes), dim=-1)
    assert float(nearest(wanted, rows_of(teacher, images)).max()) < 1e-3
    assert teacher.widths.classes == 5
    assert teacher.widths.queries is None
    assert teacher.description == f"small from {bundle}, 5 classes, input 64x96, licence Apache-2.0"
    # Fewer classes than it knows, and images of another size.
    some = load_graph(bundle, ["b", "d"], size=(96, 64))
    wanted = torch.cat((final.logits[..., [3, 1]], final.boxes), dim=-1)
    assert float(nearest(wanted, rows_of(some, images)).max()) < 1e-3
    assert rows_of(some, torch.rand(1, 3, 200, 300)).shape == (1, 7, 6)


def test_graphs_are_frozen(bundle: Path) -> None:
    teacher = load_graph(bundle, STUDENTS, size=None)
    assert not list(teacher.parameters())
    assert not rows_of(teacher, torch.rand(1, 3, 96, 64, requires_grad=True)).requires_grad


def test_a_bare_file_is_taken_to_know_the_students_classes(tmp_path: Path, bundle: Path, detector: Any) -> None:
    file = tmp_path / "bare.onnx"
    shutil.copy(bundle / "model.onnx", file)
    teacher = load_graph(file, ["v", "w", "x", "y", "z"], size=None)
    images = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        final = detector(images).final
    wanted = torch.cat((final.logits, final.boxes), dim=-1)
    assert float(nearest(wanted, rows_of(teacher, images)).max()) < 1e-3
    assert "5 classes, taken to be the student's in the same order, input 64x96" in teacher.description


def test_a_bare_file_with_80_classes_knows_those_of_coco(tmp_path: Path) -> None:
    names = ("images", "logits", "boxes")
    values = torch.rand(1, 3, 32, 32)
    file = wide_model(tmp_path / "coco.onnx", 80)
    some = load_graph(file, ["dog", "person"], size=None)
    everything = load_graph(file, COCO80.names, size=None)
    other = load_graph(file, [f"class {index}" for index in range(80)], size=None)
    logits = everything(values).prediction.logits  # type: ignore[union-attr]
    assert torch.equal(some(values).prediction.logits, logits[..., [16, 0]])  # type: ignore[union-attr]
    assert "80 classes, taken to be COCO's" in some.description
    assert "the student's in the same order" in other.description
    with pytest.raises(InvalidInputError, match=r"all 2 classes of the student, got one with 80 classes.*COCO's"):
        load_graph(file, ["dog", "unicorn"], size=None)
    with pytest.raises(InvalidInputError, match=r"all 2 classes of the student, got one with 3 classes without names"):
        load_graph(logits_model(tmp_path / "three.onnx", names=names), ["dog", "unicorn"], size=None)


def wide_model(path: Path, classes: int) -> Path:
    """Logits that tell the classes apart."""
    free_model(
        path,
        {"images": (onnx.TensorProto.FLOAT, ["N", 3, 32, 32])},
        {"logits": (onnx.TensorProto.FLOAT, [1, 2, classes]), "boxes": (onnx.TensorProto.FLOAT, [1, 2, 4])},
    )
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "logits_c":
            values = -torch.arange(2 * classes, dtype=torch.float32).reshape(1, 2, classes).numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return path


def test_a_graph_for_one_image_takes_them_one_by_one(tmp_path: Path) -> None:
    model = onnx.load(logits_model(tmp_path / "free.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    images = torch.rand(3, 3, 32, 32)
    free, one = (load_graph(tmp_path / name, list("abc"), size=None) for name in ("free.onnx", "one.onnx"))
    assert torch.equal(rows_of(one, images), rows_of(free, images))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "four.onnx")
    with pytest.raises(InvalidInputError, match=r"or for one, got one for 4; export it with a free batch axis"):
        load_graph(tmp_path / "four.onnx", list("abc"), size=None)


def test_a_graph_of_any_size_needs_one(tmp_path: Path) -> None:
    free = logits_model(tmp_path / "free.onnx", side="S")
    with pytest.raises(InvalidInputError, match=r"takes any, got none; add it, free.onnx@640"):
        load_graph(free, list("abc"), size=None)
    assert load_graph(free, list("abc"), size=(48, 64)).size == (48, 64)
    fixed = logits_model(tmp_path / "fixed.onnx")
    with pytest.raises(InvalidInputError, match=r"\(height 32, width 32\), got 48, 64; leave it out"):
        load_graph(fixed, list("abc"), size=(48, 64))


def ported(path: Path, outputs: Mapping[str, tuple[int, ...]], image: tuple[int | str, ...] = ("N", 3, 32, 32)) -> Path:
    """A graph whose outputs are all -1 + 0.5 + the mean of the image, but for boxes, which are 0.5 more."""
    kind = onnx.TensorProto.FLOAT
    free_model(path, {"images": (kind, image)}, {name: (kind, shape) for name, shape in outputs.items()})
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name not in ("axis", "boxes_c", "reference_c"):
            values = onnx.numpy_helper.to_array(tensor) - 2
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return path


HEAD = {"logits": (1, 5, 3), "boxes": (1, 5, 4)}


def test_what_else_a_graph_gives(tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 32, 32)
    full = load_graph(
        ported(tmp_path / "full.onnx", {**HEAD, "queries": (1, 5, 6), "corners": (1, 5, 132), "reference": (1, 5, 4)}),
        list("abc"),
        size=None,
    )
    output = full(images)
    assert (full.widths.queries, full.widths.bins) == (6, 33)
    assert output.queries is not None
    assert output.queries.shape == (1, 5, 6)
    assert output.prediction is not None
    assert output.prediction.corners is not None
    assert output.prediction.corners.shape == (1, 5, 132)
    assert torch.equal(output.prediction.reference, torch.full((1, 5, 4), 0.5))  # type: ignore[arg-type]

    unplaced = load_graph(ported(tmp_path / "unplaced.onnx", {**HEAD, "corners": (1, 5, 132)}), list("abc"), size=None)
    assert unplaced.widths.bins is None
    assert unplaced(images).prediction.corners is None  # type: ignore[union-attr]

    strange = load_graph(ported(tmp_path / "strange.onnx", {**HEAD, "queries": (1, 5, 6)}), list("ab"), size=None)
    assert (strange.widths.classes, strange.widths.queries) == (None, 6)
    assert strange(images).prediction is None


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        ({"logits": (1, 5, 3), "boxes": (1, 4, 4)}, "got logits .1, 5, 3., boxes .1, 4, 4."),
        ({**HEAD, "corners": (1, 5, 33), "reference": (1, 5, 4)}, r"corners \(N, Q, 4 \* bins\), got"),
        ({**HEAD, "corners": (1, 5, 132), "reference": (1, 5, 2)}, r"reference \(N, Q, 4\)"),
        ({"logits": (1, 5, 3)}, "form of this model is not supported"),
        ({**HEAD, "queries": (1, 5)}, r"expected queries \(1, Q, ...\), got \(1, 5\)"),
    ],
)
def test_outputs_of_another_form(outputs: Mapping[str, tuple[int, ...]], match: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=match):
        load_graph(ported(tmp_path / "odd.onnx", outputs), list("abc"), size=None)


def test_outputs_that_mean_something_else(tmp_path: Path) -> None:
    pixels = logits_model(tmp_path / "pixels.onnx", boxes=np.full((3, 4), 320, np.float32))
    with pytest.raises(ModelError, match=r"cxcywh in \[0, 1\] of the image, got values up to 320"):
        load_graph(pixels, list("abc"), size=None)
    kind = onnx.TensorProto.FLOAT
    sigmoid = free_model(
        tmp_path / "sigmoid.onnx",
        {"images": (kind, ["N", 3, 32, 32])},
        {name: (kind, shape) for name, shape in HEAD.items()},
    )
    with pytest.raises(ModelError, match="expected logits, got probabilities"):
        load_graph(sigmoid, list("abc"), size=None)
    for sizes in (True, False):
        scored = scored_model(tmp_path / "scored.onnx", sizes=sizes)
        with pytest.raises(InvalidInputError, match=r"scores of all classes .* `python -m training export` does"):
            load_graph(scored, list("abc"), size=None)
    best = write_bundle(
        tmp_path / "best",
        scored,
        name="best",
        input=InputSpec(width=32, height=32),
        output=LabelsBoxesScores(),
        classes=list("abc"),
    )
    with pytest.raises(InvalidInputError, match=r"scores of all classes .* labels_boxes_scores"):
        load_graph(best, list("abc"), size=None)


def test_bundles_that_cannot_teach(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a teacher that knows all 2 classes of the student"):
        load_graph(bundle, ["a", "z"], size=None)
    with pytest.raises(InvalidInputError, match=r"expected the size of the graph .* leave it out"):
        load_graph(bundle, STUDENTS, size=(64, 64))
    with pytest.raises(BundleError):
        load_graph(tmp_path, STUDENTS, size=None)
    model = logits_model(tmp_path / "model.onnx", names=("pixels", "scores", "places"))
    output = LogitsBoxes(logits="scores", boxes="places")
    for name, classes, own, match in (
        ("pixels", "abcd", output, "expected 4 classes, as the bundle names, got 3"),
        ("images", "abc", output, "expected the input and outputs that model.json names"),
        ("pixels", "abc", LogitsBoxes(), "expected the input and outputs that model.json names"),
    ):
        made_up = write_bundle(
            tmp_path / "bundle",
            model,
            name="odd",
            input=InputSpec(width=32, height=32, name=name, resize="letterbox"),
            output=own,
            classes=list(classes),
            overwrite=True,
        )
        with pytest.raises(ModelError, match=match):
            load_graph(made_up, list("abc"), size=None)
    good = write_bundle(
        tmp_path / "bundle",
        model,
        name="good",
        input=InputSpec(width=32, height=32, name="pixels", resize="letterbox"),
        output=output,
        classes=list("abc"),
        overwrite=True,
    )
    assert load_graph(good, list("cab"), size=None).description.endswith("trained on letterboxed images")


def test_hostile_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    junk = tmp_path / "junk.onnx"
    for content in (b"", b"junk", b"\x08" * 1000):
        junk.write_bytes(content)
        with pytest.raises(ModelError, match="onnxruntime cannot load") as caught:
            load_graph(junk, list("abc"), size=None)
        assert "\n" not in str(caught.value)
    good = logits_model(tmp_path / "good.onnx")
    onnx.save(
        onnx.load(good), tmp_path / "parts.onnx", save_as_external_data=True, location="weights", size_threshold=0
    )
    with pytest.raises(ModelError, match="expected an ONNX model with its weights inside"):
        load_graph(tmp_path / "parts.onnx", list("abc"), size=None)
    with pytest.raises(ModelError, match="expected finite logits, got NaN or infinite values"):
        load_graph(logits_model(tmp_path / "nan.onnx", poison=float("nan")), list("abc"), size=None)
    with pytest.raises(InvalidInputError, match="expected an ONNX file, got nothing there"):
        load_graph(tmp_path / "missing.onnx", list("abc"), size=None)
    monkeypatch.setattr(graph_module, "MAX_BYTES", 100)
    with pytest.raises(InvalidInputError, match="expected at most 100 bytes"):
        load_graph(good, list("abc"), size=None)


def test_nan_while_training(tmp_path: Path) -> None:
    teacher = load_graph(logits_model(tmp_path / "good.onnx"), list("abc"), size=None)
    with pytest.raises(ModelError, match="expected finite logits"):
        teacher(torch.full((1, 3, 32, 32), float("nan")))
    with pytest.raises(ModelError, match=r"onnxruntime cannot run"):
        teacher.runner(torch.zeros(1, 3, 16, 32))


# What is asked for


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.onnx", Source("teacher", "model.onnx")),
        ("big=runs/big", Source("big", "runs/big")),
        ("big=runs/big@800", Source("big", "runs/big", 800)),
        ("runs/big@800", Source("teacher", "runs/big", 800)),
        ("dsi=hub:facebook/dinov2-base@448", Source("dsi", "hub:facebook/dinov2-base", 448)),
        ("hub:facebook/dinov2-base", Source("teacher", "hub:facebook/dinov2-base")),
        ("two-b_2=x", Source("two-b_2", "x")),
        ("../a=b/c", Source("teacher", "../a=b/c")),  # no name
        ("a=b=c", Source("a", "b=c")),
        ("a@b", Source("teacher", "a@b")),
        ("a@640@320", Source("teacher", "a@640", 320)),
        ("a@1234567", Source("teacher", "a@1234567")),
    ],
)
def test_sources(text: str, expected: Source) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize("text", ["", "a=", "@640", "a=@640", "a=b@0", "model@0"])
def test_sources_without_sense(text: str) -> None:
    with pytest.raises(InvalidInputError, match="expected PATH, NAME=PATH or either with @SIZE above 0"):
        parse_source(text)


def test_paths_that_exist_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lr=1", "run@640", "b@32"):
        (tmp_path / name).mkdir()
    assert parse_source("lr=1") == Source("teacher", "lr=1")
    assert parse_source("lr=1@320") == Source("teacher", "lr=1", 320)
    assert parse_source("run@640") == Source("teacher", "run@640")
    assert parse_source("run@640@320") == Source("teacher", "run@640", 320)
    assert parse_source("a=b@32") == Source("a", "b@32")
    assert parse_source("x=lr=1") == Source("x", "lr=1")


def test_teachers_are_opened_by_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, Any, Any]] = []

    def recorder(kind: str) -> Callable[..., str]:
        return lambda path, *classes, size: opened.append((kind, path, size)) or kind  # type: ignore[func-returns-value]

    for kind in ("detector", "graph", "foundation"):
        monkeypatch.setattr(source_module, f"load_{kind}", recorder(kind))
    for name in ("bundle", "run", "siglip", "rtdetr", "clip"):
        (tmp_path / name).mkdir()
    for name, content in (
        ("bundle/model.json", {}),
        ("run/config.json", {"epochs": 3}),
        ("siglip/config.json", {"model_type": "siglip"}),
        ("rtdetr/config.json", {"model_type": "rt_detr"}),
        ("clip/config.json", {"model_type": "clip"}),
        ("best.safetensors", {}),
        ("net.onnx", {}),
    ):
        (tmp_path / name).write_text(json.dumps(content))
    expected = {
        "bundle": "graph",
        "net.onnx": "graph",
        "run": "detector",
        "rtdetr": "detector",
        "best.safetensors": "detector",
        "siglip": "foundation",
        "clip": "foundation",  # which says what there is
    }
    for name, kind in expected.items():
        assert open_teacher(Source("t", str(tmp_path / name)), ["a"]) == kind
    open_teacher(Source("t", "hub:a/b", 224), ["a"])
    assert opened[-1] == ("foundation", "hub:a/b", (224, 224))
    assert opened[0] == ("graph", tmp_path / "bundle", None)
    with pytest.raises(InvalidInputError, match=r"expected a file or folder, got none at nowhere; check the path"):
        open_teacher(Source("t", "nowhere"), ["a"])


def test_names_of_teachers_are_unique() -> None:
    with pytest.raises(InvalidInputError, match=r"each name once, got teacher more than once; name them, as in"):
        parse_sources(["a", "b", "c=d"])
    assert [source.name for source in parse_sources(["one=a", "two=a", "b"])] == ["one", "two", "teacher"]

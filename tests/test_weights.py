"""Weights from files: what loads, what is refused and with which words, and that nothing in a file is ever run."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgedet import InvalidInputError, ModelError
from edgedet.labels import COCO80
from training.models.deimv2 import deimv2_config
from training.models.detector import Detector, DetectorConfig, build
from training.models.zoo import MODELS, detector_config
from training.weights import read
from training.weights.fit import WeightsMismatch
from training.weights.load import load, load_backbone, load_pretrained, load_weights
from training.weights.names import official_names
from training.weights.own import save_weights
from training.weights.read import read_description, read_weights

ATTO = "deimv2_hgnetv2_atto_coco.safetensors"
FEMTO = "deimv2_hgnetv2_femto_coco.from_onnx.safetensors"


def tiny_config(*, classes: int = 5, size: tuple[int, int] = (64, 96), queries: int = 12) -> DetectorConfig:
    config = deimv2_config("atto", num_classes=classes)
    return replace(config, input_size=size, decoder=replace(config.decoder, num_queries=queries))


def shaken(model: Detector, seed: int = 0) -> Detector:
    """Every tensor moved, so that one in a wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


# How the official code's names are made of ours, per family; DEIMv2's lite encoder and RT-DETR's first release besides.
OFFICIAL = [(r"^decoder\.(layers|lqe_layers)\.", r"decoder.decoder.\1.")]
HGNET = [(r"^(backbone\..*)\.norm\.", r"\1.bn.")]
LITE = [
    (r"\.mix\.conv\.", ".1."),
    (r"\.mix\.norm\.", ".2."),
    (r"^encoder\.bi_fusion\.", "encoder.bi_fusion.cv."),
]
FIRST = [
    (r"^encoder\.input_proj\.(\d)\.conv\.", r"encoder.input_proj.\1.0."),
    (r"^encoder\.input_proj\.(\d)\.norm\.", r"encoder.input_proj.\1.1."),
    (r"^decoder\.enc_output\.proj\.", "decoder.enc_output.0."),
    (r"^decoder\.enc_output\.norm\.", "decoder.enc_output.1."),
]
TORCHVISION = [
    (r"^backbone\.res_layers\.0\.blocks\.", "backbone.layer1."),
    (r"^backbone\.res_layers\.1\.blocks\.", "backbone.layer2."),
    (r"^backbone\.res_layers\.2\.blocks\.", "backbone.layer3."),
    (r"^backbone\.res_layers\.3\.blocks\.", "backbone.layer4."),
    (r"^(backbone\.layer.*)\.branch2a\.conv\.", r"\1.conv1."),
    (r"^(backbone\.layer.*)\.branch2a\.norm\.", r"\1.bn1."),
    (r"^(backbone\.layer.*)\.branch2b\.conv\.", r"\1.conv2."),
    (r"^(backbone\.layer.*)\.branch2b\.norm\.", r"\1.bn2."),
    (r"^(backbone\.layer.*)\.branch2c\.conv\.", r"\1.conv3."),
    (r"^(backbone\.layer.*)\.branch2c\.norm\.", r"\1.bn3."),
    (r"^(backbone\.layer.*)\.short\.conv\.", r"\1.downsample.0."),
    (r"^(backbone\.layer.*)\.short\.norm\.", r"\1.downsample.1."),
    (r"^backbone\.conv1\.conv1_1\.conv\.", "backbone.conv1."),
    (r"^backbone\.conv1\.conv1_1\.norm\.", "backbone.bn1."),
]
EDGE = [
    *TORCHVISION,
    (r"^backbone\.conv1\.", "backbone.stem.0."),
    (r"^backbone\.bn1\.", "backbone.stem.1."),
    (r"^(encoder\..*)\.norm\.", r"\1.bn."),
    (r"\.linear1\.", ".ff.0."),
    (r"\.linear2\.", ".ff.3."),
    (r"^decoder\.bbox_head\.layers\.2\.", "decoder.bbox_head.net.4."),
    (r"^decoder\.bbox_head\.layers\.1\.", "decoder.bbox_head.net.2."),
    (r"^decoder\.bbox_head\.layers\.0\.", "decoder.bbox_head.net.0."),
]


def official(model: nn.Module, rules: list[tuple[str, str]] | None = None) -> dict[str, Tensor]:
    """A model's state by the official names, of DEIMv2 unless others are given."""
    state = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in [*OFFICIAL, *HGNET, *LITE] if rules is None else rules:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    return state


def same_tensors(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


@pytest.fixture(scope="module")
def good() -> Detector:
    torch.manual_seed(0)
    return shaken(build(tiny_config()))


@pytest.fixture
def state(tmp_path: Path, good: Detector) -> dict[str, Tensor]:
    save_weights(tmp_path / "good.safetensors", good, {})
    return load_file(tmp_path / "good.safetensors")


# What loads


@pytest.mark.parametrize(("variant", "name"), [("atto", ATTO), ("femto", FEMTO)])
def test_published_weights_load_strictly(shared: Path, variant: str, name: str) -> None:
    model = build(detector_config(variant))
    load_weights(model, shared / "models" / name)
    stored = load_file(shared / "models" / name)
    assert torch.equal(model.decoder.anchors, stored["decoder.anchors"])
    assert torch.equal(model.backbone.stem.stem1.norm.weight, stored["backbone.stem.stem1.bn.weight"])
    assert torch.equal(model.decoder.layers[1].norm2.scale, stored["decoder.decoder.layers.1.norm2.scale"])


def test_the_model_of_a_file_is_told_from_its_tensors(shared: Path) -> None:
    loaded = load(None, shared / "models" / FEMTO)
    assert loaded.model.config.name == "femto"
    assert loaded.classes == COCO80.names
    assert str(loaded.report).startswith(f"{FEMTO}: 479 tensors of official checkpoint")


def test_weights_survive_a_round_trip(tmp_path: Path, good: Detector) -> None:
    second = build(tiny_config())
    save_weights(tmp_path / "w.safetensors", good, {"model": "tiny", "classes": ["a", "b"]})
    load_weights(second, tmp_path / "w.safetensors")
    assert same_tensors(good, second)
    assert read_description(tmp_path / "w.safetensors") == {"model": "tiny", "classes": ["a", "b"]}
    shared_head = [n for n in load_file(tmp_path / "w.safetensors") if n.startswith("decoder.dec_bbox_head")]
    assert {n.split(".")[2] for n in shared_head} == {"0"}, "tied tensors are stored once"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_our_own_names_mean_themselves(name: str) -> None:
    """The rules for other people's names leave every tensor of ours alone, also where they are tried on it."""
    with torch.device("meta"):
        state = build(detector_config(name, num_classes=3)).state_dict()
    renamed, dropped = official_names(state)
    assert list(renamed) == list(state)
    assert dropped == 0


@pytest.mark.parametrize("name", ["edge-r18", "rtdetr-r18", "dfine-n", "deimv2-n"])
def test_a_run_of_every_family_is_read_back(tmp_path: Path, name: str) -> None:
    model = build(detector_config(name, num_classes=3))
    file = tmp_path / "best.safetensors"
    save_weights(file, model, {"model": name, "size": model.config.input_size[0], "classes": ["a", "b", "c"]})
    loaded = load(None, file)
    assert loaded.model.config == model.config
    assert all(torch.equal(tensor, loaded.model.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_safetensors_whose_first_byte_is_that_of_a_pickle(tmp_path: Path) -> None:
    """The file begins with the length of its header, of which the low byte may be anything."""
    file = tmp_path / "w"
    for padding in range(0, 256, 8):
        save_file({"a": torch.ones(1)}, file, metadata={"padding": "." * padding})
        if file.read_bytes()[0] == 0x80:
            break
    assert file.read_bytes()[0] == 0x80
    assert torch.equal(read_weights(file).tensors["a"], torch.ones(1))
    assert read_description(file) is None


def wrapped(state: dict[str, Tensor], layout: str) -> object:
    """A state as one of the repositories' trainers saves it, beside what else they save."""
    stale = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    numpy_state = np.random.default_rng(0).bit_generator.state
    return {
        "bare": state,
        "RT-DETR": {"ema": {"module": state, "updates": 7}, "model": stale, "last_epoch": 71},
        "D-FINE": {"model": state, "date": "2024-10-01T12:00:00"},
        "D-FINE, resumable": {
            "date": "now",
            "last_epoch": 3,
            "model": stale,
            "ema": {"module": state, "updates": 4},
            "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]},
            "lr_scheduler": {"milestones": Counter([500])},
        },
        "RT-DETRv4": {
            "model": {**state, "encoder.feature_projector.0.weight": torch.zeros(2, 2)},
            "teacher_model": {"blocks.0.weight": torch.zeros(3)},
        },
        "DistributedDataParallel": {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        "RT-DETR-KD": {
            "epoch": 3,
            "model_state_dict": state,
            "rng_state": {
                "numpy": ("MT19937", np.arange(624, dtype=np.uint32), 3, 0, 0.0),
                "python": (3, (1, 2), None),
            },
            "best_map": np.float64(0.2),
            "cfg": {"lr": 1e-4, "generator": str(numpy_state)},
        },
    }[layout]


@pytest.mark.parametrize(
    "layout",
    [
        "bare",
        "RT-DETR",
        "D-FINE",
        "D-FINE, resumable",
        "RT-DETRv4",
        "DistributedDataParallel",
        "RT-DETR-KD",
    ],
)
@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_checkpoints_as_the_repositories_save_them(tmp_path: Path, good: Detector, layout: str, archive: bool) -> None:
    """Under a name that says nothing: formats are told by content."""
    file = tmp_path / "weights.bin"
    torch.save(wrapped(official(good), layout), file, _use_new_zipfile_serialization=archive)
    model = build(tiny_config())
    report = load_weights(model, file)
    assert same_tensors(good, model)
    assert report.dropped == (1 if layout == "RT-DETRv4" else 0)


@pytest.mark.parametrize(
    ("name", "rules", "probe"),
    [
        ("rtdetr-r18", [*OFFICIAL, *FIRST], "encoder.input_proj.2.1.running_var"),
        ("rtdetrv2-r18", OFFICIAL, "decoder.decoder.layers.2.cross_attn.value_proj.weight"),
        ("dfine-n", [*OFFICIAL, *HGNET], "backbone.stages.0.blocks.0.layers.0.lab.scale"),
        ("deimv2-n", [*OFFICIAL, *HGNET], "decoder.decoder.layers.1.gateway.norm.scale"),
        ("edge-r18", EDGE, "backbone.layer1.0.bn2.running_mean"),
    ],
)
def test_official_names_of_every_family(tmp_path: Path, name: str, rules: list[tuple[str, str]], probe: str) -> None:
    """The names themselves were taken from the official code, see docs/parity.md."""
    first = shaken(build(detector_config(name)))
    state = official(first, rules)
    assert probe in state
    torch.save({"model": state}, tmp_path / "w.pth")
    assert same_tensors(first, load(name, tmp_path / "w.pth").model)


def test_architectures_under_several_names_have_to_be_named(tmp_path: Path) -> None:
    torch.save({"model": build(detector_config("dfine-n")).state_dict()}, tmp_path / "w.pth")
    with pytest.raises(InvalidInputError, match=r"got some like dfine-n or deim-n \(100% .* say what they are of"):
        load(None, tmp_path / "w.pth")


def stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone alone."""
    return {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}


@pytest.mark.parametrize(
    ("name", "rules", "head"),
    [
        ("rtdetrv2-r18", [], {}),
        ("dfine-s", HGNET, {}),
        ("edge-r18", TORCHVISION, {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}),
    ],
)
def test_imagenet_backbones(tmp_path: Path, name: str, rules: list[tuple[str, str]], head: dict[str, Tensor]) -> None:
    first = shaken(build(detector_config(name)))
    torch.save({**stripped(official(first, rules)), **head}, tmp_path / "backbone.pth")
    second = build(detector_config(name))
    report = load_backbone(second, tmp_path / "backbone.pth")
    assert same_tensors(first.backbone, second.backbone)
    assert all(taken == total > 0 for taken, total in report.stages.values())
    assert next(iter(report.stages)) == ("stem" if name == "dfine-s" else "conv1")
    with pytest.raises(InvalidInputError, match="without class heads; start a training from it"):
        load(name, tmp_path / "backbone.pth")


def test_a_small_backbone_starts_from_the_first_stages_of_a_larger(tmp_path: Path) -> None:
    first = shaken(build(detector_config("dfine-n")))
    torch.save({"model": official(first, [*OFFICIAL, *HGNET])}, tmp_path / "n.pth")
    second = build(detector_config("atto"))
    fresh = second.backbone.stages[2].blocks[0].aggregation[0].conv.weight.clone()
    report = load_backbone(second, tmp_path / "n.pth")
    shares = {stage: taken / total for stage, (taken, total) in report.stages.items()}
    assert shares["stem"] == shares["stages.0"] == shares["stages.1"] == 1
    assert 0 < shares["stages.2"] < 1
    assert torch.equal(second.backbone.stages[1].blocks[0].layers[2].conv.weight,
                       first.backbone.stages[1].blocks[0].layers[2].conv.weight)  # fmt: skip
    assert torch.equal(second.backbone.stages[2].blocks[0].aggregation[0].conv.weight, fresh)
    assert "stem 40 of 40" in str(report)


def test_a_backbone_of_another_kind(tmp_path: Path, good: Detector) -> None:
    torch.save(stripped(official(good)), tmp_path / "hgnet.pth")
    with pytest.raises(ModelError, match="with none of its names and shapes"):
        load_backbone(build(detector_config("rtdetr-r18")), tmp_path / "hgnet.pth")


def test_half_precision_and_counters_do_not_matter(tmp_path: Path, good: Detector) -> None:
    state = {name: t.half() if t.is_floating_point() else t for name, t in official(good).items()}
    slim = {name: t for name, t in state.items() if "num_batches" not in name and "num_points_scale" not in name}
    slim = {name: t for name, t in slim.items() if name not in ("decoder.anchors", "decoder.valid_mask")}
    torch.save({"model": slim}, tmp_path / "half.pth")
    model = build(tiny_config())
    load_weights(model, tmp_path / "half.pth")
    torch.testing.assert_close(model.decoder.enc_score_head.weight, good.decoder.enc_score_head.weight.half().float())


# What is refused


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, state: dict[str, Tensor], value: float) -> None:
    state["decoder.layers.0.norm1.scale"][3] = value
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match=r"1 NaN or infinite values in decoder\.layers\.0\.norm1\.scale"):
        load_weights(build(tiny_config()), tmp_path / "bad.safetensors")


def test_nan_in_class_heads_of_other_classes(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["decoder.enc_score_head.bias"][0] = float("nan")
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match="enc_score_head"):
        load_pretrained(build(tiny_config(classes=2)), tmp_path / "bad.safetensors")


def test_weights_of_another_model_are_refused(tmp_path: Path, state: dict[str, Tensor], good: Detector) -> None:
    model = build(tiny_config())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = tmp_path / "bad.safetensors"

    renamed = dict(state)
    renamed["decoder.extra"] = renamed.pop("decoder.layers.0.norm1.scale")
    save_file(renamed, file)
    with pytest.raises(
        WeightsMismatch, match=r"1 missing: decoder\.layers\.0\.norm1.*1 unexpected: decoder\.extra"
    ) as e:
        load_weights(model, file)
    assert e.value.missing == ("decoder.layers.0.norm1.scale",)
    assert e.value.unexpected == ("decoder.extra",)

    save_file({**state, "decoder.layers.0.norm1.scale": torch.ones(63)}, file)
    for function in (load_weights, load_pretrained):
        with pytest.raises(WeightsMismatch, match=r"norm1\.scale: expected \(64,\), got \(63,\)"):
            function(model, file)

    save_file({**state, "decoder.reg_scale": torch.tensor([8.0])}, file)
    with pytest.raises(ModelError, match="reg_scale"):
        load_weights(model, file)

    save_file({**state, "decoder.layers.0.norm1.scale": torch.ones(64, dtype=torch.int32)}, file)
    with pytest.raises(ModelError, match="int32"):
        load_weights(model, file)

    tied = {"decoder.dec_bbox_head.1.layers.0.bias": state["decoder.dec_bbox_head.0.layers.0.bias"] + 1}
    save_file({**state, **tied}, file)
    with pytest.raises(ModelError, match="one tensor in this model"):
        load_weights(model, file)

    save_weights(file, build(tiny_config(classes=3)), {})
    with pytest.raises(WeightsMismatch, match="Build the model with the file's classes and input size"):
        load_weights(model, file)

    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} changed although loading failed"


def test_a_mismatch_says_what_the_file_is_of(tmp_path: Path) -> None:
    torch.save(official(build(detector_config("femto"))), tmp_path / "w.pth")
    with pytest.raises(WeightsMismatch) as error:
        load_weights(build(detector_config("pico")), tmp_path / "w.pth")
    text = str(error.value)
    assert "This looks like femto weights, the model is pico: choose the model they are of (--model)" in text
    assert len(text) < 1500
    assert f"{len(error.value.missing)} missing" in text
    assert f"{len(error.value.wrong_shape)} of another shape" in text
    assert len(error.value.wrong_shape) > 20


class _Evil:
    """If this is ever run, there is no process left to say so."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (13,)


def _bomb(path: Path) -> None:
    """A compressed archive that looks like a checkpoint."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", bytes(50 << 20))


def _expanded(path: Path) -> None:
    """One stored number that claims to be a hundred gigabytes."""
    torch.save({"backbone.a": torch.zeros(1).expand(25_000_000_000)}, path)


def _nested(path: Path) -> None:
    path.write_bytes(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")


def _link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "got something else or a damaged file"),
    "garbage": (lambda path: path.write_bytes(b"garbage"), "got something else or a damaged file"),
    "ones": (lambda path: path.write_bytes(b"\xff" * 64), "got something else or a damaged file"),
    "no weights": (lambda path: torch.save({"epoch": 3}, path), "expected a network's weights at one of ema.module"),
    "code": (lambda path: torch.save({"model": _Evil()}, path), "it wants to run"),
    "code, bare": (lambda path: path.write_bytes(pickle.dumps({"model": _Evil()}, 2)), "nothing was run"),
    "model object": (lambda path: torch.save(nn.Linear(2, 2), path), "save its state_dict"),
    "zip bomb": (_bomb, "got compressed entries"),
    "expanded": (_expanded, "expected tensors no larger than the file"),
    "sparse": (lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path), "expected plain tensors"),
    "nested": (_nested, "nothing was run"),
    "broken zip": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "nothing was run"),
    "device": (_link_to_device, "expected a file or folder of weights, got something else"),
    "pipe": (os.mkfifo, "expected a file or folder of weights, got something else"),
    "link to itself": (_loop, "got none"),
    "too large": (lambda path: (path.touch(), os.truncate(path, read.MAX_BYTES + 1)), "expected at most"),
    "folder without config": (lambda path: path.mkdir(), "config.json: expected a file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(tmp_path: Path, kind: str) -> None:
    make, message = HOSTILE[kind]
    path = tmp_path / "weights"
    make(path)
    with pytest.raises(InvalidInputError) as error:
        load(None, path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="check the path"):
        load_weights(build(tiny_config()), tmp_path / "none.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_truncated_weights(tmp_path: Path, good: Detector, suffix: str) -> None:
    whole, cut = tmp_path / "good", tmp_path / "cut"
    if suffix == "pth":
        torch.save({"model": good.state_dict()}, whole)
    else:
        save_weights(whole, good, {})
    content = whole.read_bytes()
    for share in (0.1, 0.5, 0.999):
        cut.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InvalidInputError):
            load_weights(build(tiny_config()), cut)


@pytest.mark.parametrize("metadata", ["[1]", "{", "[" * 100_000])
def test_damaged_descriptions(tmp_path: Path, metadata: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w", metadata={"edgedet": metadata})
    with pytest.raises(InvalidInputError, match="expected a JSON object as metadata"):
        read_weights(tmp_path / "w")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": "{}"}, "expected model.safetensors or its index"),
        ({"config.json": "[" * 100_000}, "expected JSON"),
        ({"config.json": "[1]"}, "expected a JSON object, got list"),
        (
            {"config.json": "{}", "model.safetensors.index.json": json.dumps({"weight_map": {"a": "../secret"}})},
            "expected weight_map with names of files beside it",
        ),
        (
            {"config.json": "{}", "model.safetensors.index.json": json.dumps({"weight_map": {"a": "absent"}})},
            "absent: expected a file",
        ),
    ],
)
def test_broken_folders(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInputError) as error:
        read_weights(tmp_path)
    assert message in str(error.value)


def test_a_folder_of_another_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "yolos"}))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidInputError, match=r"expected model_type rt_detr, .* got 'yolos'"):
        load(None, tmp_path)

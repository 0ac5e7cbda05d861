"""A folder that Hugging Face saves, against the same folder in ours: the same outputs; and the published ONNX.

tests/test_models.py compares every size and every layer's outputs; here it is the way through files, in float64, where
what differs is not rounding. docs/parity.md has the comparison with the official code, which cannot be kept here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_models import huggingface_model
from safetensors.torch import load_file, save_file

import edgedet
from edgedet import InvalidInputError, ModelError
from training.boxes import box_cxcywh_to_xyxy
from training.models.detector import build
from training.models.zoo import detector_config
from training.weights.huggingface import map_names
from training.weights.load import load, load_backbone, load_weights

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAMES = {index: f"thing {index}" for index in range(7)}


def oracle(name: str) -> Any:
    torch.manual_seed(0)
    model = huggingface_model(detector_config(name, num_classes=len(NAMES)))
    model.config.id2label = NAMES  # type: ignore[union-attr]
    return model


def save(model: Any, folder: Path, **options: Any) -> Path:
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("name", ["rtdetr-r18", "rtdetr-r50", "rtdetrv2-r18-dsp", "dfine-n", "dfine-s"])
def test_a_folder_computes_here_what_it_computes_there(tmp_path: Path, name: str) -> None:
    theirs = oracle(name)
    loaded = load(None, save(theirs, tmp_path))
    assert loaded.model.config.name == name
    assert loaded.classes == tuple(NAMES.values())
    size = (320, 256) if name == "dfine-n" else (160, 160)
    images = torch.rand(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        mine, reference = loaded.model.double().eval()(images).final, theirs.double()(images)
    torch.testing.assert_close(mine.logits, reference.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(mine.boxes, reference.pred_boxes, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(oracle("rtdetrv2-r18"), tmp_path_factory.mktemp("rtdetrv2"))


def linked(folder: Path, to: Path) -> Path:
    """The same weights with a config.json of their own."""
    (to / "model.safetensors").symlink_to(folder / "model.safetensors")
    (to / "config.json").write_bytes((folder / "config.json").read_bytes())
    return to


def test_shards_are_one(tmp_path: Path, folder: Path) -> None:
    save(oracle("rtdetrv2-r18"), tmp_path, max_shard_size="20MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    first, second = load(None, folder).model, load("rtdetrv2-r18", tmp_path).model
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("decoder_layers", 5, "decoder_layers = 5 where rtdetrv2-r18 has 3"),
        ("decoder_n_points", [3, 6, 3], r"decoder_n_points = \[3, 6, 3\] where rtdetrv2-r18 has 4"),
        ("learn_initial_query", True, "learn_initial_query = True where rtdetrv2-r18 has False"),
        ("normalize_before", True, "normalize_before = True"),
    ],
)
def test_a_field_without_a_counterpart_is_named(
    tmp_path: Path, folder: Path, field: str, value: object, message: str
) -> None:
    changed = linked(folder, tmp_path)
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ModelError, match=message):
        load("rtdetrv2-r18", changed)
    with pytest.raises(InvalidInputError, match=message):
        load(None, changed)


def test_a_folder_of_another_size(folder: Path) -> None:
    with pytest.raises(
        ModelError, match=r"expected the configuration of rtdetrv2-r50 .* depths = \[2, 2, 2, 2\]|layers"
    ):
        load("rtdetrv2-r50", folder)
    with pytest.raises(ModelError, match="got rt_detr_v2"):
        load("dfine-s", folder)


def test_half_of_an_attention(tmp_path: Path, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["model.decoder.layers.0.self_attn.k_proj.weight"]
    changed = tmp_path / "changed"
    changed.mkdir()
    save_file(state, changed / "model.safetensors")
    (changed / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(
        ModelError, match=r"expected q, k, v of decoder\.layers\.0\.self_attn\.in_proj_weight, got no k"
    ):
        load(None, changed)


def test_the_port_of_deimv2_gives_its_backbone_only(tmp_path: Path) -> None:
    """Hugging Face's DEIMv2 is another network behind the encoder."""
    theirs = save(oracle("atto"), tmp_path)
    with pytest.raises(InvalidInputError, match="take this folder's backbone alone"):
        load("atto", theirs)
    ours = build(detector_config("atto"))
    report = load_backbone(ours, theirs)
    assert all(taken == total > 0 for taken, total in report.stages.values())
    stored = map_names(load_file(theirs / "model.safetensors"), "deimv2")
    for name, tensor in ours.backbone.state_dict().items():
        assert torch.equal(tensor, stored[f"backbone.{name}"]), name


def test_atto_detects_in_torch_as_published(shared: Path) -> None:
    """Torch with the training checkpoint against onnxruntime with the published graph, on real photos."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build(detector_config("atto")).eval()
    load_weights(model, shared / "models" / "deimv2_hgnetv2_atto_coco.safetensors")
    session = onnxruntime.InferenceSession(
        str(shared / "models" / "deimv2_hgnetv2_atto_coco.onnx"), providers=["CPUExecutionProvider"]
    )
    photos = sorted((shared / "data" / "coco_val2017_subset" / "images").glob("*.jpg"))[:8]
    for photo in photos:
        images = edgedet.preprocess(edgedet.read_image(photo), width=320, height=320)[None]
        size = np.array([[320, 320]], dtype=np.int64)
        classes, boxes, scores = session.run(None, {"images": images, "orig_target_sizes": size})
        with torch.no_grad():
            final = model(torch.from_numpy(images)).final
        mine = torch.cat([box_cxcywh_to_xyxy(final.boxes[0]) * 320, final.logits[0].sigmoid()], dim=-1)  # (Q, 4 + C)
        for label, box, score in zip(classes[0], boxes[0], scores[0], strict=True):
            if score > 0.05:
                wanted = torch.tensor([*box, score])
                candidates = torch.cat([mine[:, :4], mine[:, 4 + label : 5 + label]], dim=-1)
                off = (candidates - wanted).abs() / torch.tensor([0.05] * 4 + [1e-3])
                assert off.amax(-1).min() < 1

"""Hugging Face's networks with random weights, saved to a folder, against the same folder in ours: the same outputs.

Their code was written from the official code by others, so it is a second opinion on every layer, and the folder one on
the loader. Compared in float64, where what differs is not rounding. docs/parity.md has the comparison with the official
code, which cannot be kept here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import edgedet
from edgedet import InvalidInputError, ModelError
from training.boxes import box_cxcywh_to_xyxy
from training.models.detector import build
from training.models.zoo import detector_config
from training.weights.huggingface import map_names
from training.weights.load import load, load_backbone, load_weights

transformers = pytest.importorskip("transformers", reason="Hugging Face's networks are the oracle")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

CLASSES = 7

# Sizes as published: ResNets by depth, with the blocks' width relative to the encoder's and the decoder's layers ...
RESNETS: Mapping[str, dict[str, Any]] = {
    "r18": {"depths": [2, 2, 2, 2], "layers": 3, "expansion": 0.5},
    "r34": {"depths": [3, 4, 6, 3], "layers": 4, "expansion": 0.5},
    "r50m": {"depths": [3, 4, 6, 3], "layers": 6, "expansion": 0.5},
    "r50": {"depths": [3, 4, 6, 3], "layers": 6, "expansion": 1.0},
    "r101": {"depths": [3, 4, 23, 3], "layers": 6, "expansion": 1.0, "encoder": (384, 2048)},
}
# ... and HGNetV2 by stem and stages (inner, outer channels, blocks), layers per block, affine blocks.
B0 = {"stem": [3, 16, 16], "stages": [(16, 64, 1), (32, 256, 1), (64, 512, 2), (128, 1024, 1)], "per_block": 3}
B2 = {"stem": [3, 24, 32], "stages": [(32, 96, 1), (64, 384, 1), (128, 768, 3), (256, 1536, 1)], "per_block": 4}
B4 = {"stem": [3, 32, 48], "stages": [(48, 128, 1), (96, 512, 1), (192, 1024, 3), (384, 2048, 1)], "per_block": 6}
B5 = {"stem": [3, 32, 64], "stages": [(64, 128, 1), (128, 512, 2), (256, 1024, 5), (512, 2048, 2)], "per_block": 6}
HGNETS: Mapping[str, dict[str, Any]] = {
    "n": {
        **B0,
        "lab": True,
        "layers": 3,
        "encoder": (128, 512),
        "expansion": 0.34,
        "depth": 0.5,
        "decoder": (128, 512),
    },
    "s": {**B0, "lab": True, "layers": 3, "encoder": (256, 1024), "expansion": 0.5, "depth": 0.34},
    "m": {**B2, "lab": True, "layers": 4, "encoder": (256, 1024), "expansion": 1.0, "depth": 0.67},
    "l": {**B4, "lab": False, "layers": 6, "encoder": (256, 1024), "expansion": 1.0, "depth": 1.0},
    "x": {**B5, "lab": False, "layers": 6, "encoder": (384, 2048), "expansion": 1.0, "depth": 1.0, "reg_scale": 8.0},
}


def rt_detr(name: str) -> nn.Module:
    family, size, *rest = name.split("-")
    made = RESNETS[size]
    deep = size not in ("r18", "r34")
    widths = [256, 512, 1024, 2048] if deep else [64, 128, 256, 512]
    dim, feedforward = made.get("encoder", (256, 1024))
    config: dict[str, Any] = {
        "backbone_config": transformers.RTDetrResNetConfig(
            depths=made["depths"],
            hidden_sizes=widths,
            layer_type="bottleneck" if deep else "basic",
            out_indices=[2, 3, 4],
        ),
        "encoder_in_channels": widths[1:],
        "encoder_hidden_dim": dim,
        "encoder_ffn_dim": feedforward,
        "decoder_in_channels": [dim] * 3,
        "hidden_expansion": made["expansion"],
        "decoder_layers": made["layers"],
        **labels(),
    }
    if family == "rtdetr":
        return detector("RTDetr", config)
    return detector("RTDetrV2", {**config, "decoder_method": "discrete" if rest else "default"})


def d_fine(name: str) -> nn.Module:
    made = HGNETS[name.split("-")[1]]
    dim, feedforward = made["encoder"]
    decoder_dim, decoder_feedforward = made.get("decoder", (256, 1024))
    nano = name == "dfine-n"
    strides = [16, 32] if nano else [8, 16, 32]
    return detector(
        "DFine",
        {
            "backbone_config": hgnet(made, out_indices=[3, 4] if nano else [2, 3, 4]),
            "encoder_in_channels": [outer for _, outer, _ in made["stages"]][-len(strides) :],
            "encoder_hidden_dim": dim,
            "encoder_ffn_dim": feedforward,
            "encode_proj_layers": [len(strides) - 1],
            "hidden_expansion": made["expansion"],
            "depth_mult": made["depth"],
            "feat_strides": strides,
            "num_feature_levels": len(strides),
            "d_model": decoder_dim,
            "decoder_ffn_dim": decoder_feedforward,
            "decoder_in_channels": [dim] * len(strides),
            "decoder_n_points": [6, 6] if nano else [3, 6, 3],
            "decoder_layers": made["layers"],
            "reg_scale": made.get("reg_scale", 4.0),
            **labels(),
        },
    )


def hgnet(made: Mapping[str, Any], *, out_indices: list[int]) -> Any:
    outer = [width for _, width, _ in made["stages"]]
    return transformers.HGNetV2Config(
        stem_channels=made["stem"],
        stage_in_channels=[made["stem"][2], *outer[:-1]],
        stage_mid_channels=[inner for inner, _, _ in made["stages"]],
        stage_out_channels=outer,
        stage_num_blocks=[blocks for _, _, blocks in made["stages"]],
        stage_numb_of_layers=[made["per_block"]] * 4,
        stage_kernel_size=[3, 3, 5, 5],
        stage_light_block=[False, False, True, True],
        use_learnable_affine_block=made["lab"],
        hidden_sizes=outer,
        depths=[1] * 4,
        out_indices=out_indices,
    )


def labels() -> dict[str, Any]:
    names = {index: f"thing {index}" for index in range(CLASSES)}
    return {"num_labels": CLASSES, "id2label": names, "label2id": {name: index for index, name in names.items()}}


def detector(family: str, config: dict[str, Any]) -> nn.Module:
    """A network of transformers with every tensor moved away from its start."""
    if not hasattr(transformers, f"{family}ForObjectDetection"):
        pytest.skip(f"this transformers has no {family}")
    torch.manual_seed(0)
    settings = getattr(transformers, f"{family}Config")(freeze_backbone_batch_norms=False, **config)
    model = getattr(transformers, f"{family}ForObjectDetection")(settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith((".up", ".reg_scale")):
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    assert isinstance(model, nn.Module)
    return model.eval()


def oracle(name: str) -> nn.Module:
    return d_fine(name) if name.startswith("dfine") else rt_detr(name)


def save(model: Any, folder: Path, **options: Any) -> Path:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder, **options)
    return folder


SLOW = ("rtdetr-r34", "rtdetr-r101", "rtdetrv2-r34", "rtdetrv2-r50", "rtdetrv2-r101", "dfine-m", "dfine-l", "dfine-x")
FAST = ("rtdetr-r18", "rtdetr-r50", "rtdetrv2-r18", "rtdetrv2-r18-dsp", "dfine-n", "dfine-s")


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_folder_computes_here_what_it_computes_there(tmp_path: Path, name: str) -> None:
    theirs = oracle(name)
    loaded = load(None, save(theirs, tmp_path))
    assert loaded.model.config.name == name
    assert loaded.classes == tuple(f"thing {index}" for index in range(CLASSES))
    images = torch.rand(1, 3, 320, 256, dtype=torch.float64)
    if name != "dfine-n":
        images = images[..., :160, :160]
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
    model = transformers.RTDetrV2ForObjectDetection.from_pretrained(folder, local_files_only=True)
    save(model, tmp_path, max_shard_size="20MB")
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
    from safetensors.torch import save_file

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
    """Hugging Face's DEIMv2 is another network behind the encoder: refused, and named tensor by tensor."""
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 16, 16],
        stage_in_channels=[16, 64, 256],
        stage_mid_channels=[16, 32, 64],
        stage_out_channels=[64, 256, 256],
        stage_num_blocks=[1, 1, 1],
        stage_numb_of_layers=[3, 3, 3],
        stage_kernel_size=[3, 3, 3],
        stage_light_block=[False, False, True],
        stage_downsample=[False, True, True],
        stage_downsample_strides=[2, 2, 2],
        use_learnable_affine_block=True,
        hidden_sizes=[64, 256, 256],
        depths=[1, 1, 1],
        out_indices=[3],
    )
    config = {
        "backbone_config": backbone,
        "encoder_type": "lite",
        "encoder_hidden_dim": 64,
        "encoder_in_channels": [256],
        "hidden_expansion": 0.34,
        "depth_mult": 0.5,
        "feat_strides": [16, 32],
        "d_model": 64,
        "decoder_in_channels": [64, 64],
        "num_queries": 100,
        "decoder_ffn_dim": 160,
        "num_feature_levels": 2,
        "decoder_n_points": [4, 2],
        "decoder_layers": 3,
        "use_gateway": False,
        "share_bbox_head": True,
        **labels(),
    }
    theirs = detector("Deimv2", config)
    save(theirs, tmp_path)
    with pytest.raises(InvalidInputError, match="take this folder's backbone alone"):
        load("atto", tmp_path)
    ours = build(detector_config("atto", num_classes=CLASSES))
    names = map_names(theirs.state_dict(), "deimv2")
    surplus = {name.split(".")[1] for name in names.keys() ^ ours.state_dict().keys()}
    assert surplus == {"enc_output", "anchors", "valid_mask"}
    report = load_backbone(ours, tmp_path)
    assert all(taken == total for taken, total in report.stages.values())
    assert torch.equal(ours.backbone.stages[2].blocks[0].aggregation[1].conv.weight,
                       names["backbone.stages.2.blocks.0.aggregation.1.conv.weight"])  # fmt: skip
    mine = [m.detach() for m in ours.eval().backbone(torch.ones(1, 3, 64, 64))]
    wanted = theirs.model.conv_encoder.model(torch.ones(1, 3, 64, 64)).feature_maps
    torch.testing.assert_close(mine[0], wanted[0], atol=1e-4, rtol=1e-4)


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

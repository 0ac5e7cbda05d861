"""The deployed form and the ONNX file against the model they come from, and against the published files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_models import ATTO, FEMTO, nearest, shaken, targets, tiny_config
from torch import Tensor, nn

import edgedet
from edgedet import Detector, InvalidInputError, ModelError
from edgedet.bundle import InputSpec, load_model_json
from training.export import export_onnx, write_bundle_from_model
from training.models.deformable_attention import Sampling
from training.models.deimv2 import Variant, deimv2_config
from training.models.deploy import deploy
from training.models.detector import build
from training.weights.load import load_weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = [
    # torch's tracer and exporter announce their successors; see export_onnx.
    pytest.mark.filterwarnings("ignore:.*legacy.*:DeprecationWarning"),
]


def run(path: Path, images: Tensor) -> Tensor:
    """Rows of logits and box, (B, Q, C + 4)."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits, boxes = session.run(["logits", "boxes"], {"images": images.numpy()})
    return torch.cat([torch.from_numpy(logits), torch.from_numpy(boxes)], dim=-1)


def rows(output: Any) -> Tensor:
    return torch.cat(output if isinstance(output, tuple) else (output.logits, output.boxes), dim=-1)


@pytest.mark.parametrize("sampling", ["gather", "grid_sample", "discrete"])
def test_onnx_file(tmp_path: Path, sampling: Sampling) -> None:
    model = shaken(build(tiny_config())).train()  # any mode
    path = export_onnx(model, tmp_path / "model.onnx", sampling=sampling)
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["images"]
    assert [value.name for value in graph.output] == ["logits", "boxes"]
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)]
    assert shapes == [["N", 3, 64, 96], ["N", 12, 5], ["N", 12, 4]]
    kinds = {node.op_type for node in graph.node}
    assert not kinds & {"BatchNormalization", "Shape", "Constant", "Identity", "ConstantOfShape", "If", "Expand"}
    assert ("GridSample" in kinds) == (sampling == "grid_sample")
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert "backbone.stem.stem1.conv.Conv" in names
    if sampling != "discrete":
        images = torch.rand(3, 3, 64, 96)
        with torch.no_grad():
            wanted = rows(model.eval()(images).final)
        assert nearest(wanted, run(path, images)).max() < 1e-3


def test_export_is_deterministic(tmp_path: Path) -> None:
    model = shaken(build(tiny_config()))
    first = export_onnx(model, tmp_path / "a.onnx").read_bytes()
    assert first == export_onnx(model, tmp_path / "b.onnx").read_bytes()


def test_export_refuses_nan(tmp_path: Path) -> None:
    model = build(tiny_config())
    with torch.no_grad():
        model.decoder.layers[0].norm1.scale[0] = float("nan")
    with pytest.raises(ModelError, match=r"decoder\.layers\.0\.norm1\.scale"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_bundle(tmp_path: Path) -> None:
    model = shaken(build(tiny_config())).eval()
    spec = InputSpec(width=96, height=64, filter="antialias")
    names = ["a", "b", "c", "d", "e"]
    bundle = write_bundle_from_model(
        model, tmp_path / "b", name="tiny", input=spec, classes=names, category_ids=[3, 5, 7, 11, 13]
    )
    document = load_model_json(bundle)
    assert document["classes"] == names
    assert document["category_ids"] == [3, 5, 7, 11, 13]
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = Detector(bundle)(photo)
    images = torch.from_numpy(edgedet.preprocess(photo, width=96, height=64, filter="antialias"))[None]
    with torch.no_grad():
        scores = model(images).final.logits.sigmoid().flatten().sort(descending=True).values
    np.testing.assert_allclose(found.scores, scores[: len(found.scores)].numpy(), atol=1e-3)
    with pytest.raises(ModelError, match="5 class names"):
        write_bundle_from_model(
            model, tmp_path / "c", name="tiny", input=spec, classes=names[:4], category_ids=[1, 2, 3, 4]
        )


def test_export_after_a_training_step(tmp_path: Path) -> None:
    """Statistics, tied heads and everything else that a step changes arrive in the file."""
    model = build(tiny_config()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        output = model(torch.rand(4, 3, 64, 96), targets(4, 5))
        loss = sum((p.logits.square().mean() + p.boxes.square().mean()) for p in [output.final, *output.auxiliary])
        assert isinstance(loss, Tensor)
        loss.backward()
        optimizer.step()
    images = torch.rand(2, 3, 64, 96)
    path = export_onnx(model, tmp_path / "model.onnx")
    with torch.no_grad():
        assert nearest(rows(model.eval()(images).final), run(path, images)).max() < 1e-3


@pytest.mark.parametrize(
    ("variant", "weights", "sampling"), [("atto", ATTO, "gather"), ("femto", FEMTO, "grid_sample")]
)
def test_exported_equals_published(
    shared: Path, tmp_path: Path, variant: Variant, weights: str, sampling: Sampling
) -> None:
    """Our file against the published one, both in onnxruntime, on real photos: 0.05 px and 0.001 of score."""
    model = build(deimv2_config(variant))
    load_weights(model, shared / "models" / weights)
    path = export_onnx(model, tmp_path / "model.onnx", sampling=sampling)
    side = model.config.input_size[0]
    published = onnxruntime.InferenceSession(
        str(shared / "models" / f"deimv2_hgnetv2_{variant}_coco.onnx"), providers=["CPUExecutionProvider"]
    )
    mine = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    compared = 0
    for photo in sorted((shared / "data" / "coco_val2017_subset" / "images").glob("*.jpg"))[:12]:
        images = edgedet.preprocess(edgedet.read_image(photo), width=side, height=side)[None]
        size = np.array([[side, side]], dtype=np.int64)
        labels, boxes, scores = (out[0] for out in published.run(None, {"images": images, "orig_target_sizes": size}))
        logits, raw = (torch.from_numpy(out[0]) for out in mine.run(None, {"images": images}))
        centre, half = raw[:, :2] * side, raw[:, 2:] * side / 2
        ours = torch.cat([centre - half, centre + half], dim=1)
        for label, box, score in zip(labels, boxes, scores, strict=True):
            if score > 0.05:
                close = (ours - torch.from_numpy(box)).abs().amax(1) <= 0.05
                alike = (logits[:, label].sigmoid() - float(score)).abs() <= 1e-3
                assert bool((close & alike).any()), (photo.name, label, box, score)
                compared += 1
    assert compared > 50

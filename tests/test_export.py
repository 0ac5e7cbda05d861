"""The ONNX file and the bundle against the model they come from, in both runtimes, and against the published files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from test_deploy import FAMILIES, NETWORKS, forms, rows, small_config
from test_models import nearest, shaken, targets, tiny_config
from torch import Tensor

import edgedet
from edgedet import Detector, ModelError
from edgedet.bundle import InputSpec, load_model_json
from training.export import export_onnx, write_bundle_from_model
from training.models.deformable_attention import Sampling
from training.models.deimv2 import Variant, deimv2_config
from training.models.detector import build
from training.models.zoo import detector_config
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


def run_openvino(path: Path, images: Tensor) -> Tensor:
    """As `run`, in OpenVINO in float32."""
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"images": images.numpy()})
    return torch.cat([torch.from_numpy(found[name]) for name in ("logits", "boxes")], dim=-1)


def disagreement(wanted: Tensor, got: Tensor, size: tuple[int, int]) -> tuple[float, float]:
    """The largest difference of boxes in pixels and of scores, each row against the nearest one."""
    limits = torch.tensor([*[1.0] * (wanted.shape[-1] - 4), *[size[1], size[0]] * 2])
    wanted, got = (torch.cat([x[..., :-4].sigmoid(), x[..., -4:]], dim=-1) * limits for x in (wanted, got))
    index = torch.cdist(wanted, got, p=float("inf")).argmin(-1, keepdim=True)
    error = (wanted - got.gather(1, index.expand(-1, -1, got.shape[-1]))).abs()
    return float(error[..., -4:].max()), float(error[..., :-4].max())


@pytest.mark.parametrize(
    ("name", "sampling"), [(name, form) for name in FAMILIES for form in forms(detector_config(name))]
)
def test_onnx_file(tmp_path: Path, name: str, sampling: Sampling | None) -> None:
    """One file for any batch, the model's numbers in both runtimes, and no operator for shapes or training."""
    size = (64, 96)
    model = build(small_config(name, size))
    shaken(model).train()  # any mode
    path = export_onnx(model, tmp_path / "model.onnx", sampling=sampling)
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["images"]
    assert [value.name for value in graph.output] == ["logits", "boxes"]
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)]
    assert shapes == [["N", 3, *size], ["N", 7, 5], ["N", 7, 4]]
    kinds = {node.op_type for node in graph.node}
    assert not kinds & {"BatchNormalization", "Shape", "Constant", "Identity", "ConstantOfShape", "If", "Expand"}
    assert ("GridSample" in kinds) == (sampling == "grid_sample")
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    model.eval()
    for batch in (1, 2, 8):
        images = torch.rand(batch, 3, *size)
        with torch.no_grad():
            wanted = rows(model(images).final)
        for got in (run(path, images), run_openvino(path, images)):
            pixels, scores = disagreement(wanted, got, size)
            assert pixels <= 0.5
            assert scores <= 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_exports(tmp_path: Path, name: str) -> None:
    """In its published depth and width and its default form. OpenVINO runs one network per family only, above."""
    size = (64, 64)
    model = shaken(build(small_config(name, size))).eval()
    path = export_onnx(model, tmp_path / "model.onnx")
    assert [(used.domain, used.version) for used in onnx.load(path).opset_import] == [("", 17)]
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        wanted = rows(model(images).final)
    pixels, scores = disagreement(wanted, run(path, images), size)
    assert pixels <= 0.05
    assert scores <= 1e-4
    path.unlink()  # all of them take gigabytes


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


@pytest.mark.parametrize("name", ["atto", "dfine-s", "rtdetrv2-r18", "edge-r18"])
def test_bundle(tmp_path: Path, name: str) -> None:
    """What the runtime detects is what the model says, scores and boxes."""
    model = build(small_config(name, (64, 96)))
    shaken(model).eval()
    spec = InputSpec(width=96, height=64, filter="antialias")
    names = ["a", "b", "c", "d", "e"]
    bundle = write_bundle_from_model(
        model, tmp_path / "b", name=name, input=spec, classes=names, category_ids=[3, 5, 7, 11, 13]
    )
    document = load_model_json(bundle)
    assert document["classes"] == names
    assert document["category_ids"] == [3, 5, 7, 11, 13]
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = Detector(bundle)(photo)
    images = torch.from_numpy(edgedet.preprocess(photo, width=96, height=64, filter="antialias"))[None]
    with torch.no_grad():
        final = model(images).final
    best = final.logits.sigmoid().flatten().sort(descending=True)
    np.testing.assert_allclose(found.scores, best.values[: len(found.scores)].numpy(), atol=1e-3)
    centre, half = final.boxes[0, :, :2], final.boxes[0, :, 2:] / 2
    corners = torch.cat([centre - half, centre + half], dim=-1).clamp(0, 1) * torch.tensor([70, 50, 70, 50])
    distance = torch.cdist(torch.from_numpy(found.boxes), corners, p=float("inf")).amin(-1)
    assert float(distance.max()) <= 0.5


def test_bundle_of_another_number_of_classes(tmp_path: Path) -> None:
    spec = InputSpec(width=96, height=64, filter="antialias")
    with pytest.raises(ModelError, match="5 class names"):
        write_bundle_from_model(
            build(tiny_config()),
            tmp_path / "c",
            name="tiny",
            input=spec,
            classes=list("abcd"),
            category_ids=[1, 2, 3, 4],
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
    ("variant", "weights", "sampling"),
    [
        ("atto", "deimv2_hgnetv2_atto_coco.safetensors", "gather"),
        ("femto", "deimv2_hgnetv2_femto_coco.from_onnx.safetensors", "grid_sample"),
    ],
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

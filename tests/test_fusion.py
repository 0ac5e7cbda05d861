"""Fused deformable attention: the operator, the kernel on the simulated device, and the rewrite of whole networks."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT
from numpy.typing import NDArray
from onnx import TensorProto
from test_deploy import small_config
from test_models import shaken

from calibration.collect import CollectOptions, collect
from calibration.fusion.operator import DOMAIN, OPERATOR, Attention, attend
from calibration.fusion.rewrite import fuse
from calibration.graph import Graph, attribute, prepare
from calibration.half import HalfOptions, half
from calibration.observers import observe
from calibration.placement import PlacementOptions, Scope, place
from calibration.render import measured, render
from calibration.typed import element_types
from edgedet import ModelError, preprocess, read_image
from training.export import export_onnx
from training.models.deformable_attention import DeformableAttention, HeadMaps
from training.models.deimv2 import Variant, deimv2_config
from training.models.detector import build
from training.weights.load import load_weights

SHAPES = {
    "femto": Attention(heads=8, channels=12, layers=1, layer=0, heights=(26, 13), widths=(26, 13), points=(4, 2)),
    "one of three layers": Attention(
        heads=2, channels=32, layers=3, layer=1, heights=(9, 5, 3), widths=(7, 4, 2), points=(4, 4, 4)
    ),
    "odd": Attention(heads=3, channels=5, layers=1, layer=0, heights=(1, 6), widths=(1, 11), points=(2, 3)),
}


# The operator and the kernel against torch


def inputs(attention: Attention, batch: int = 2, queries: int = 9) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Projection, boxes and values that half precision holds exactly; many locations lie outside."""
    rng = np.random.default_rng(0)
    rays = attention.rays
    projection = np.concatenate(
        [rng.normal(0, 8, (batch, queries, 2 * rays)), rng.normal(size=(batch, queries, rays))], -1
    )
    values = rng.normal(size=(batch, attention.rows, attention.channels))
    boxes = rng.uniform(0, 1, (batch, queries, 4)).astype(np.float32)
    return projection.astype(np.float16), boxes, values.astype(np.float16)


def in_torch(attention: Attention, projection: NDArray[Any], boxes: NDArray[Any], values: NDArray[Any]) -> Any:
    """`DeformableAttention` by grid_sample in float64, its linear layers replaced by the given results."""
    rays, dim = attention.rays, attention.heads * attention.channels
    source = DeformableAttention(dim, attention.heads, attention.points).double()
    shapes = list(zip(attention.heights, attention.widths, strict=True))
    x, y, logits = torch.from_numpy(projection.astype(np.float64)).split(rays, dim=-1)
    # Theirs are in units of half the box, divided by the number of points.
    level = torch.tensor(
        [size for size, count in zip(shapes, attention.points, strict=True) for _ in range(count)] * attention.heads
    )
    gain = 0.5 * source.num_points_scale.repeat(attention.heads)
    offsets = torch.stack([x / level[:, 1] / gain, y / level[:, 0] / gain], dim=-1).flatten(-2)
    source.sampling_offsets = torch.nn.Identity()  # type: ignore[assignment]
    source.attention_weights = torch.nn.Identity()  # type: ignore[assignment]
    source.sampling_offsets.forward = lambda query: offsets  # type: ignore[method-assign]
    source.attention_weights.forward = lambda query: logits  # type: ignore[method-assign]
    table = torch.from_numpy(values.astype(np.float64)).view(len(values), -1, attention.layers, dim)
    maps = HeadMaps(table[:, :, attention.layer].contiguous(), shapes, attention.heads, "bilinear")
    query = torch.zeros(*projection.shape[:2], dim)
    with torch.no_grad():
        return source(query, torch.from_numpy(boxes.astype(np.float64)), maps).numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_the_operator_is_torchs_attention(name: str) -> None:
    projection, boxes, values = inputs(SHAPES[name])
    wanted = in_torch(SHAPES[name], projection, boxes, values)
    got = attend(projection.astype(np.float32), boxes, values.astype(np.float32), SHAPES[name])
    assert np.abs(wanted).max() > 0.3
    assert np.abs(got - wanted).max() < 2e-5


class Device:
    """The kernel, run on the CPU by tests/cpp/host_cuda."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.test_upload.restype = ctypes.c_void_p

    def attend(
        self, attention: Attention, projection: NDArray[Any], boxes: NDArray[Any], values: NDArray[Any]
    ) -> NDArray[Any]:
        batch, queries = boxes.shape[:2]
        levels = zip(attention.heights, attention.widths, attention.points, strict=True)
        fixed = [attention.heads, attention.channels, attention.layers, attention.layer, len(attention.points)]
        fixed += [number for level in levels for number in level]
        out = np.zeros((batch, queries, attention.heads * attention.channels), projection.dtype)
        arrays = [np.ascontiguousarray(array) for array in (projection, boxes, values, out)]
        size = ctypes.c_size_t
        memory = [
            ctypes.c_void_p(self._library.test_upload(ctypes.c_void_p(a.ctypes.data), size(a.nbytes), 0))
            for a in arrays
        ]
        numbers = (ctypes.c_int32 * len(fixed))(*fixed)
        is_half = int(projection.dtype == np.float16)
        run = self._library.test_deformable_attention
        assert run(numbers, *memory, size(batch), size(queries), is_half) == 0
        assert self._library.test_download(ctypes.c_void_p(out.ctypes.data), memory[3], size(out.nbytes)) == 0
        for pointer in memory:
            self._library.test_free(pointer, 0)
        return out


@pytest.fixture(scope="module")
def device() -> Device:
    built = sorted(ROOT.glob("build/*/tests/cpp/host_cuda_module/_core*.so"), key=lambda path: path.stat().st_mtime)
    if not built:
        pytest.skip("edgedet was built without its C++ tests, or without CUDA's headers")
    return Device(built[-1])


@pytest.mark.parametrize("name", SHAPES)
def test_the_kernel_is_torchs_attention(device: Device, name: str) -> None:
    projection, boxes, values = inputs(SHAPES[name])
    wanted = in_torch(SHAPES[name], projection, boxes, values)
    single = device.attend(SHAPES[name], projection.astype(np.float32), boxes, values.astype(np.float32))
    assert np.abs(single - wanted).max() < 2e-5
    # Sums are float32, so half precision adds one rounding.
    rounded = device.attend(SHAPES[name], projection, boxes, values).astype(np.float64)
    assert (np.abs(rounded - wanted) <= 2e-5 + np.abs(wanted) * 2.0**-11).all()


# The rewrite


def run_fused(model: onnx.ModelProto, source: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Run a fused model: its operators in NumPy, the parts between them in onnxruntime."""
    known = dict(feed)
    types = types_of(model, source)
    for node in [node for node in model.graph.node if node.domain == DOMAIN]:
        given = dict(zip(node.input, run_part(model, known, list(node.input), types), strict=True))
        projection, boxes, values = (given[name].astype(np.float32) for name in node.input)
        assert types[node.input[1]] == TensorProto.FLOAT
        made = attend(projection, boxes, values, attributes(node))
        known[node.output[0]] = made.astype(given[node.input[2]].dtype)
    return run_part(model, known, [value.name for value in model.graph.output], types)


def attributes(node: onnx.NodeProto) -> Attention:
    given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    assert given.pop("plugin_version") == b"1"
    return Attention(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def types_of(model: onnx.ModelProto, source: onnx.ModelProto) -> dict[str, int]:
    """Types of the tensors of a fused model: shape inference knows no operator of ours, so from what was fused."""
    casts = {node.output[0]: attribute(node, "to") for node in model.graph.node if node.op_type == "Cast"}
    return {**element_types(source), **casts}  # type: ignore[dict-item]


def run_part(
    model: onnx.ModelProto, known: Mapping[str, NDArray[Any]], wanted: list[str], types: Mapping[str, int]
) -> list[NDArray[Any]]:
    needed, kept = set(wanted) - set(known), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input) - set(known)
            kept.append(node)
    assert all(node.domain != DOMAIN for node in kept)
    part = onnx.helper.make_graph(
        kept[::-1],
        "part",
        [onnx.helper.make_tensor_value_info(name, types[name], None) for name in known],
        [onnx.helper.make_tensor_value_info(name, types[name], None) for name in wanted],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
    )
    opsets = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    whole = onnx.helper.make_model(part, opset_imports=opsets, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    results: list[NDArray[Any]] = session.run(wanted, {name: known[name] for name in known if name in names})
    return results


def operators(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == OPERATOR]


@pytest.mark.parametrize("name", ["atto", "dfine-s", "rtdetrv2-r18"])
def test_networks_stay_what_they_are(tmp_path: Path, name: str) -> None:
    model = build(small_config(name))
    shaken(model)
    path = export_onnx(model, tmp_path / "model.onnx", sampling="gather")
    source = onnx.load(path)
    images = torch.rand(3, 3, 96, 64).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"images": images})
    for graph in (source, prepare(source).model):
        fused, count = fuse(graph)
        assert count == model.config.decoder.deployed_layers == len(operators(fused))  # type: ignore[union-attr]
        assert not any(node.op_type in ("GatherND", "Floor") for node in fused.graph.node if "cross_attn" in node.name)
        layers = [attributes(node) for node in operators(fused)]
        assert [entry.layer for entry in layers] == (list(range(count)) if layers[0].layers > 1 else [0] * count)
        for ours, theirs in zip(run_fused(fused, graph, {"images": images}), wanted, strict=True):
            assert np.abs(ours - theirs).max() < 1e-3
    assert onnx.load(path) == source, "the model that is given does not change"


@pytest.mark.parametrize("scope", ["conv", "all"])
def test_a_quantised_network(tmp_path: Path, scope: Scope) -> None:
    model = build(small_config("atto"))
    shaken(model)
    graph = prepare(onnx.load(export_onnx(model, tmp_path / "model.onnx", sampling="gather")))
    placement = place(graph, PlacementOptions(scope=scope))
    images = torch.rand(2, 3, 96, 64).numpy()
    tensors = measured(graph, placement, "tensorrt")
    seen = collect(graph.model, tensors, lambda: [{"images": images}], options=CollectOptions(threads=1))
    ranges = {name: observe(entry.histogram, "minmax") for name, entry in seen.items()}
    rendered = render(graph, placement, ranges, "tensorrt")
    fused, count = fuse(rendered)
    assert count == 3
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(rendered.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"images": images})
    for ours, theirs in zip(run_fused(fused, rendered, {"images": images}), wanted, strict=True):
        # A value at the edge of a step may round the other way.
        assert np.quantile(np.abs(ours - theirs), 0.9) < 1e-2
        assert ours.shape == theirs.shape


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "weights"),
    [("atto", "deimv2_hgnetv2_atto_coco.safetensors"), ("femto", "deimv2_hgnetv2_femto_coco.from_onnx.safetensors")],
)
def test_detections_on_photos(shared: Path, tmp_path: Path, variant: Variant, weights: str) -> None:
    """Published weights, real photos: float32 and typed half precision, fused, against the gather form."""
    model = build(deimv2_config(variant))
    load_weights(model, shared / "models" / weights)
    path = export_onnx(model, tmp_path / "model.onnx", sampling="gather")
    side = model.config.input_size[0]
    photos = sorted((shared / "data" / "coco_val2017_subset" / "images").glob("*.jpg"))[:4]
    images = np.stack([preprocess(read_image(photo), width=side, height=side) for photo in photos])
    source = onnx.load(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"images": images})
    found = run_fused(fuse(source)[0], source, {"images": images})
    close(found, wanted, pixels=0.05, score=1e-3, side=side)

    spec = {
        "input": {"name": "images", "width": side, "height": side},
        "output": {"form": "logits_boxes", "logits": "logits", "boxes": "boxes", "top_k": 300},
        "classes": [str(number) for number in range(80)],
    }
    options = HalfOptions(collect=CollectOptions(batch=2, threads=1))
    made = half(prepare(source), lambda: [{"images": images[:2]}], spec, options=options)
    fused, count = fuse(made.model)
    types = types_of(fused, made.model)
    assert count == 3
    for node in operators(fused):
        assert [types[name] for name in node.input] == [TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.FLOAT16]
    assert [node.op_type for node in fused.graph.node].count("Cast") < [
        node.op_type for node in made.model.graph.node
    ].count("Cast")
    close(run_fused(fused, made.model, {"images": images}), wanted, pixels=3.0, score=0.05, side=side)


def close(got: list[NDArray[Any]], wanted: list[NDArray[Any]], *, pixels: float, score: float, side: int) -> None:
    """Every confident query of one is among those of the other."""
    compared = 0
    for logits, boxes, their_logits, their_boxes in zip(*got, *wanted, strict=True):
        scores, their_scores = (1 / (1 + np.exp(-rows.astype(np.float64))) for rows in (logits, their_logits))
        for query in np.flatnonzero(their_scores.max(-1) > 0.3):
            label = their_scores[query].argmax()
            near = np.abs(boxes - their_boxes[query]).max(-1) * side <= pixels
            assert (near & (np.abs(scores[:, label] - their_scores[query, label]) <= score)).any()
            compared += 1
    assert compared > 10


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    model = build(small_config("atto"))
    shaken(model)
    grid = onnx.load(export_onnx(model, tmp_path / "grid.onnx", sampling="grid_sample"))
    with pytest.raises(ModelError, match="samples by gathers, got a model without"):
        fuse(grid)
    source = onnx.load(export_onnx(model, tmp_path / "model.onnx", sampling="gather"))
    graph = Graph(source)
    # A network that looks the same and samples half a cell off.
    offset = next(node for node in source.graph.node if node.name.endswith("cross_attn.Sub"))
    graph.set_constant(offset.input[1], np.array(0.25, np.float32))
    with pytest.raises(ModelError, match="one that the fused operator does not compute"):
        fuse(source)
    with pytest.raises(ModelError, match="samples by gathers, got a model without"):
        fuse(fuse(onnx.load(tmp_path / "model.onnx"))[0])


# A parser of TensorRT

_PARSE = """
import json, os, sys
import numpy as np
import tensorrt_rtx_bindings as trt

names = ("heads", "channels", "layers", "layer", "heights", "widths", "points")

class Creator(trt.IPluginCreatorV3One):
    def __init__(self):
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_version, self.plugin_namespace = "EdgedetDeformableAttention", "1", ""
        fields = [trt.PluginField(name, np.array([], np.int32), trt.PluginFieldType.INT32) for name in names]
        self.field_names = trt.PluginFieldCollection(fields)

    def create_plugin(self, name, fields, phase):
        assert all(field.type == trt.PluginFieldType.INT32 for field in fields)
        print(json.dumps({field.name: [int(number) for number in field.data] for field in fields}), flush=True)
        os._exit(0)  # the plugin itself is C++

class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        pass

log = Log()
builder = trt.Builder(log)
creator = Creator()
assert trt.get_plugin_registry().register_creator(creator, "")
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, log)
parser.parse(open(sys.argv[1], "rb").read())
sys.exit(f"no plugin was asked for: {[parser.get_error(i).desc() for i in range(parser.num_errors)]}")
"""


def test_a_parser_finds_the_plugin_and_its_attributes(tmp_path: Path) -> None:
    """By operator and version, whatever the domain; attributes arrive as int32."""
    reason = "no tensorrt_rtx: pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings==1.7.1.116"
    pytest.importorskip("tensorrt_rtx_bindings", reason=reason)
    model = build(small_config("dfine-s"))
    shaken(model)
    fused, _ = fuse(onnx.load(export_onnx(model, tmp_path / "model.onnx", sampling="gather")))
    onnx.save(fused, tmp_path / "fused.onnx")
    run = subprocess.run(
        [sys.executable, "-c", _PARSE, str(tmp_path / "fused.onnx")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    got = json.loads(run.stdout)
    wanted = attributes(operators(fused)[0])
    assert got == {name: list(np.atleast_1d(value)) for name, value in asdict(wanted).items()}

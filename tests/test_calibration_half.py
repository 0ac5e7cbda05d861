"""Explicit types: which nodes stay in float32, what is written, and that its detections are the float model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from cell_world import make_bundle, make_images, make_model
from onnx import TensorProto, helper, numpy_helper
from test_calibration_render import Builder, run_onnxruntime

from calibration.cli import main
from calibration.collect import CollectOptions, session
from calibration.emulate import emulate
from calibration.graph import Graph, prepare
from calibration.half import HalfOptions, half, type_quantised
from calibration.islands import islands, settle
from calibration.norms import find_norms, fuse_layer_norms
from calibration.observers import Range
from calibration.placement import PlacementOptions, place
from calibration.quantize import record_sample
from calibration.render import measured, render
from calibration.sampling import draw
from calibration.typed import element_types, to_half, write_typed
from edgedet import InvalidInputError, ModelError
from edgedet.bundle import load_model_json

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
NOTHING: dict[str, float] = {}


def well_typed(model: onnx.ModelProto) -> dict[str, int]:
    """The checker's opinion on every type, and ours: no cast behind a cast, no cast of a constant."""
    onnx.checker.check_model(model, full_check=True)
    types = element_types(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    produced = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Cast":
            assert node.input[0] not in constants
            behind_cast = node.input[0] in produced and produced[node.input[0]].op_type == "Cast"
            assert not behind_cast or types[node.input[0]] not in (HALF, FLOAT), "to an integer and back is no pair"
            assert types[node.input[0]] != types[node.output[0]]
    assert constants == {name for node in model.graph.node for name in node.input} & constants, "all of them are read"
    return types


def named(model: onnx.ModelProto) -> Graph:
    """A graph whose nodes are named after what they write, as those of our exporter are."""
    for node in model.graph.node:
        node.name = node.output[0]
    return Graph(model)


def casts(model: onnx.ModelProto) -> int:
    return [node.op_type for node in model.graph.node].count("Cast")


# Norms


def norm(build: Builder, source: str, *, centred: bool, form: str, affine: bool = True) -> str:
    if centred:
        source = build.add("Sub", source, build.add("ReduceMean", source, axes=[-1], keepdims=1))
    square = build.add("Mul", source, source) if form == "div" else build.add("Pow", source, build.constant(2.0))
    spread = build.add("ReduceMean", square, axes=[-1] if form == "div" else [2], keepdims=1)
    root = build.add("Sqrt", build.add("Add", spread, build.constant(1e-5)))
    if form == "div":
        out = build.add("Div", source, root)
    else:
        inverse = build.add("Reciprocal", root) if form == "reciprocal" else build.add("Div", build.constant(1.0), root)
        out = build.add("Mul", inverse, source)
    if affine:
        out = build.add("Mul", out, build.constant(build.rng.uniform(0.5, 2, 24)))
        out = build.add("Add", build.constant(build.rng.normal(size=(1, 1, 24))), out)
    return out


@pytest.mark.parametrize("form", ["div", "reciprocal", "one over"])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norms_become_one_operator(form: str, affine: bool) -> None:
    build = Builder()
    out = norm(build, build.add("Relu", "images"), centred=True, form=form, affine=affine)
    model = build.model({"images": [2, 5, 24]}, [build.add("Sigmoid", out)])
    graph = named(model)
    values = np.random.default_rng(0).normal(size=(2, 5, 24)).astype(np.float32)
    expected = run_onnxruntime(model, values)
    assert fuse_layer_norms(graph) == 1
    assert [node.op_type for node in graph.model.graph.node] == ["Relu", "LayerNormalization", "Sigmoid"]
    onnx.checker.check_model(graph.model)
    np.testing.assert_allclose(run_onnxruntime(graph.model, values), expected, rtol=1e-5, atol=1e-6)


def test_what_is_no_layer_norm_is_left() -> None:
    build = Builder()
    out = norm(build, "images", centred=False, form="reciprocal")
    graph = named(build.model({"images": [2, 5, 24]}, [out]))
    assert [found.centred for found in find_norms(graph)] == [False]
    assert fuse_layer_norms(graph) == 0
    build = Builder()  # something else reads the centred values
    out = norm(build, "images", centred=True, form="div")
    graph = named(build.model({"images": [2, 5, 24]}, [out, build.add("Abs", build.nodes[1].output[0])]))
    assert fuse_layer_norms(graph) == 0
    build = Builder()  # over another axis
    spread = build.add("ReduceMean", build.add("Mul", "images", "images"), axes=[1], keepdims=1)
    out = build.add("Div", "images", build.add("Sqrt", build.add("Add", spread, build.constant(1e-5))))
    assert find_norms(named(build.model({"images": [2, 5, 24]}, [out]))) == []


# Writing


def test_types_are_written_where_they_are_wanted() -> None:
    build = Builder()
    first = build.conv("images", (3, 16), 3)
    kept = build.add("Sigmoid", first)
    last = build.conv(build.add("Mul", kept, build.constant(0.5)), (16, 4))
    graph = named(build.model({"images": ["N", 3, 8, 8]}, [last, kept]))
    model = write_typed(graph, {node.name for node in graph.model.graph.node if node.op_type != "Sigmoid"})
    types = well_typed(model)
    assert [types[value.name] for value in [*model.graph.input, *model.graph.output]] == [FLOAT] * 3
    assert {tensor.data_type for tensor in model.graph.initializer} == {HALF}
    # In, before and behind the sigmoid, out; what the sigmoid gives is an output as it is.
    assert casts(model) == 4
    values = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    expected = run_onnxruntime(graph.model, values)
    assert 0 < np.abs(run_onnxruntime(emulate(model), values) - expected).max() < 5e-3


def test_the_emulation_rounds_as_numpy_does() -> None:
    """onnxruntime itself computes this in float32 throughout, which is why there is an emulation."""
    build = Builder()
    grown = build.add("Exp", "images")
    left = build.add("Sub", grown, build.constant(1.0))
    graph = named(build.model({"images": [64]}, [build.add("Mul", left, build.constant(1000.1))]))
    model = write_typed(graph, {node.name for node in graph.model.graph.node})
    values = np.linspace(1e-4, 0.1, 64, dtype=np.float32)
    x = values.astype(np.float16)
    step = (np.exp(x.astype(np.float32)).astype(np.float16).astype(np.float32) - 1).astype(np.float16)
    expected = (step.astype(np.float32) * np.float32(np.float16(1000.1))).astype(np.float16)
    assert np.array_equal(run_onnxruntime(emulate(model), values), expected.astype(np.float32))
    assert not np.array_equal(run_onnxruntime(model, values), expected.astype(np.float32))


def test_numbers_at_the_ends_of_half_precision() -> None:
    found = to_half(np.array([1e6, -1e6, np.inf, -np.inf, 65504.0, 1.0]))
    assert found.tolist() == [65504.0, -65504.0, np.inf, -np.inf, 65504.0, 1.0]


def test_resize_keeps_its_scales_and_integers_are_cast_once() -> None:
    build = Builder()
    wide = build.add("Resize", "images", "", build.constant([1.0, 1.0, 2.0, 2.0]), mode="nearest")
    index = build.add("Cast", build.add("Floor", build.add("Abs", "images")), to=TensorProto.INT64)
    back = build.add("Cast", index, to=FLOAT)
    out = build.add("Add", build.add("Sigmoid", back), build.add("MaxPool", wide, kernel_shape=[2, 2], strides=[2, 2]))
    graph = prepare(build.model({"images": [1, 3, 4, 4]}, [out, build.add("Mul", back, build.constant(2.0))]))
    fixed = {node.name: "" for node in graph.model.graph.node if node.op_type in ("Floor", "Abs", "Mul")}
    model = write_typed(graph, settle(graph, fixed))
    types = well_typed(model)
    scales = next(node.input[2] for node in model.graph.node if node.op_type == "Resize")
    assert types[scales] == FLOAT
    assert session(model).run(None, {"images": np.ones((1, 3, 4, 4), np.float32)})[0].shape == (1, 3, 4, 4)


# Rules


def reasons(model: onnx.ModelProto, extents: dict[str, float] = NOTHING, headroom: float = 4.0) -> dict[str, str]:
    """Reason of every node in float32, by its ONNX operator and output."""
    return islands(named(model), extents, headroom=headroom)


def test_bilinear_sampling_stays_in_float_from_its_layer_on() -> None:
    build = Builder()
    layer = build.add("MatMul", build.linear("images", (24, 16)), build.constant(np.ones((16, 8))))
    offset = build.add("Add", layer, build.constant(np.zeros(8)))
    spot = build.add("Mul", offset, build.constant(80.0))
    corner = build.add("Floor", spot)
    part = build.add("Sub", spot, corner)
    index = build.add("Cast", corner, to=TensorProto.INT64)
    cells = build.add("Gather", build.linear("images", (24, 16)), index)
    weight = build.add("Sub", build.constant(1.0), part)
    mixed = build.add("MatMul", build.add("Unsqueeze", weight, build.constant([1], np.int64)), cells)
    out = build.linear(build.linear(mixed, (16, 16)), (16, 16))
    found = reasons(build.model({"images": [6, 24]}, [out]))
    assert {name for name, why in found.items() if why == "sampling positions"} == {spot, corner, part, index, weight}


def test_grid_sample_stays_in_float_with_its_grid() -> None:
    build = Builder()
    layer = build.linear("images", (24, 16))
    grid = build.add("Reshape", build.add("Tanh", layer), build.constant([1, 6, 8, 2], np.int64))
    sampled = build.add("GridSample", build.constant(np.ones((1, 4, 5, 5))), grid)
    out = build.conv(sampled, (4, 8))
    found = reasons(build.model({"images": [6, 24]}, [out]))
    assert [found.get(name) for name in (layer, grid, sampled, out)] == [None, *["sampling positions"] * 2, None]


def test_boxes_from_distributions_and_the_selection_stay_in_float() -> None:
    build = Builder()
    hidden = build.add("Relu", build.linear("images", (24, 16)))
    bins = build.linear(hidden, (16, 32))
    spread = build.add("Softmax", build.add("Reshape", bins, build.constant([6, 4, 8], np.int64)), axis=-1)
    box = build.add("MatMul", spread, build.constant(np.ones((8, 8))))  # from a softmax, so no layer
    scores = build.add("Add", build.linear(hidden, (16, 12)), build.constant(np.zeros(12)))
    best = build.add("ReduceMax", scores, axes=[-1], keepdims=0)
    build.nodes.append(helper.make_node("TopK", [best, build.constant([2], np.int64)], ["top", "index"]))
    found = reasons(build.model({"images": [6, 24]}, [box, build.add("Cast", "index", to=FLOAT)]))
    assert {found[name] for name in (spread, box)} == {"boxes and scores"}
    assert {found[name] for name in (best, "top")} == {"selection of queries"}
    assert not {bins, hidden, scores} & set(found), "layers and the biases behind them are no part of an island"


def test_attention_is_no_island() -> None:
    build = Builder()
    query, key, value = (build.linear("images", (24, 16)) for _ in range(3))
    product = build.add("MatMul", query, build.add("Transpose", key, perm=[1, 0]))
    mixed = build.add("MatMul", build.add("Softmax", product, axis=-1), value)
    found = reasons(build.model({"images": [6, 24]}, [build.linear(mixed, (16, 16))]))
    assert found == {}


def test_large_values_and_small_constants() -> None:
    build = Builder()
    large = build.linear("images", (24, 16))
    behind = build.add("Tanh", large)
    tiny = build.add("Add", behind, build.constant(1e-6))
    bounded = build.add("Clip", tiny, build.constant(0.0), build.constant(3e38))
    masked = build.add("Add", bounded, build.constant(-1e9))
    out = build.linear(build.linear(masked, (16, 16)), (16, 16))
    model = build.model({"images": [6, 24]}, [out])
    found = reasons(model, {large: 20000.0, behind: 1.0})
    assert {found[name] for name in (large, behind)} == {"values up to 2e+04"}
    assert found[tiny] == "a constant of 1e-06"
    assert found[masked] == "a constant of 1e+09"
    assert bounded not in found
    assert large not in reasons(model, {large: 20000.0}, headroom=2.0)


def test_nodes_join_an_island_where_that_saves_casts() -> None:
    build = Builder()
    first = build.add("Floor", "images")
    moved = build.add("Transpose", first, perm=[1, 0])
    lone = build.add("Mul", moved, build.constant(2.0))
    last = build.add("Floor", lone)
    graph = named(build.model({"images": [6, 24]}, [build.add("MatMul", last, build.constant(np.ones((6, 16))))]))
    assert settle(graph, {first: "", last: ""}) == {graph.model.graph.node[-1].output[0]}


def test_what_moves_values_between_islands_does_not_round_them() -> None:
    """Though in half precision it would need no more casts."""
    build = Builder()
    exact = build.add("Floor", "images")
    halves = [build.linear("images", (24, 24)) for _ in range(2)]
    joined = build.add("Concat", exact, *halves, axis=1)
    last = build.add("Floor", joined)
    graph = named(build.model({"images": [6, 24]}, [build.linear(last, (72, 16))]))
    assert joined not in settle(graph, {exact: "", last: ""})


# The whole


def spec(names: tuple[str, str] = ("logits", "boxes")) -> dict[str, object]:
    return {
        "input": {"name": "images", "width": 64, "height": 64},
        "output": {"form": "logits_boxes", "logits": names[0], "boxes": names[1], "top_k": 100},
        "classes": ["a", "b"],
    }


def detector(*, fragile: bool) -> onnx.ModelProto:
    """Logits and boxes of five queries. `fragile`: a large constant comes and goes, and takes digits with it."""
    build = Builder()
    hidden = build.linear("images", (24, 16))
    if fragile:
        grown = build.add("MatMul", hidden, build.constant(np.eye(16)))
        grown = build.add("Add", grown, build.constant(np.full(16, 3000.0)))
        grown = build.add("MatMul", grown, build.constant(np.eye(16)))
        hidden = build.add("Add", grown, build.constant(np.full(16, -3000.0)))
    for _ in range(2):
        hidden = build.add("Tanh", build.linear(hidden, (16, 16)))
    scores = build.linear(hidden, (16, 2))
    build.add("Sigmoid", build.linear(hidden, (16, 4)))
    build.nodes[-1].output[0] = "boxes"
    build.nodes.append(helper.make_node("Identity", [scores], ["logits"]))
    return build.model({"images": ["N", 5, 24]}, ["logits", "boxes"])


def feeds(count: int = 4) -> list[dict[str, np.ndarray]]:
    values = np.random.default_rng(3).normal(size=(count, 1, 5, 24)).astype(np.float32)
    return [{"images": value} for value in values]


OPTIONS = HalfOptions(collect=CollectOptions(threads=1, batch=1))


def test_rules_suffice_for_a_tame_model() -> None:
    graph = prepare(detector(fragile=False))
    made = half(graph, feeds, spec(), options=OPTIONS)
    types = well_typed(made.model)
    assert made.half >= 4
    assert made.drift.matched == 1.0
    assert made.drift.box_p95_px < 0.5
    assert {why.split(":")[0] for why in made.islands.values()} <= {"boxes and scores", "saves casts between islands"}
    assert made.casts == casts(made.model)
    assert [types[value.name] for value in made.model.graph.output] == [FLOAT, FLOAT]


def test_islands_grow_until_boxes_stay() -> None:
    graph = prepare(detector(fragile=True))
    before = graph.model.SerializeToString()
    tight = HalfOptions(max_box_px=0.2, max_score=0.01, collect=OPTIONS.collect)
    made = half(graph, feeds, spec(), options=tight)
    assert any(why.startswith("measured: alone it moves boxes by") for why in made.islands.values())
    assert made.drift.box_p95_px <= 0.2
    assert made.half > 0, "not everything is an island"
    assert graph.model.SerializeToString() == before
    rules = half(graph, feeds, spec(), options=HalfOptions(max_box_px=1e9, max_score=1e9, min_matched=0.0))
    assert rules.drift.box_p95_px > 0.2, "or there was nothing to find"


def test_overflow_is_found_without_a_limit_on_values() -> None:
    """Infinity in the emulation counts as everything lost, so that the island grows."""
    build = Builder()
    hidden = build.add("Mul", build.linear("images", (24, 16)), build.constant(6e4))
    hidden = build.add("Mul", hidden, build.constant(1 / 6e4))
    scores = build.linear(build.linear(hidden, (16, 16)), (16, 2))
    boxes = build.add("Sigmoid", build.linear(build.linear(hidden, (16, 16)), (16, 4)))
    model = build.model({"images": ["N", 5, 24]}, [scores, boxes])
    made = half(
        prepare(model), feeds, spec((scores, boxes)), options=HalfOptions(headroom=1.0, collect=OPTIONS.collect)
    )
    assert made.drift.matched == 1.0
    assert any("values up to" in why or "measured" in why for why in made.islands.values())


def test_options_and_branches_are_checked() -> None:
    for wrong in ({"max_box_px": 0.0}, {"max_score": -1.0}, {"min_matched": 1.5}, {"headroom": 0.5}):
        with pytest.raises(InvalidInputError):
            HalfOptions(**wrong)  # type: ignore[arg-type]
    body = helper.make_graph([helper.make_node("Identity", ["images"], ["b"])], "b", [], [value("b")])
    node = helper.make_node("If", ["yes"], ["out"], then_branch=body, else_branch=body)
    yes = numpy_helper.from_array(np.array(True), "yes")
    model = helper.make_model(
        helper.make_graph([node], "g", [value("images")], [value("out")], [yes]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    with pytest.raises(ModelError, match="without If and Loop"):
        half(Graph(model), feeds, spec(), options=OPTIONS)


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, [1])


def test_a_quantised_model_gets_types_of_its_float_model() -> None:
    build = Builder()
    hidden = norm(build, build.linear("images", (24, 24)), centred=True, form="reciprocal")
    hidden = build.add("Tanh", build.linear(hidden, (24, 16)))
    hidden = build.linear(hidden, (16, 16))
    scores, boxes = build.linear(hidden, (16, 2)), build.add("Sigmoid", build.linear(hidden, (16, 4)))
    graph = named(prepare(build.model({"images": ["N", 5, 24]}, [scores, boxes])).model)
    made = half(graph, feeds, spec((scores, boxes)), options=OPTIONS)
    placement = place(graph, PlacementOptions(scope="all"))
    ranges = {name: Range(-4.0, 4.0) for name in measured(graph, placement, "tensorrt")}
    quantised = render(graph, placement, ranges, "tensorrt")
    typed = type_quantised(quantised, made)
    types = well_typed(typed)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in typed.graph.initializer}
    assert [entry.version for entry in typed.opset_import] == [19]
    assert [node.op_type for node in typed.graph.node].count("LayerNormalization") == 1
    assert len(placement.layers) == 3
    for node in typed.graph.node:
        if node.op_type == "QuantizeLinear":
            assert types[node.input[0]] == types[node.input[1]]
            assert constants[node.input[2]].dtype == np.int8
        elif node.op_type == "DequantizeLinear":
            assert types[node.output[0]] == types[node.input[1]]
    scales = [constants[n.input[1]].dtype for n in typed.graph.node if n.op_type == "DequantizeLinear"]
    assert scales.count(np.dtype(np.float16)) == len(scales)
    # Scales are half precision numbers from the start, so both models lie on the same integers.
    found, expected = (session(model).run(None, feeds()[0])[0] for model in (emulate(typed), quantised))
    assert np.abs(found - expected).max() < 0.15 * np.abs(expected).max()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    make_images(root / "train", 6, seed=1)
    bundle = make_bundle(root / "cells", make_model(root / "model.onnx"))
    record_sample(bundle, draw(root / "train", count=6, seed=0))
    return bundle


def test_the_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Path(shutil.copytree(source, tmp_path / "cells"))
    assert main(["half", str(bundle), "--threads", "1", "--count", "4"]) == 0
    assert "found again" in capsys.readouterr().out
    assert load_model_json(bundle)["models"]["fp16"] == {"tensorrt": "model.tensorrt.fp16.onnx"}
    well_typed(onnx.load(bundle / "model.tensorrt.fp16.onnx"))
    record = json.loads((bundle / "calibration.json").read_text())
    assert record["half"]["tensorrt"]["images"] == 4
    assert record["half"]["tensorrt"]["drift"]["matched"] == 1.0
    assert set(record["half"]["tensorrt"]["islands"].values()) >= {"boxes and scores"}
    # A later `quantize` of the same set keeps it.
    assert main(["quantize", str(bundle), "--backend", "tensorrt", "--threads", "1"]) == 0
    assert json.loads((bundle / "calibration.json").read_text())["half"] == record["half"]


@pytest.mark.slow
def test_femto_keeps_its_detections(shared: Path) -> None:
    """The published model: half precision everywhere reads cells that do not exist; by rule alone boxes stay."""
    from edgedet import preprocess, read_image

    graph = prepare(onnx.load(shared / "models" / "deimv2_hgnetv2_femto_coco.onnx"))
    photos = sorted((shared / "data" / "coco_train2017_subset").rglob("*.jpg"))[:6]
    batch = [
        {
            "images": preprocess(read_image(photo), width=416, height=416)[None],
            "orig_target_sizes": np.array([[416, 416]]),
        }
        for photo in photos
    ]
    how = {
        "input": {"name": "images", "width": 416, "height": 416},
        "output": {
            "form": "labels_boxes_scores",
            "labels": "labels",
            "boxes": "boxes",
            "scores": "scores",
            "top_k": 300,
        },
        "classes": [str(number) for number in range(80)],
    }
    made = half(graph, lambda: batch, how, options=HalfOptions(collect=CollectOptions(batch=1, threads=1)))
    assert not any("measured" in why for why in made.islands.values())
    assert any(why.startswith("values up to 4.") for why in made.islands.values()), "q·k of the last layer"
    assert made.drift.detections > 20
    assert made.drift.matched == 1.0
    assert made.drift.box_p95_px < 1.0
    well_typed(made.model)

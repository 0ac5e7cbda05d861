"""The reader of ONNX files against the onnx package, and against files that mean harm."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_onnx
from cell_world import make_model
from onnx import TensorProto, helper, numpy_helper

from edgedet import ModelError
from edgedet.onnx_graph import INT8, OnnxGraph, parse_graph, read_graph


def expected_operators(graph: onnx.GraphProto) -> Counter[str]:
    found: Counter[str] = Counter()
    for node in graph.node:
        found[f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type] += 1
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                found += expected_operators(inner)
    return found


def assert_like_onnx(path: Path) -> OnnxGraph:
    model, graph = onnx.load(str(path)), read_graph(path)
    assert graph.operators == expected_operators(model.graph)
    assert graph.opset == next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for ours, theirs in zip(graph.nodes, model.graph.node, strict=False):
        assert (ours.op, list(ours.inputs), list(ours.outputs)) == (
            theirs.op_type,
            list(theirs.input),
            list(theirs.output),
        )
        for attribute in theirs.attribute:
            value = helper.get_attribute_value(attribute)
            if attribute.type == onnx.AttributeProto.INT:
                assert ours.attributes[attribute.name] == value
            elif attribute.type == onnx.AttributeProto.STRING:
                assert ours.attributes[attribute.name] == value.decode()
            elif attribute.type == onnx.AttributeProto.INTS and value:
                assert ours.attributes[attribute.name] == tuple(value)
    for tensor in model.graph.initializer:
        ours_tensor = graph.tensors[tensor.name]
        assert ours_tensor.dtype == tensor.data_type
        if ours_tensor.values is not None:
            np.testing.assert_array_equal(ours_tensor.values, numpy_helper.to_array(tensor).ravel())
    return graph


@pytest.mark.parametrize("middle", ["plain", "sampled", "pooled", "normed"])
def test_like_onnx_on_made_models(middle: str, tmp_path: Path) -> None:
    assert_like_onnx(make_model(tmp_path / "model.onnx", middle))  # type: ignore[arg-type]
    assert_like_onnx(tiny_onnx.scored_model(tmp_path / "scored.onnx"))


def test_like_onnx_on_published_models(shared: Path) -> None:
    for name in ("atto", "femto"):
        graph = assert_like_onnx(shared / "models" / f"deimv2_hgnetv2_{name}_coco.onnx")
        assert graph.operators["GridSample"] > 0


def test_every_form_of_a_tensor(tmp_path: Path) -> None:
    """Raw bytes, packed numbers, Constant nodes, subgraphs, foreign domains."""
    tensors = [
        helper.make_tensor("i8", TensorProto.INT8, [3], [-1, 0, 127]),
        helper.make_tensor("u8", TensorProto.UINT8, [2], [0, 255]),
        helper.make_tensor("i32", TensorProto.INT32, [2], [-5, 1 << 30]),
        helper.make_tensor("f32", TensorProto.FLOAT, [2], [0.5, -2.0]),
        helper.make_tensor("f16", TensorProto.FLOAT16, [2], np.array([0.5, -2.0], np.float16)),
        numpy_helper.from_array(np.array([1, -1], np.int8), "raw8"),
        numpy_helper.from_array(np.array([0.25, -4.0], np.float16), "raw16"),
        numpy_helper.from_array(np.zeros(100_000, np.float32), "large"),
        numpy_helper.from_array(np.array([7], np.int64), "i64"),
    ]
    then = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "then", [], [])
    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array([3], np.int8))),
        helper.make_node("Mine", ["x"], ["w"], domain="my.ops", mode="linear", level=-3, sides=[1, -2]),
        helper.make_node("If", ["c"], ["z"], then_branch=then, else_branch=then),
    ]
    graph = helper.make_graph(nodes, "g", [], [], tensors)
    imports = [helper.make_opsetid("my.ops", 99), helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports), str(tmp_path / "m.onnx"))
    found = assert_like_onnx(tmp_path / "m.onnx")
    assert found.operators == {"Constant": 1, "If": 1, "Neg": 2, "my.ops.Mine": 1}
    assert found.tensors["large"].values is None
    assert found.tensors["i64"].values is None
    constant = found.tensors["k"]
    assert constant.dtype == INT8
    assert constant.values is not None
    assert constant.values.tolist() == [3]
    assert found.nodes[1].attributes == {"mode": "linear", "level": -3, "sides": (1, -2)}
    assert next(found.of("Neg")).inputs == ("x",)
    assert found.producer("w") is found.nodes[1]


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        graph = message(1, message(5, message(6, graph)))
    return message(7, graph)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is no model", "expected an ONNX file"),
        (message(7, b"")[:-1] + b"\x05", "cut off"),
        (b"\x3a" + varint(1 << 62), "cut off"),
        (b"\x3a" + b"\xff" * 12, "too long"),
        (b"\x3b", "wire type 3"),
        (b"\x02\x00", "no number"),
        (b"\x38\x01", "a number stands where a message"),
        (message(8, b""), "holds 0 graphs"),
        (message(7, b"") * 2, "holds 2 graphs"),
        (nested(500), "nested more than 8 deep"),
        (message(7, message(1, message(4, b"\xff\xfe"))), "not UTF-8"),
        (message(7, message(1, message(4, b"A" * 5000))), "more than 4096 bytes"),
        (message(7, message(1, b"") * 200_001), "more than 200000 nodes"),
        (message(7, b"".join(message(5, message(8, b"%d" % n)) for n in range(200_001))), "more than 200000 constants"),
        (message(7, message(5, b"\x10\x06" + message(9, b"123"))), "no multiple"),
        (message(7, message(5, b"\x10\x03" + message(5, varint(300)))), "out of the range"),
    ],
)
def test_files_that_are_damaged_or_mean_harm(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        read_graph(tmp_path / "bad.onnx")
    assert "bad.onnx: expected an ONNX file" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        read_graph(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="expected an ONNX file"):
        read_graph(tmp_path)


def test_fuzzed_files_are_read_or_refused(tmp_path: Path) -> None:
    """Whatever bytes there are, the answer is a graph or a ValueError, soon."""
    good = make_model(tmp_path / "model.onnx").read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(1500):
        content = bytearray(good)
        for place in rng.integers(0, len(content), rng.integers(1, 8)):
            content[place] = rng.integers(256)
        if rng.random() < 0.3:
            del content[rng.integers(len(content)) :]
        try:
            parse_graph(memoryview(bytes(content)))
        except ValueError:
            refused += 1
    assert refused > 200
    for _ in range(500):
        noise = rng.integers(0, 256, rng.integers(1, 200), dtype=np.uint8).tobytes()
        try:
            parse_graph(memoryview(noise))
        except ValueError:
            continue

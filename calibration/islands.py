"""Which nodes stay in float32 when the rest of a detection transformer runs in half precision. Rules read the graph.

Half precision has 11 digits of mantissa and ends at 65504. A coordinate of 640 pixels is good to half a pixel, a
difference of two to nothing; the square of 256 is beyond its end. So what computes positions, boxes, the scores that
select queries, and sums of squares stays in float32, from the last layer with weights on: a small part of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from calibration.graph import Graph, attribute
from calibration.norms import find_norms
from calibration.placement import weight_slot
from calibration.typed import LARGEST, SMALLEST_NORMAL, element_types, opset_of, typed_slots

# Layers narrower than this are arithmetic on coordinates (a box from a distribution, the last layer of a box head).
_NARROW = 8
# Operators that only move values: their precision is that of what surrounds them.
MOVING = {
    *("Reshape", "Transpose", "Slice", "Split", "Concat", "Gather", "GatherND", "GatherElements", "Unsqueeze"),
    *("Squeeze", "Flatten", "Expand", "Tile", "Pad", "Identity", "Cast"),
}
# Operators on single elements: computing them in float32 costs no more than the casts around them.
ELEMENTWISE = {
    *("Add", "Sub", "Mul", "Div", "Abs", "Neg", "Clip", "Relu", "Sigmoid", "Exp", "Log", "Sqrt", "Reciprocal", "Min"),
    *("Max", "Pow", "Sin", "Cos", "Where", "Floor", "Ceil", "Round", "Greater", "Less", "Equal", "Erf", "Tanh"),
}

_QUANTISING = {"QuantizeLinear", "DequantizeLinear"}


def islands(graph: Graph, extents: Mapping[str, float], *, headroom: float) -> dict[str, str]:
    """Nodes that stay in float32, with the reason.

    Args:
        graph: float graph, its LayerNorms written as operators where that is wanted.
        extents: largest magnitude seen of every float activation.
        headroom: factor, >= 1, that must lie between what was seen and the end of half precision.
    """
    found: dict[str, str] = {}
    opset = opset_of(graph.model)
    types = element_types(graph.model)

    def keep(nodes: Iterable[onnx.NodeProto], reason: str) -> None:
        for node in nodes:
            found.setdefault(node.name, reason)

    nodes = list(graph.model.graph.node)
    by_name = {node.name: node for node in nodes}
    floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
    keep((node for node in nodes if not _has_half_form(node, floats, opset)), "no form in half precision")
    for norm in find_norms(graph):
        keep((by_name[name] for name in norm.nodes), "statistics of a normalisation")
    positions = _backwards(graph, [name for node in nodes for name in _position_inputs(node)], floats)
    # TensorRT wants map and grid of GridSample in one type, and a grid of half precision is off by parts of a cell.
    samplers = ("GridSample", "Floor", "Ceil", "Round")
    positions += [node for node in nodes if node.op_type in samplers or _to_integer(node, floats)]
    keep(_forwards(graph, positions, floats), "sampling positions")
    keep(_backwards(graph, [name for name in graph.outputs if name in floats], floats), "boxes and scores")
    selections = [node for node in nodes if node.op_type == "TopK" and node.input[0] in floats]
    keep([*_backwards(graph, [node.input[0] for node in selections], floats), *selections], "selection of queries")
    limit = LARGEST / headroom
    for name, extent in extents.items():
        if extent > limit:
            reason = f"values up to {extent:.3g}"
            keep([graph.producers[name]] if name in graph.producers else [], reason)
            keep((node for node, slot in graph.consumers.get(name, []) if slot in typed_slots(node, opset)[0]), reason)
    for node in nodes:
        if node.op_type == "Clip":
            continue  # a bound beyond the range of half precision binds nothing there
        for slot in typed_slots(node, opset)[0]:
            reason = _constant_reason(graph, node.input[slot])
            if reason:
                keep([node], reason)
    return found


def settle(graph: Graph, fixed: Mapping[str, str]) -> set[str]:
    """Nodes that run in half precision, so that few casts stand between them and the fixed islands.

    A node that moves values between two float32 nodes stays in float32, for half precision would round them. Others
    that move values, or work on single elements, join whichever side saves casts, one by one and then in connected
    groups; never into half where a rule says float32.
    """
    types = element_types(graph.model)
    opset = opset_of(graph.model)
    nodes = [node for node in graph.model.graph.node if _touches_floats(node, types, opset)]
    free = [node for node in nodes if node.name not in fixed and node.op_type in MOVING | ELEMENTWISE | _QUANTISING]
    half = {node.name for node in nodes} - set(fixed)
    for _ in range(len(free)):
        before = set(half)
        for node in free:
            gain = _casts(graph, [node], half, types) - _casts(graph, [node], half ^ {node.name}, types)
            if node.name in half:
                between = node.op_type in MOVING and _between_floats(graph, node, half, types)
                if gain > 0 or between:
                    half.remove(node.name)
            # What works on elements never goes back and forth.
            elif node.op_type not in ELEMENTWISE and gain > 0 and not _between_floats(graph, node, half, types):
                half.add(node.name)
        if half == before:
            break
    for group in _connected(graph, [node for node in free if node.name in half]):
        names = {node.name for node in group}
        if _casts(graph, group, half - names, types) < _casts(graph, group, half, types):
            half -= names
    return half


def _has_half_form(node: onnx.NodeProto, floats: set[str], opset: int) -> bool:
    if node.op_type == "Cast":
        return True
    given, made = typed_slots(node, opset)
    reads = [slot for slot, name in enumerate(node.input) if name in floats]
    writes = [slot for slot, name in enumerate(node.output) if name in floats]
    if not reads and not writes:
        return True
    return set(writes) <= set(made) and (bool(given) or not reads)


def _touches_floats(node: onnx.NodeProto, types: Mapping[str, int], opset: int) -> bool:
    given, made = typed_slots(node, opset)
    return any(types[node.input[slot]] == TensorProto.FLOAT for slot in given) or any(
        types[node.output[slot]] == TensorProto.FLOAT for slot in made
    )


def _position_inputs(node: onnx.NodeProto) -> list[str]:
    """The tensors that say where a node samples."""
    if node.op_type == "GridSample":
        return [node.input[1]]
    return [node.input[0]] if node.op_type in ("Floor", "Ceil", "Round", "Cast") else []


def _to_integer(node: onnx.NodeProto, floats: set[str]) -> bool:
    kinds = (TensorProto.INT32, TensorProto.INT64)
    return node.op_type == "Cast" and attribute(node, "to") in kinds and node.input[0] in floats


def _is_layer(graph: Graph, node: onnx.NodeProto) -> bool:
    """A node with learnt weights, wide enough, that does not read a distribution (then it is a box from bins)."""
    slot = weight_slot(graph, node)
    if slot is None:
        return False
    if node.op_type == "Conv":
        return True
    return min(graph.constants[node.input[slot]].shape) >= _NARROW and not _reads_softmax(graph, node.input[1 - slot])


def _reads_softmax(graph: Graph, name: str) -> bool:
    node = graph.producers.get(name)
    while node is not None and node.op_type in MOVING:
        node = graph.producers.get(node.input[0])
    return node is not None and node.op_type == "Softmax"


def _ends_walk(graph: Graph, node: onnx.NodeProto) -> bool:
    """Where walking back from a decision stops: a layer, with the bias behind it, a norm, a product of activations."""
    if _is_layer(graph, node) or node.op_type in ("Conv", "ConvTranspose", "LayerNormalization", "GridSample", "TopK"):
        return True
    if node.op_type in ("MatMul", "Gemm", "Einsum") and weight_slot(graph, node) is None:
        return True
    if node.op_type == "Add":
        for slot in (0, 1):
            source = graph.producers.get(node.input[1 - slot])
            if node.input[slot] in graph.constants and source is not None and source.op_type == "MatMul":
                return _is_layer(graph, source)
    return False


def _backwards(graph: Graph, names: Iterable[str], floats: set[str]) -> list[onnx.NodeProto]:
    """All nodes that `names` are computed by, back to the last layers, which are not among them."""
    found: dict[str, onnx.NodeProto] = {}
    front = [name for name in names if name in floats]
    while front:
        node = graph.producers.get(front.pop())
        if node is None or node.name in found or _ends_walk(graph, node):
            continue
        found[node.name] = node
        front.extend(name for name in node.input if name in floats)
    return list(found.values())


def _forwards(graph: Graph, nodes: Iterable[onnx.NodeProto], floats: set[str]) -> list[onnx.NodeProto]:
    """The nodes, and those behind them that do arithmetic on nothing but what they and constants give.

    The weights of a bilinear mean are differences of positions: in half precision nothing would be left of them.
    """
    found = {node.name: node for node in nodes}
    for node in graph.model.graph.node:
        sources = [name for name in node.input if name in floats and name not in graph.constants]
        inside = [name for name in sources if name in graph.producers and graph.producers[name].name in found]
        if node.name not in found and node.op_type in ELEMENTWISE and inside and len(inside) == len(sources):
            found[node.name] = node
    return list(found.values())


def _constant_reason(graph: Graph, name: str) -> str:
    """Why a constant has no good form in half precision, or an empty string."""
    values = graph.constants.get(name)
    if values is None or values.dtype != np.float32 or not values.size:
        return ""
    sizes = np.abs(values[np.isfinite(values)])
    if sizes.size and sizes.max() > LARGEST:
        return f"a constant of {sizes.max():.3g}"
    if sizes.size and 0 < sizes.max() < SMALLEST_NORMAL:
        return f"a constant of {sizes.max():.3g}"
    return ""


def _casts(graph: Graph, nodes: Sequence[onnx.NodeProto], half: set[str], types: Mapping[str, int]) -> int:
    """Casts behind the tensors that `nodes` read and write, if `half` ran in half precision."""
    names = {name for node in nodes for name in [*node.input, *node.output] if _is_float(types, name)}
    count = 0
    for name in names - set(graph.constants):
        written = _written_as_half(graph, name, half)
        differ = any((reader.name in half) != written for reader in _choosy_readers(graph, name))
        count += differ or (written and name in graph.outputs)
    return count


def _connected(graph: Graph, nodes: Sequence[onnx.NodeProto]) -> list[list[onnx.NodeProto]]:
    """Groups of nodes that hand values to each other."""
    group = {node.name: [node] for node in nodes}
    for node in nodes:
        for name in node.input:
            producer = graph.producers.get(name)
            if producer is None or producer.name not in group or group[producer.name] is group[node.name]:
                continue
            joined = [*group[producer.name], *group[node.name]]
            group.update((member.name, joined) for member in joined)
    return list({id(members): members for members in group.values()}.values())


def _is_float(types: Mapping[str, int], name: str) -> bool:
    return types.get(name) == TensorProto.FLOAT


def _choosy_readers(graph: Graph, name: str) -> list[onnx.NodeProto]:
    """Nodes that need a tensor in their own precision; a cast or Shape takes it as it is."""
    return [reader for reader, _ in graph.consumers.get(name, []) if reader.op_type not in ("Cast", "Shape", "Size")]


def _written_as_half(graph: Graph, name: str, half: set[str]) -> bool:
    producer = graph.producers.get(name)
    return producer is not None and producer.name in half


def _between_floats(graph: Graph, node: onnx.NodeProto, half: set[str], types: Mapping[str, int]) -> bool:
    """Whether a node hands a float32 value on to a node that wants it in float32."""
    sources = [name for name in node.input if name in graph.producers and _is_float(types, name)]
    from_float = any(not _written_as_half(graph, name, half) for name in sources)
    readers = [reader for name in node.output for reader in _choosy_readers(graph, name)]
    to_float = any(reader.name not in half for reader in readers) or any(name in graph.outputs for name in node.output)
    return from_float and to_float

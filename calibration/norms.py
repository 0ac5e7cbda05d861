"""Recognise normalisations that are spelt out (mean, square, root, …), and write LayerNorm as one operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from calibration.graph import Graph, attribute, static_shapes

# First opset that has the operator.
LAYER_NORM_OPSET = 17


@dataclass(frozen=True)
class Norm:
    """x / sqrt(mean(x²) + epsilon) over the last axis, of x or of x - mean(x).

    Attributes:
        nodes: names of all nodes of it, in graph order, scale and shift left out.
        source: tensor that is normalised, before the mean is taken off.
        output: tensor that comes out.
        epsilon: added to the mean square.
        centred: whether the mean is taken off: LayerNorm; otherwise RMSNorm.
    """

    nodes: tuple[str, ...]
    source: str
    output: str
    epsilon: float
    centred: bool


def find_norms(graph: Graph) -> list[Norm]:
    """Every normalisation over the last axis that is spelt out, in graph order."""
    shapes = static_shapes(graph.model, batch=1)
    found = (_around(graph, node, shapes) for node in graph.model.graph.node if node.op_type == "Sqrt")
    return [norm for norm in found if norm is not None]


def fuse_layer_norms(graph: Graph) -> int:
    """Write every spelt LayerNorm, with its scale and shift, as one LayerNormalization. In place.

    The operator keeps its statistics in float32 whatever the type of its input, and TensorRT does so too; spelt out,
    the squares overflow in half precision.

    Returns:
        Number of operators written. None below opset 17, which does not know it.
    """
    opset = max((entry.version for entry in graph.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < LAYER_NORM_OPSET:
        return 0
    shapes = static_shapes(graph.model, batch=1)
    replaced: dict[str, onnx.NodeProto] = {}
    dropped: set[str] = set()
    for norm in find_norms(graph):
        if not norm.centred or norm.source not in shapes or _read_outside(graph, norm):
            continue
        channels = shapes[norm.source][-1]
        output, last = norm.output, norm.nodes[-1]
        affine = {"Mul": np.ones(channels, np.float32), "Add": np.zeros(channels, np.float32)}
        swallowed = []
        for kind in affine:
            step = _affine(graph, output, kind, channels)
            if step is not None:
                node, value = step
                affine[kind], output, last = value, node.output[0], node.name
                swallowed.append(node.name)
        names = [f"{last}/LayerNormalization/{part}" for part in ("scale", "shift")]
        for name, value in zip(names, affine.values(), strict=True):
            graph.set_constant(name, value)
        replaced[last] = onnx.helper.make_node(
            "LayerNormalization", [norm.source, *names], [output], last, axis=-1, epsilon=norm.epsilon
        )
        dropped.update(norm.nodes, swallowed)
    kept = [
        replaced.get(node.name, node) for node in graph.model.graph.node if node.name not in dropped - set(replaced)
    ]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(nodes)
    graph.reindex()
    return len(replaced)


def _around(graph: Graph, root: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> Norm | None:
    """The normalisation whose square root is `root`, None where it is not one."""
    shifted = graph.producers.get(root.input[0])
    if shifted is None or shifted.op_type != "Add":
        return None
    constant, mean_of_squares = _constant_and_other(graph, shifted)
    if constant is None or constant.size != 1:
        return None
    mean = graph.producers.get(mean_of_squares)
    if mean is None or not _means_last_axis(graph, mean, shapes):
        return None
    square = graph.producers.get(mean.input[0])
    if square is None or not _squares(graph, square):
        return None
    scaled = _scaling(graph, root, square.input[0])
    if scaled is None:
        return None
    nodes = [square, mean, shifted, root, *scaled]
    source, centred = square.input[0], False
    centring = graph.producers.get(source)
    if centring is not None and centring.op_type == "Sub":
        average = graph.producers.get(centring.input[1])
        if average is not None and _means_last_axis(graph, average, shapes) and average.input[0] == centring.input[0]:
            nodes[:0] = [average, centring]
            source, centred = centring.input[0], True
    return Norm(
        tuple(node.name for node in nodes), source, scaled[-1].output[0], float(constant.reshape(-1)[0]), centred
    )


def _scaling(graph: Graph, root: onnx.NodeProto, source: str) -> list[onnx.NodeProto] | None:
    """The nodes that divide `source` by the root: Div, or a reciprocal and Mul."""
    readers = graph.consumers.get(root.output[0], [])
    if len(readers) != 1:
        return None
    first = readers[0][0]
    if first.op_type == "Div" and list(first.input) == [source, root.output[0]]:
        return [first]
    one = graph.constants.get(first.input[0])
    inverse = first.op_type == "Reciprocal" or (
        first.op_type == "Div" and one is not None and one.size == 1 and bool(np.all(one == 1))
    )
    products = graph.consumers.get(first.output[0], []) if inverse else []
    if len(products) != 1 or products[0][0].op_type != "Mul":
        return None
    return [first, products[0][0]] if source in products[0][0].input else None


def _squares(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type == "Mul":
        return bool(node.input[0] == node.input[1])
    exponent = graph.constants.get(node.input[1]) if node.op_type == "Pow" else None
    return exponent is not None and exponent.size == 1 and bool(np.all(exponent == 2))


def _means_last_axis(graph: Graph, node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    if node.op_type != "ReduceMean" or attribute(node, "keepdims", 1) != 1:
        return False
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1] in graph.constants:
        axes = graph.constants[node.input[1]].reshape(-1).tolist()
    shape = shapes.get(node.input[0])
    last = {-1} if shape is None else {-1, len(shape) - 1}
    return isinstance(axes, list) and len(axes) == 1 and axes[0] in last


def _constant_and_other(graph: Graph, node: onnx.NodeProto) -> tuple[npt.NDArray[np.generic] | None, str]:
    for slot in (0, 1):
        if node.input[slot] in graph.constants:
            return graph.constants[node.input[slot]], node.input[1 - slot]
    return None, ""


def _affine(graph: Graph, name: str, kind: str, channels: int) -> tuple[onnx.NodeProto, npt.NDArray[np.float32]] | None:
    """The only reader of `name` where it is a Mul or Add with one number per channel, and those numbers."""
    readers = graph.consumers.get(name, [])
    if len(readers) != 1 or name in graph.outputs or readers[0][0].op_type != kind:
        return None
    constant, _ = _constant_and_other(graph, readers[0][0])
    if constant is None or constant.size != channels or constant.shape[-1] != channels:
        return None
    return readers[0][0], constant.reshape(channels).astype(np.float32)


def _read_outside(graph: Graph, norm: Norm) -> bool:
    """Whether something else reads what the operator would no longer write."""
    inner = {name for node in graph.model.graph.node if node.name in norm.nodes for name in node.output} - {norm.output}
    readers = {node.name for name in inner for node, _ in graph.consumers.get(name, [])}
    return bool(inner & set(graph.outputs)) or not readers <= set(norm.nodes)

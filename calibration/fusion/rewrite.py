"""Replace deformable attention spelt by gathers, as our exporter writes it, by one node each.

A rewrite and not a form of export: it takes bundles that exist, in float32 and with half precision typed, and the float
file stays the one that everything else reads and that onnxruntime can check.

Structure proposes, numbers decide: the part of the graph between the four tensors is run on random inputs, and replaced
only if the operator gives its results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from calibration.collect import session
from calibration.fusion.operator import DOMAIN, VERSION, Attention, attend
from calibration.graph import Graph, attribute
from calibration.typed import element_types
from edgedet import ModelError

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
# What lies between the linear layer, the boxes and the gather.
_ARITHMETIC = {
    *(
        "Abs",
        "Add",
        "Cast",
        "Clip",
        "Constant",
        "Floor",
        "Max",
        "Min",
        "Mul",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Softmax",
    ),
    *("Split", "Squeeze", "Sub", "Unsqueeze"),
}
_QUERIES = 5  # of the comparison; images are two


@dataclass(frozen=True)
class _Found:
    """An attention in a graph: its tensors, the nodes between them, and the attributes that may be its own."""

    projection: str
    boxes: str
    values: str
    out: str
    nodes: list[onnx.NodeProto]
    queries: int
    attentions: list[Attention]


class _OtherError(Exception):
    """This is no attention of ours."""


def fuse(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Copy of a model with a node for each of its attentions, and their number.

    Args:
        model: a network of ours, `training.export`'s gather form, prepared or with types (`calibration.half`) or not.

    Raises:
        ModelError: the model has no attention of this form, or one that the operator does not compute.
    """
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    graph = Graph(fused)
    found = [entry for node in fused.graph.node if (entry := _find(graph, node)) is not None]
    if not found:
        raise ModelError(
            "expected deformable attention that samples by gathers, got a model without; export it with "
            "sampling='gather'"
        )
    types = element_types(model)
    nodes = {entry.out: _replacement(graph, types, entry, _proven(graph, types, entry)) for entry in found}
    kept = []
    for node in fused.graph.node:
        kept += nodes.get(node.output[0], [node])
    del fused.graph.node[:]
    fused.graph.node.extend(_used(kept, graph.outputs))
    read = {name for node in fused.graph.node for name in node.input}
    constants = [tensor for tensor in fused.graph.initializer if tensor.name in read]
    del fused.graph.initializer[:]
    fused.graph.initializer.extend(constants)
    del fused.graph.value_info[:]
    fused.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    onnx.checker.check_model(fused, full_check=True)
    return fused, len(found)


def _find(graph: Graph, gather: onnx.NodeProto) -> _Found | None:
    if gather.op_type != "GatherND" or attribute(gather, "batch_dims", 0) != 1:
        return None
    try:
        return _Finder(graph, gather).found()
    except _OtherError:
        return None


class _Finder:
    """What belongs to a gather: forwards to the weighted sum, and from there backwards to the layer and the boxes."""

    def __init__(self, graph: Graph, gather: onnx.NodeProto) -> None:
        self._graph, self._gather = graph, gather
        self._nodes: dict[int, onnx.NodeProto] = {}
        self._ends: dict[str, set[str]] = {"projection": set(), "boxes": set()}

    def found(self) -> _Found:
        rows = self._after(self._gather, "Reshape")
        product = self._after(rows, "MatMul")
        last = self._after(product, "Reshape")
        shape = self._constant(rows.input[1]).tolist()
        if len(shape) != len(("images", "queries", "heads", "cells", "channels")):
            raise _OtherError
        _, self._queries, heads, cells, channels = shape
        self._rays = heads * cells // 4
        front = [self._gather.input[1], *(name for name in product.input if name not in self._between)]
        self._walk(front)
        if any(len(names) != 1 for names in self._ends.values()):
            raise _OtherError
        nodes = [node for node in self._graph.model.graph.node if id(node) in self._nodes]
        return _Found(
            self._source(next(iter(self._ends["projection"]))),
            self._source(next(iter(self._ends["boxes"]))),
            self._source(self._gather.input[0]),
            last.output[0],
            nodes,
            self._queries,
            list(self._attentions(heads, channels)),
        )

    @property
    def _between(self) -> set[str]:
        return {name for node in self._nodes.values() for name in node.output}

    def _after(self, node: onnx.NodeProto, kind: str) -> onnx.NodeProto:
        """The one reader of a node's output, casts left out."""
        self._nodes[id(node)] = node
        readers = self._graph.consumers.get(node.output[0], [])
        if len(readers) != 1:
            raise _OtherError
        reader = readers[0][0]
        if reader.op_type == "Cast" and attribute(reader, "to") in _FLOATS:
            return self._after(reader, kind)
        if reader.op_type != kind:
            raise _OtherError
        self._nodes[id(reader)] = reader
        return reader

    def _walk(self, front: list[str]) -> None:
        """All nodes that the tensors come from, as far as where the linear layer's result and the boxes are split."""
        while front:
            name = front.pop()
            node = self._graph.producers.get(name)
            if node is None:
                if name not in self._graph.constants:
                    raise _OtherError
                continue
            if id(node) in self._nodes:
                continue
            if node.op_type not in _ARITHMETIC:
                raise _OtherError
            self._nodes[id(node)] = node
            if node.op_type == "Split" and list(self._split(node)) == [2 * self._rays, self._rays]:
                self._ends["projection"].add(node.input[0])
            elif node.op_type == "Reshape" and list(self._constant(node.input[1])) == [-1, self._queries, 4, 1]:
                self._ends["boxes"].add(node.input[0])
            else:
                front += [source for source in node.input if source and source not in self._graph.constants]

    def _split(self, node: onnx.NodeProto) -> npt.NDArray[np.generic]:
        return self._constant(node.input[1]) if len(node.input) > 1 else np.zeros(0)

    def _constant(self, name: str) -> npt.NDArray[np.generic]:
        if name not in self._graph.constants:
            raise _OtherError
        return self._graph.constants[name]

    def _source(self, name: str) -> str:
        """The tensor that a cast between float types was made of."""
        node = self._graph.producers.get(name)
        while node is not None and node.op_type == "Cast" and attribute(node, "to") in _FLOATS:
            name = node.input[0]
            node = self._graph.producers.get(name)
        return name

    def _attentions(self, heads: int, channels: int) -> Iterable[Attention]:
        """What the constants may mean.

        There are the rows of a ray's four cells, first + stride * (0, 1, width, width + 1), and the size of its map.
        """
        read = {name for node in self._nodes.values() for name in node.input}
        arrays = [self._graph.constants[name].astype(np.float64) for name in sorted(read & set(self._graph.constants))]
        for steps in (array for array in arrays if array.shape == (self._rays, 4)):
            stride = int(steps[0, 1] - steps[0, 0])
            if stride < 1 or stride % heads:
                continue
            points = self._rays // heads
            widths = ((steps[:points, 2] - steps[:points, 0]) / stride).astype(int)
            # (first row, width) is the same for the points of a level only.
            levels = [(key, len(list(run))) for key, run in groupby(zip(steps[:points, 0], widths, strict=True))]
            ends = np.cumsum([count for _, count in levels])
            for sizes in (array for array in arrays if array.shape == (2, self._rays)):
                if (sizes[0, :points] != widths).any():
                    continue
                yield Attention(
                    heads=heads,
                    channels=channels,
                    layers=stride // heads,
                    layer=int(steps[0, 0]) // heads,
                    heights=tuple(int(sizes[1, end - 1]) for end in ends),
                    widths=tuple(int(width) for (_, width), _ in levels),
                    points=tuple(count for _, count in levels),
                )


def _proven(graph: Graph, types: dict[str, int], found: _Found) -> Attention:
    """The attributes that give what the nodes give, on random boxes and offsets inside and outside of the maps."""
    tolerance = 2e-2 if any(types.get(name) == TensorProto.FLOAT16 for name in _tensors(found)) else 1e-4
    for attention in found.attentions:
        if min(attention.heights) < 1 or attention.layer >= attention.layers:
            continue
        rng = np.random.default_rng(0)
        offsets = rng.normal(0, 4, (2, found.queries, 2 * attention.rays))
        projection = np.concatenate([offsets, rng.normal(0, 1, (2, found.queries, attention.rays))], -1)
        feed = {
            found.projection: projection,
            found.boxes: rng.uniform(0, 1, (2, found.queries, 4)),
            found.values: rng.uniform(-1, 1, (2, attention.rows, attention.channels)),
        }
        rounded = {
            name: value.astype(onnx.helper.tensor_dtype_to_np_dtype(types[name])) for name, value in feed.items()
        }
        try:
            (wanted,) = session(_part(graph, types, found), threads=1).run([found.out], rounded)
        except Exception:  # onnxruntime has one exception type per status code; an index out of range is one
            continue
        projection, boxes, values = (rounded[name].astype(np.float32) for name in feed)
        got = attend(projection, boxes, values, attention)
        if got.shape == wanted.shape and np.abs(got - wanted.astype(np.float32)).max() <= tolerance:
            return attention
    raise ModelError(
        f"expected deformable attention as training.export writes it behind '{found.projection}', got one that the "
        "fused operator does not compute; report it, and use the model as it is"
    )


def _tensors(found: _Found) -> list[str]:
    return [found.projection, found.boxes, found.values, *(name for node in found.nodes for name in node.output)]


def _part(graph: Graph, types: dict[str, int], found: _Found) -> onnx.ModelProto:
    """The nodes of an attention as a model."""
    given = [found.projection, found.boxes, found.values]
    made = {name for node in found.nodes for name in node.output}
    # Casts of what is given are not among the nodes.
    nodes = [*_casts_of(graph, given, made, found.nodes), *found.nodes]
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.model.graph.initializer if tensor.name in read]
    part = onnx.helper.make_graph(
        nodes,
        "attention",
        [onnx.helper.make_tensor_value_info(name, types[name], None) for name in given],
        [onnx.helper.make_tensor_value_info(found.out, types[found.out], None)],
        constants,
    )
    return onnx.helper.make_model(part, opset_imports=graph.model.opset_import, ir_version=graph.model.ir_version)


def _casts_of(
    graph: Graph, given: Sequence[str], made: set[str], nodes: Sequence[onnx.NodeProto]
) -> list[onnx.NodeProto]:
    found: list[onnx.NodeProto] = []
    front = [name for node in nodes for name in node.input if name in graph.producers and name not in made]
    for name in dict.fromkeys(front):
        chain: list[onnx.NodeProto] = []
        while name not in given:
            chain.insert(0, graph.producers[name])
            name = chain[0].input[0]
        found += [node for node in chain if node not in found]
    return found


def _replacement(graph: Graph, types: dict[str, int], found: _Found, attention: Attention) -> list[onnx.NodeProto]:
    """The node, with casts where the operator wants other types: float32 boxes, all else as the values are."""
    nodes: list[onnx.NodeProto] = []
    base = graph.producers[found.out].name.rpartition(".")[0]
    name = f"{base}.attend" if base else f"{found.out}.attend"

    def as_type(tensor: str, kind: int) -> str:
        if types[tensor] == kind:
            return tensor
        target = f"{name}/{tensor}"
        nodes.append(onnx.helper.make_node("Cast", [tensor], [target], f"{target}/Cast", to=kind))
        return target

    kind = types[found.values]
    projection, boxes = as_type(found.projection, kind), as_type(found.boxes, TensorProto.FLOAT)
    if types[found.out] == kind:
        return [*nodes, attention.node(name, projection, boxes, found.values, found.out)]
    made = f"{name}/out"
    nodes.append(attention.node(name, projection, boxes, found.values, made))
    return [*nodes, onnx.helper.make_node("Cast", [made], [found.out], f"{name}/out/Cast", to=types[found.out])]


def _used(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that an output needs, in their order."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]

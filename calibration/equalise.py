"""Channel equalisation: rescale channels so that one scale per tensor fits them all. The float function stays the same.

A convolution's output channel can be divided by any k > 0 in its weight and bias, and multiplied back in the input
channel of the weights that read it, as long as everything in between commutes with a positive factor: ReLU, pooling,
resizing, concatenation, slicing, additions (Nagel et al., "Data-free quantization through weight equalization and bias
correction", 2019; the exponent is SmoothQuant's alpha, Xiao et al. 2023). Channels of one tensor then have similar
ranges, so fewer of the 256 levels are spent on the few channels that are large.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from calibration.graph import Graph, attribute, static_shapes
from calibration.placement import Placement, weight_slot

FloatVector = npt.NDArray[np.float64]

_COMMUTING = {"Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Identity"}


class ChannelClasses:
    """Which channels of which tensors must share a factor, and which cannot have one.

    A union-find over (tensor, channel) of every rank-4 tensor. `pinned` classes keep factor 1.
    """

    def __init__(self, graph: Graph) -> None:
        """Walk the graph once."""
        self._shapes = static_shapes(graph.model, batch=1)
        self._offset: dict[str, int] = {}
        total = 1  # element 0 is "pinned"
        for name, shape in self._shapes.items():
            if len(shape) == 4:
                self._offset[name] = total
                total += shape[1]
        self._parent = np.arange(total)
        for node in graph.model.graph.node:
            self._visit(graph, node)
        for value in [*graph.model.graph.input, *graph.model.graph.output]:
            self._pin(value.name)

    def of(self, name: str) -> npt.NDArray[np.int64] | None:
        """Class of every channel of a tensor, 0 for pinned; None for a tensor that is not rank 4."""
        if name not in self._offset:
            return None
        pinned = self._find(0)
        roots = np.array([self._find(element) for element in self._elements(name)])
        return np.where(roots == pinned, 0, roots)

    def _elements(self, name: str) -> range:
        return range(self._offset[name], self._offset[name] + self._shapes[name][1])

    def _find(self, element: int) -> int:
        while self._parent[element] != element:
            self._parent[element] = self._parent[self._parent[element]]
            element = int(self._parent[element])
        return element

    def _union(self, first: int, second: int) -> None:
        self._parent[self._find(second)] = self._find(first)

    def _pin(self, name: str) -> None:
        if name in self._offset:
            for element in self._elements(name):
                self._union(0, element)

    def _tie(self, first: str, second: str, start: int = 0) -> bool:
        """Same factor for all channels of `second` and as many of `first` from `start` on."""
        if first not in self._offset or second not in self._offset:
            return False
        ours, theirs = self._elements(first), self._elements(second)
        if start + len(theirs) > len(ours):
            return False
        for position, element in enumerate(theirs):
            self._union(ours[start + position], element)
        return True

    def _visit(self, graph: Graph, node: onnx.NodeProto) -> None:
        if node.op_type == "Conv" and weight_slot(graph, node) == 1:
            return  # both ends are free: the weight takes the factors
        if not self._commutes(graph, node):
            for name in [*node.input, *node.output]:
                self._pin(name)

    def _commutes(self, graph: Graph, node: onnx.NodeProto) -> bool:
        """Tie the channels of a node that commutes with positive factors; False where it does not."""
        inputs = [name for name in node.input if name and name not in graph.constants]
        kind = node.op_type
        if kind in _COMMUTING or (kind == "Pad" and _pads_with_zero(graph, node)):
            return self._tie(node.output[0], inputs[0])
        if kind in ("Mul", "Div") and len(inputs) == 1 and node.input[0] == inputs[0]:
            return _per_channel(graph.constants[node.input[1]]) and self._tie(node.output[0], inputs[0])
        if kind == "Mul" and len(inputs) == 1:
            return _per_channel(graph.constants[node.input[0]]) and self._tie(node.output[0], inputs[0])
        if kind == "Add" and len(inputs) == 1:
            constant = next(name for name in node.input if name in graph.constants)
            return _per_channel(graph.constants[constant]) and self._tie(node.output[0], inputs[0])
        if kind == "Add" and len(inputs) == 2:
            return self._tie(node.output[0], inputs[0]) and self._tie(node.output[0], inputs[1])
        if kind == "Concat" and attribute(node, "axis") == 1 and len(inputs) == len(node.input):
            start = 0
            for name in inputs:
                if not self._tie(node.output[0], name, start):
                    return False
                start += self._shapes[name][1]
            return True
        if kind == "Split" and attribute(node, "axis", 0) == 1:
            start = 0
            for name in node.output:
                if not self._tie(inputs[0], name, start):
                    return False
                start += self._shapes[name][1]
            return True
        if kind == "Slice":
            start_of = _channel_slice(graph, node)
            return start_of is not None and self._tie(inputs[0], node.output[0], start_of)
        return False


def equalise(graph: Graph, placement: Placement, channel_ranges: Mapping[str, FloatVector], *, alpha: float) -> int:
    """Rescale channels in place so that the channels of each quantised tensor have similar ranges.

    Args:
        graph: float graph; weights, biases and added constants of it are rewritten, its nodes and tensor names stay.
        placement: the tensors that will be quantised.
        channel_ranges: per quantised rank-4 tensor, the typical largest magnitude of every channel, (C,).
        alpha: 0 leaves everything, 1 gives every channel the same range at the cost of the weights that read them.

    Returns:
        Number of channel classes that got a factor other than 1.
    """
    classes = ChannelClasses(graph)
    factor: dict[int, float] = {0: 1.0}
    # The widest tensor decides for a channel that occurs in several (a branch and the concatenation it ends in): a
    # factor common to all channels of the narrower one does not matter there.
    for name in sorted(placement.activations, key=lambda name: -len(channel_ranges.get(name, ()))):
        members = classes.of(name)
        if members is None or name not in channel_ranges:
            continue
        extent = channel_ranges[name]
        peak = float(extent.max())
        if peak <= 0.0:
            continue
        # A channel that is (almost) never active says nothing about its range; bound what it may be scaled by.
        relative = np.maximum(extent / peak, 1e-2) ** alpha
        for member in np.unique(members):
            if member not in factor:
                factor[int(member)] = float(relative[members == member].max())
    _apply(graph, classes, factor)
    return sum(value != 1.0 for value in factor.values())


def _apply(graph: Graph, classes: ChannelClasses, factor: Mapping[int, float]) -> None:
    def factors(name: str) -> FloatVector | None:
        members = classes.of(name)
        if members is None:
            return None
        return np.array([factor.get(int(member), 1.0) for member in members])

    for node in list(graph.model.graph.node):
        if node.op_type == "Conv" and weight_slot(graph, node) == 1:
            reads, writes = factors(node.input[0]), factors(node.output[0])
            weight = graph.constants[node.input[1]].astype(np.float64)
            if reads is not None:
                groups = attribute(node, "group", 1)
                assert isinstance(groups, int)
                per_group = reads.reshape(groups, -1)
                rows = np.repeat(per_group, weight.shape[0] // groups, axis=0)
                weight = weight * rows.reshape(rows.shape + (1,) * (weight.ndim - 2))
            if writes is not None:
                weight = weight / writes.reshape((-1,) + (1,) * (weight.ndim - 1))
                if len(node.input) > 2 and node.input[2]:
                    _replace(graph, node, 2, graph.constants[node.input[2]].astype(np.float64) / writes)
            _replace(graph, node, 1, weight)
        elif node.op_type == "Add":
            slots = [slot for slot, name in enumerate(node.input) if name in graph.constants]
            writes = factors(node.output[0])
            if len(slots) == 1 and writes is not None and not np.all(writes == 1.0):
                added = np.broadcast_to(_as_channels(graph.constants[node.input[slots[0]]]), (1, len(writes), 1, 1))
                _replace(graph, node, slots[0], added / writes.reshape(1, -1, 1, 1))
    graph.reindex()


def _replace(graph: Graph, node: onnx.NodeProto, slot: int, value: npt.NDArray[np.generic]) -> None:
    """Give a node its own copy of a constant; another node may read the original."""
    name = f"{node.name}/equalised{slot}"
    graph.set_constant(name, value.astype(np.float32))
    node.input[slot] = name


def _per_channel(constant: npt.NDArray[np.generic]) -> bool:
    """Whether a constant is one number, or one per channel of an NCHW tensor."""
    return constant.size == 1 or (constant.ndim in (3, 4) and constant.size == constant.shape[-3])


def _as_channels(constant: npt.NDArray[np.generic]) -> FloatVector:
    return constant.astype(np.float64).reshape(1, -1, 1, 1)


def _pads_with_zero(graph: Graph, node: onnx.NodeProto) -> bool:
    if attribute(node, "mode", b"constant") != b"constant" or len(node.input) > 3:
        return False
    value = graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    pads = graph.constants.get(node.input[1])
    if value is None or pads is None or np.any(value != 0) or len(pads) != 8:
        return False
    return not np.any(pads[[0, 1, 4, 5]])


def _channel_slice(graph: Graph, node: onnx.NodeProto) -> int | None:
    """First channel of a Slice that cuts channels only, with step 1; None for any other."""
    parts = [graph.constants.get(name) for name in node.input[1:] if name]
    if len(parts) < 3 or any(part is None or part.size != 1 for part in parts):
        return None
    numbers = [int(part.reshape(-1)[0]) for part in parts if part is not None]
    start, axis, step = numbers[0], numbers[2], numbers[3] if len(numbers) > 3 else 1
    return start if axis == 1 and step == 1 and start >= 0 else None

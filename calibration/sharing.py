"""Where Q/DQ pairs stand: as far up as integers can be carried, so that the layer above writes them itself.

A pair in front of a layer makes the backend convert the tensor in a step of its own wherever something lies between
the layer above and this one. Operators that only move values (concatenation, slices, reshapes) give the same integers
whether they run before or after the conversion, so the pair may stand in front of them, as long as everything they feed
is quantised too. Tensors that meet in one of them then need one grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from calibration.graph import Graph
from calibration.observers import Range
from calibration.placement import Placement

# Never AveragePool: see docs/calibration.md for what OpenVINO makes of a padded one that reads integers. Nor Pad:
# OpenVINO pads no integers whose zero-point is not 0 and would run everything from there on in float. Nor MaxPool,
# which would be allowed: its integer kernels are slower than its float ones.
_MOVING = {"Concat", "Slice", "Split", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"}


@dataclass(frozen=True)
class Pairs:
    """The tensors that get a pair, and what reads the pair instead of the tensor.

    Attributes:
        ranges: range of every tensor that gets a pair, in graph order.
        movers: names of the nodes that pass integers on: they read pairs, and what reads them needs none.
        carried: range of every activation of the placement that a mover writes: that of the pairs above it.
    """

    ranges: dict[str, Range]
    movers: frozenset[str]
    carried: dict[str, Range]


def pairs(graph: Graph, placement: Placement, ranges: Mapping[str, Range]) -> Pairs:
    """Decide where pairs stand.

    Args:
        graph: float graph.
        placement: the layers that run in int8.
        ranges: range of every activation of the placement.
    """
    layers = {layer.node: layer.activation for layer in placement.layers}
    order = {node.name: position for position, node in enumerate(graph.model.graph.node)}
    movers = _movers(graph, layers)
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while group.get(name, name) != name:
            name = group[name]
        return name

    points: list[str] = []

    def place_pair(name: str, joined: str) -> None:
        """A pair for what `name` carries, on it or further up; `joined` is a tensor of the same grid."""
        group[root(name)] = root(joined)
        producer = graph.producers.get(name)
        if producer is None or producer.name not in movers:
            if name not in points:
                points.append(name)
            return
        for source in _sources(producer):
            place_pair(source, joined)

    for name in placement.activations:
        place_pair(name, name)
    extents: dict[str, Range] = {}
    for name in placement.activations:
        known = extents.get(root(name), ranges[name])
        extents[root(name)] = Range(min(known.low, ranges[name].low), max(known.high, ranges[name].high))
    ordered = sorted(points, key=lambda name: order[graph.producers[name].name] if name in graph.producers else -1)
    carried = {name: extents[root(name)] for name in placement.activations if name not in points}
    return Pairs({name: extents[root(name)] for name in ordered}, frozenset(movers), carried)


def _movers(graph: Graph, layers: Mapping[str, str]) -> set[str]:
    """Nodes that only move values, and everything they feed is a layer or another of them."""
    movers: set[str] = set()
    for node in reversed(graph.model.graph.node):
        if not _moves(graph, node):
            continue
        fed = [(consumer, name) for name in node.output if name for consumer, _ in graph.consumers.get(name, ())]
        if any(name in graph.outputs for name in node.output) or not fed:
            continue
        if all(layers.get(consumer.name) == name or consumer.name in movers for consumer, name in fed):
            movers.add(node.name)
    return movers


def _moves(graph: Graph, node: onnx.NodeProto) -> bool:
    return node.op_type in _MOVING and not any(name in graph.constants for name in _sources(node))


def _sources(node: onnx.NodeProto) -> list[str]:
    """The inputs whose values a moving node hands on."""
    return list(node.input) if node.op_type == "Concat" else [node.input[0]]

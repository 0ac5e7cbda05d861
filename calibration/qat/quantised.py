"""The Q/DQ model that `calibration.render` writes as a torch module that can be trained, and the way back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from torch import Tensor

from calibration.graph import Graph
from calibration.observers import Range
from calibration.placement import Layer, Placement
from calibration.qat.call import Call, Operator
from calibration.qat.fake_quant import fake_activation, fake_weight, stretched_scale
from calibration.qat.module import GraphModule, steps_of, trainable_constants
from calibration.render import BackendName, Grid, activation_grid
from calibration.sharing import pairs

STRETCH = "stretch/"


def quantised_module(
    graph: Graph, placement: Placement, rendered: onnx.ModelProto, backend: BackendName
) -> GraphModule:
    """The rendered model with float weights under it, so that gradients reach them.

    Pairs stand where the rendered model has them and start with its ranges, which can be stretched. A weight is rounded
    anew in every run, as `render` will round it. Biases start as the rendered model has them, that is corrected.

    Args:
        graph: the float graph that was rendered.
        placement: the layers that were wrapped.
        rendered: what `calibration.render.render` made of them.
        backend: whose form that is.

    Raises:
        ModelError: an operator is not known, or the operator set is too old.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in rendered.graph.initializer}
    weights = _weight_nodes(placement, rendered)
    own: dict[str, Operator] = {}
    grids: dict[str, Grid] = {}
    for node in rendered.graph.node:
        if node.name in weights:
            own[node.name] = _weight_rounding(weights[node.name].axis, backend)
        elif node.op_type == "QuantizeLinear":
            grids[node.name] = _grid(constants[node.input[1]], constants[node.input[2]])
            own[node.name] = _rounding(grids[node.name])
        elif node.op_type == "DequantizeLinear":
            own[node.name] = _identity
    adapted = onnx.ModelProto()
    adapted.CopyFrom(rendered)
    for node in adapted.graph.node:
        if node.name in weights:
            node.input[0] = weights[node.name].weight
            constants[node.input[0]] = graph.constants[node.input[0]]
        elif node.name in grids:
            node.input[1] = stretch_name(grids[node.name])
            constants[node.input[1]] = np.zeros((), np.float32)
    weights_and_biases = [name for name in trainable_constants(graph) if name in constants]
    weights_and_biases += _new_biases(graph, placement, rendered)
    stretches = dict.fromkeys(stretch_name(grid) for grid in grids.values())
    return GraphModule(steps_of(adapted, own), constants, [*weights_and_biases, *stretches])


def stretch_name(grid: Grid) -> str:
    """Name of the parameter that stretches a grid.

    Pairs with the same grid have one: those that meet in a concatenation have to keep a grid in common, and for others
    it is chance.
    """
    return f"{STRETCH}{grid.scale!r}/{grid.zero_point}"


def trained_ranges(
    graph: Graph, placement: Placement, ranges: Mapping[str, Range], module: GraphModule, backend: BackendName
) -> dict[str, Range]:
    """The ranges, as the pairs of the module have them now."""
    placed = pairs(graph, placement, ranges)
    trained = {}
    for name, extent in ranges.items():
        joined = placed.ranges.get(name) or placed.carried.get(name) or extent
        grid = activation_grid(joined, backend)
        stretch = module.trainable.get(stretch_name(grid))
        trained[name] = joined if stretch is None else _stretched(joined, grid, stretch.detach())
    return trained


def _stretched(extent: Range, grid: Grid, stretch: Tensor) -> Range:
    factor = math.exp(float(stretch))
    low, high = extent.low * factor, extent.high * factor
    if not grid.signed:
        return Range(low, high)
    # The wider end decides, and its scale has been rounded to half precision: rounding again must not change it.
    end = 127.0 * float(stretched_scale(grid, stretch))
    return Range(-end if -low >= high else low, end if high >= -low else high)


def trained_graph(graph: Graph, placement: Placement, rendered: onnx.ModelProto, module: GraphModule) -> Graph:
    """A copy of the float graph with the weights and biases of its trained `quantised_module`.

    Rendered with the same placement, its `trained_ranges` and no bias correction, it computes what the module does.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    biases = _new_biases(graph, placement, rendered)
    nodes = {node.name: node for node in model.graph.node}
    for name, node in biases.items():
        del nodes[node].input[2:]
        nodes[node].input.append(name)
    trained = Graph(model)
    for name, parameter in module.trainable.items():
        if not name.startswith(STRETCH):
            trained.set_constant(name, parameter.detach().numpy())
    trained.reindex()
    return trained


def _weight_nodes(placement: Placement, rendered: onnx.ModelProto) -> dict[str, Layer]:
    """By name, the nodes that dequantise a weight, and a layer that reads it."""
    makers = {name: node for node in rendered.graph.node for name in node.output}
    readers = {node.name: node for node in rendered.graph.node}
    return {makers[readers[layer.node].input[1]].name: layer for layer in placement.layers}


def _new_biases(graph: Graph, placement: Placement, rendered: onnx.ModelProto) -> dict[str, str]:
    """By name, the biases that rendering made, and the node of each."""
    layers = {layer.node for layer in placement.layers}
    return {
        node.input[2]: node.name
        for node in rendered.graph.node
        if node.name in layers and len(node.input) > 2 and node.input[2] and node.input[2] not in graph.constants
    }


def _grid(scale: npt.NDArray[np.generic], zero: npt.NDArray[np.generic]) -> Grid:
    return Grid(float(scale), int(zero), signed=zero.dtype == np.int8)


def _rounding(grid: Grid) -> Operator:
    return lambda call: fake_activation(call[0], grid, call[1])


def _weight_rounding(axis: int, backend: BackendName) -> Operator:
    return lambda call: fake_weight(call[0], axis, backend)


def _identity(call: Call) -> Tensor:
    return call[0]

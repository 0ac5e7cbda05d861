"""The Q/DQ model that `calibration.render` writes as a torch module that can be trained, and the way back."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from torch import Tensor

from calibration.graph import Graph
from calibration.placement import Layer, Placement
from calibration.qat.call import Call, Operator
from calibration.qat.fake_quant import fake_activation, fake_weight
from calibration.qat.module import GraphModule, steps_of, trainable_constants
from calibration.render import BackendName, Grid


def quantised_module(
    graph: Graph, placement: Placement, rendered: onnx.ModelProto, backend: BackendName
) -> GraphModule:
    """The rendered model with float weights under it, so that gradients reach them.

    Pairs stand where the rendered model has them and have its scales; a weight is rounded anew in every run, as
    `render` will round it. Biases start as the rendered model has them, that is corrected.

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
    for node in rendered.graph.node:
        if node.name in weights:
            own[node.name] = _weight_rounding(weights[node.name].axis, backend)
        elif node.op_type == "QuantizeLinear":
            zero = constants[node.input[2]]
            own[node.name] = _rounding(Grid(float(constants[node.input[1]]), int(zero), signed=zero.dtype == np.int8))
        elif node.op_type == "DequantizeLinear":
            own[node.name] = _identity
    adapted = onnx.ModelProto()
    adapted.CopyFrom(rendered)
    for node in adapted.graph.node:
        if node.name in weights:
            node.input[0] = weights[node.name].weight
            constants[node.input[0]] = graph.constants[node.input[0]]
    trainable = [name for name in trainable_constants(graph) if name in constants]
    return GraphModule(steps_of(adapted, own), constants, [*trainable, *_new_biases(graph, placement, rendered)])


def trained_graph(graph: Graph, placement: Placement, rendered: onnx.ModelProto, module: GraphModule) -> Graph:
    """A copy of the float graph with the weights and biases of its trained `quantised_module`.

    Rendered with the same placement and ranges, and with no bias correction, it computes what the module does.
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


def _rounding(grid: Grid) -> Operator:
    return lambda call: fake_activation(call[0], grid)


def _weight_rounding(axis: int, backend: BackendName) -> Operator:
    return lambda call: fake_weight(call[0], axis, backend)


def _identity(call: Call) -> Tensor:
    return call[0]

"""An ONNX graph as a torch module: its nodes one by one, differentiable, on the CPU."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from calibration.graph import Graph
from calibration.placement import weight_slot
from calibration.qat.arithmetic import ARITHMETIC
from calibration.qat.call import Call, Operator
from calibration.qat.indexing import INDEXING
from calibration.qat.windows import WINDOWS
from edgedet import ModelError

OPERATORS: dict[str, Operator] = {**ARITHMETIC, **INDEXING, **WINDOWS}
_OLDEST_OPSET = 13  # before it Softmax means something else


@dataclass(frozen=True)
class Step:
    """One node: what runs, what it reads and writes."""

    name: str
    kind: str
    attributes: Mapping[str, Any]
    run: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class GraphModule(nn.Module):
    """Runs steps in their order.

    Args:
        steps: in execution order.
        constants: every constant that a step reads, by name.
        trainable: names of the float constants that are parameters; the others never change.
    """

    def __init__(
        self, steps: Sequence[Step], constants: Mapping[str, npt.NDArray[np.generic]], trainable: Sequence[str]
    ) -> None:
        super().__init__()
        self._steps = tuple(steps)
        self._names = tuple(trainable)
        self.weights = nn.ParameterList(nn.Parameter(_tensor(constants[name])) for name in trainable)
        learnt = set(trainable)
        self._fixed = {name: _tensor(value) for name, value in constants.items() if name not in learnt}

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters, by the name of the constant."""
        return dict(zip(self._names, self.weights, strict=True))

    def forward(
        self, feed: Mapping[str, Tensor], wanted: Sequence[str], *, selected: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Values of the `wanted` tensors.

        Args:
            feed: inputs of the graph by name.
            wanted: names of tensors; what they do not need is not computed.
            selected: by the name of a TopK's second output, the indices it is to give; its values are then the input
                there. This pairs the queries of two networks slot by slot.

        Raises:
            ModelError: a tensor cannot be computed from the feed, or a form of an operator is not covered.
        """
        values: dict[str, Tensor] = {**self._fixed, **self.trainable, **feed}
        steps = self._needed(wanted, values.keys())
        last = {name: at for at, step in enumerate(steps) for name in step.inputs}
        for at, step in enumerate(steps):
            inputs = [values[name] if name else None for name in step.inputs]
            call = Call(step.name, step.kind, step.attributes, inputs, len(step.outputs))
            if selected and step.kind == "TopK" and step.outputs[1] in selected:
                index = selected[step.outputs[1]]
                results: tuple[Tensor, ...] = (call[0].gather(call.get("axis", -1), index), index)
            else:
                made = step.run(call)
                results = made if isinstance(made, tuple) else (made,)
            values.update(zip(step.outputs, results, strict=False))
            for name in (*step.inputs, *step.outputs):
                if last.get(name, at) == at and name not in wanted:
                    values.pop(name, None)
        return {name: values[name] for name in wanted}

    def _needed(self, wanted: Sequence[str], known: Collection[str]) -> list[Step]:
        """The steps that lead to `wanted`."""
        missing = set(wanted)
        steps = []
        for step in reversed(self._steps):
            if missing.intersection(step.outputs):
                missing.difference_update(step.outputs)
                missing.update(name for name in step.inputs if name)
                steps.append(step)
        if absent := sorted(missing.difference(known)):
            raise ModelError(f"expected tensors of the graph or its feed, got {', '.join(absent)}")
        return steps[::-1]


def float_module(graph: Graph) -> GraphModule:
    """A prepared graph as it is. Weights and biases of layers are parameters.

    Raises:
        ModelError: an operator is not known, or the operator set is too old.
    """
    return GraphModule(steps_of(graph.model), graph.constants, trainable_constants(graph))


def steps_of(model: onnx.ModelProto, own: Mapping[str, Operator] | None = None) -> list[Step]:
    """The nodes of a model as steps.

    Args:
        model: operator set 13 or newer.
        own: by node name, what runs instead of the operator.

    Raises:
        ModelError: an operator is not known, or the operator set is too old.
    """
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < _OLDEST_OPSET:
        raise ModelError(f"expected ONNX operator set {_OLDEST_OPSET} or newer, got {version}; export the model again")
    own = own or {}
    unknown = {node.op_type for node in model.graph.node if node.name not in own and node.op_type not in OPERATORS}
    if unknown:
        raise ModelError(
            f"expected operators that can be fine-tuned, got {', '.join(sorted(unknown))}; "
            "quantise this model without fine-tuning"
        )
    return [_step(node, own.get(node.name) or OPERATORS[node.op_type]) for node in model.graph.node]


def trainable_constants(graph: Graph) -> list[str]:
    """Names of the weights and biases of layers, in a fixed order; a MatMul's bias is the Add behind it.

    A constant that is read in any other role as well is not among them.
    """
    slots: set[tuple[str, int]] = set()
    for node in graph.model.graph.node:
        if weight_slot(graph, node) is None:
            continue
        slots.update((node.name, slot) for slot in range(1, len(node.input)))
        if node.op_type == "MatMul":
            for reader, slot in graph.consumers.get(node.output[0], ()):
                other = reader.input[1 - slot] if reader.op_type == "Add" else ""
                if other in graph.constants and graph.constants[other].ndim == 1:
                    slots.add((reader.name, 1 - slot))
    return [
        name
        for name, value in graph.constants.items()
        if value.dtype == np.float32
        and name in graph.consumers
        and all((node.name, slot) in slots for node, slot in graph.consumers[name])
    ]


def _step(node: onnx.NodeProto, run: Operator) -> Step:
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    for name, value in attributes.items():
        if isinstance(value, bytes):
            attributes[name] = value.decode("utf-8", "replace")
    return Step(node.name, node.op_type, attributes, run, tuple(node.input), tuple(node.output))


def _tensor(value: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(value.copy())

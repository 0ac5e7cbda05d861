"""Write a float graph with explicit types: half precision in named nodes, float32 in all others, casts in between."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from calibration.graph import Graph
from edgedet import ModelError

# The element type of half precision.
HALF = TensorProto.FLOAT16
# Largest finite number of half precision, and the smallest that keeps all its digits.
LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
# First opset whose QuantizeLinear and DequantizeLinear take half precision.
HALF_QDQ_OPSET = 19


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, as shape inference finds it.

    Raises:
        ModelError: a tensor has no type that can be found.
    """
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    graph = inferred.graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.input, *graph.output]}
    types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    unknown = [name for node in graph.node for name in node.output if name and not types.get(name)]
    if unknown:
        raise ModelError(f"expected tensors whose type can be inferred, got '{unknown[0]}'; export the model again")
    return types


def typed_slots(node: onnx.NodeProto, opset: int) -> tuple[list[int], list[int]]:
    """Slots of a node's inputs and outputs whose type is a variable that may be half precision, by the ONNX schema.

    Fixed types (the scales of Resize) and integers are not among them.
    """
    inputs, outputs = _schema_slots(node.op_type, opset)
    given = [slot for slot, name in enumerate(node.input) if name and inputs[min(slot, len(inputs) - 1)]]
    made = [slot for slot, name in enumerate(node.output) if name and outputs[min(slot, len(outputs) - 1)]]
    return given, made


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators of a model."""
    return max(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def to_half(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float16]:
    """Round to half precision; finite numbers beyond its range become the largest it has, not infinity."""
    finite = np.isfinite(values)
    bounded = np.where(finite, np.clip(values, -LARGEST, LARGEST), values)
    return bounded.astype(np.float16)


def write_typed(graph: Graph, half: Collection[str]) -> onnx.ModelProto:
    """Copy of a float model in which the nodes named in `half` read and write float16.

    Constants are converted, never cast. An activation is cast where a node of the other precision reads it, once per
    tensor, straight from its source where that is an integer. Inputs and outputs of the model keep their types. A node
    that only looks at a tensor's shape, or casts it, takes it as it is.

    Args:
        graph: float32 graph.
        half: names of nodes.
    """
    writer = _Writer(graph, set(half))
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    nodes = list(writer.nodes())
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(writer.constants.values())
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer:
    def __init__(self, graph: Graph, half: set[str]) -> None:
        self._graph = graph
        self._half = half
        self._opset = opset_of(graph.model)
        self._types = element_types(graph.model)
        # What the tensor of a float name really holds: differs from the source graph where a half node writes it.
        self._held: dict[str, tuple[str, int]] = {}
        self.constants: dict[str, onnx.TensorProto] = {}
        self._made: set[str] = set()

    def nodes(self) -> Iterator[onnx.NodeProto]:
        for source in self._graph.model.graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(source)
            given, made = typed_slots(node, self._opset)
            wanted = TensorProto.FLOAT16 if node.name in self._half else TensorProto.FLOAT
            takes_anything = node.op_type in ("Cast", "Shape", "Size")
            for slot, name in enumerate(source.input):
                if not name:
                    continue
                if self._types[name] != TensorProto.FLOAT:
                    self._keep(name)
                elif takes_anything:
                    node.input[slot] = self._as_is(name)
                else:
                    yield from self._read(node, slot, name, wanted if slot in given else TensorProto.FLOAT)
            late = []
            for slot in made:
                name = source.output[slot]
                if self._types[name] != TensorProto.FLOAT or wanted == TensorProto.FLOAT:
                    continue
                if node.op_type == "Cast":
                    next(entry for entry in node.attribute if entry.name == "to").i = TensorProto.FLOAT16
                held = f"{name}/half" if name in self._graph.outputs else name
                node.output[slot] = held
                self._held[name] = (held, TensorProto.FLOAT16)
                if held != name:
                    late.append(_cast(held, name, TensorProto.FLOAT))
            yield node
            yield from late

    def _read(self, node: onnx.NodeProto, slot: int, name: str, wanted: int) -> Iterator[onnx.NodeProto]:
        """Have `node` read `name` in the type it wants; yields the cast where there is none yet."""
        if name in self._graph.constants:
            node.input[slot] = self._constant(name, wanted)
            return
        held, kind = self._held.get(name, (name, TensorProto.FLOAT))
        if kind == wanted:
            node.input[slot] = held
            return
        if name in self._graph.outputs and wanted == TensorProto.FLOAT:
            node.input[slot] = name  # the cast that makes the output
            return
        target = f"{name}/{'half' if wanted == TensorProto.FLOAT16 else 'float'}"
        node.input[slot] = target
        if target not in self._made:
            self._made.add(target)
            producer = self._graph.producers.get(name)
            if producer is not None and producer.op_type == "Cast":
                held = self._as_is(producer.input[0])
            yield _cast(held, target, wanted)

    def _as_is(self, name: str) -> str:
        if name in self._graph.constants:
            self._keep(name)
            return name
        return self._held.get(name, (name, 0))[0]

    def _constant(self, name: str, wanted: int) -> str:
        if wanted == TensorProto.FLOAT:
            self._keep(name)
            return name
        target = f"{name}/half"
        self.constants.setdefault(target, numpy_helper.from_array(to_half(self._graph.constants[name]), target))
        return target

    def _keep(self, name: str) -> None:
        """Keep a constant as it is."""
        if name in self._graph.constants and name not in self.constants:
            self.constants[name] = numpy_helper.from_array(self._graph.constants[name], name)


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], f"{target}/Cast", to=to)


@cache
def _schema_slots(kind: str, opset: int) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Per formal input and output, whether its type variable allows half precision."""
    schema = onnx.defs.get_schema(kind, opset)
    variables = {
        entry.type_param_str: "tensor(float16)" in entry.allowed_type_strs for entry in schema.type_constraints
    }
    return (
        tuple(variables.get(entry.type_str, False) for entry in schema.inputs),
        tuple(variables.get(entry.type_str, False) for entry in schema.outputs),
    )

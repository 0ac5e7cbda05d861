"""Read, check and simplify the float ONNX graph that is going to be quantised."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

from edgedet import ModelError

FloatArray = npt.NDArray[np.float32]

# These turn Conv/MatMul + Add into forms that hide the layer a rule wants to see (Gemm between two Reshapes) or that
# other backends do not know; everything else at the "basic" level keeps to standard operators.
_DISABLED_OPTIMIZERS = ["MatMulAddFusion", "GemmActivationFusion", "QDQPropagationTransformer"]


@dataclass
class Graph:
    """An ONNX model with the two indexes every pass needs: who makes a tensor, and who reads it.

    Attributes:
        model: the model; passes edit `model.graph` and then call `reindex`.
        constants: initializer name to array.
        producers: tensor name to the node that writes it.
        consumers: tensor name to the (node, input slot) pairs that read it.
        outputs: names of the graph outputs.
    """

    model: onnx.ModelProto
    constants: dict[str, npt.NDArray[np.generic]] = field(init=False)
    producers: dict[str, onnx.NodeProto] = field(init=False)
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = field(init=False)
    outputs: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Build the indexes."""
        self.reindex()

    def reindex(self) -> None:
        """Recompute the indexes after nodes or initializers changed."""
        graph = self.model.graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.consumers = {}
        for node in graph.node:
            for slot, name in enumerate(node.input):
                if name:
                    self.consumers.setdefault(name, []).append((node, slot))
        self.outputs = tuple(value.name for value in graph.output)

    def set_constant(self, name: str, value: npt.NDArray[np.generic]) -> None:
        """Add or replace an initializer (the array is copied)."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        for position, existing in enumerate(self.model.graph.initializer):
            if existing.name == name:
                self.model.graph.initializer[position].CopyFrom(tensor)
                break
        else:
            self.model.graph.initializer.append(tensor)
        self.constants[name] = numpy_helper.to_array(tensor)


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """Value of a node's attribute, or `default` where the node does not carry it."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and refuse what cannot be quantised.

    Raises:
        ModelError: the file is not an ONNX model, holds NaN or infinite weights, or is quantised already.
    """
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as cause:  # protobuf and the checker raise unrelated types
        raise ModelError(f"{path}: expected a valid ONNX model, got: {_first_line(cause)}; export it again") from cause
    for tensor in _all_constants(model):
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
            values = numpy_helper.to_array(tensor)
            # Masks legitimately hold -inf; a weight that multiplies does not.
            if np.isnan(values).any() or (values.size > 1 and not _is_mask(values) and np.isinf(values).any()):
                raise ModelError(
                    f"{path}: expected finite weights, got NaN or infinity in '{tensor.name}'; "
                    "the checkpoint is broken, quantising cannot repair it"
                )
    if any(node.op_type in ("QuantizeLinear", "FakeQuantize") for node in model.graph.node):
        raise ModelError(
            f"{path}: expected a float model, got one that is quantised already; start from the float ONNX"
        )
    return model


def prepare(model: onnx.ModelProto) -> Graph:
    """Fold constants and BatchNorm, drop no-ops and give every node a name. The function computed stays the same.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "prepared.onnx"
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_DISABLED_OPTIMIZERS,
            )
        except Exception as cause:  # onnxruntime has one exception type per status code
            raise ModelError(f"onnxruntime cannot load the float model: {_first_line(cause)}") from cause
        prepared = onnx.load(str(target))
    known = {"", "ai.onnx"}
    foreign = sorted({f"{node.domain}:{node.op_type}" for node in prepared.graph.node if node.domain not in known})
    if foreign:
        raise ModelError(f"expected standard ONNX operators, got {', '.join(foreign)}; export without custom operators")
    kept = [entry for entry in prepared.opset_import if entry.domain in known]
    del prepared.opset_import[:]
    prepared.opset_import.extend(kept)
    constants_to_initializers(prepared)
    _name_nodes(prepared)
    del prepared.graph.value_info[:]
    return Graph(prepared)


def static_shapes(model: onnx.ModelProto, *, batch: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that shape inference can settle once the batch axis is fixed to `batch`."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_value = batch
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes: dict[str, tuple[int, ...]] = {}
    for value in [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]:
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return shapes


def _all_constants(model: onnx.ModelProto) -> Iterable[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        if node.op_type == "Constant":
            for entry in node.attribute:
                if entry.name == "value":
                    yield entry.t


def _is_mask(values: npt.NDArray[np.generic]) -> bool:
    return bool(np.isin(values[np.isinf(values)], (-np.inf,)).all() and (np.isinf(values) | (values == 0)).all())


def constants_to_initializers(model: onnx.ModelProto) -> None:
    """Write Constant nodes as initializers. In place."""
    kept = []
    for node in model.graph.node:
        value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _name_nodes(model: onnx.ModelProto) -> None:
    seen: set[str] = set()
    for position, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{position}"
        seen.add(node.name)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

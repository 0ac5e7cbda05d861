"""Run a model of half precision on a CPU as a GPU would: tensors rounded to float16, operators inside in float32.

onnxruntime accepts float16 on a CPU, but where it has no kernel, which is almost everywhere, it inserts casts and then
drops those that meet: it computes in float32 from end to end and shows nothing of the rounding.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from calibration.typed import element_types

# Their results are values they were given, which are rounded already.
_EXACT = {
    *("Reshape", "Transpose", "Slice", "Split", "Concat", "Gather", "GatherND", "GatherElements", "Unsqueeze"),
    *("Squeeze", "Flatten", "Expand", "Tile", "Pad", "Identity", "Relu", "Clip", "Max", "Min", "MaxPool", "Neg", "Abs"),
    *("ReduceMax", "ReduceMin", "TopK", "Where"),
}


def emulate(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 model that computes what a typed one does: float16 tensors become float32 ones, rounded to float16.

    Sums inside an operator are exact to float32, as they are in TensorRT's kernels, which accumulate half precision in
    float32.
    """
    types = element_types(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for source in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        rounded = {slot for slot, name in enumerate(source.output) if types.get(name) == TensorProto.FLOAT16}
        if node.op_type == "Cast" and rounded:
            next(entry for entry in node.attribute if entry.name == "to").i = TensorProto.FLOAT
        elif node.op_type in _EXACT:
            rounded = set()
        nodes.append(node)
        for slot in sorted(rounded):
            name = source.output[slot]
            node.output[slot] = f"{name}/exact"
            nodes.append(onnx.helper.make_node("Cast", [f"{name}/exact"], [f"{name}/f16"], to=TensorProto.FLOAT16))
            nodes.append(onnx.helper.make_node("Cast", [f"{name}/f16"], [name], to=TensorProto.FLOAT))
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    for tensor in result.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return result

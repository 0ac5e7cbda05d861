"""ONNX operators that move, pick and shape values, and those that compute shapes."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor

from calibration.qat.call import Call, Operator

_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


def _cast(call: Call) -> Tensor:
    call.expect(call.attributes["to"] in _TYPES, "a cast to float32, float64, int32, int64 or bool")
    return call[0].to(_TYPES[call.attributes["to"]])


def _required(call: Call, slot: int, attribute: str | None = None) -> list[int]:
    found = call.integers(slot, attribute)
    call.expect(found is not None, f"integers as input {slot}")
    assert found is not None
    return found


def _shape(call: Call) -> Tensor:
    sizes = list(call[0].shape)
    return torch.tensor(sizes[call.get("start", 0) : call.get("end", len(sizes))], dtype=torch.int64)


def _reshape(call: Call) -> Tensor:
    sizes = _required(call, 1)
    if not call.get("allowzero", 0):
        sizes = [call[0].shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return call[0].reshape(sizes)


def _flatten(call: Call) -> Tensor:
    axis = call.get("axis", 1)
    rows = int(torch.tensor(call[0].shape[:axis]).prod())
    return call[0].reshape(rows, -1)


def _transpose(call: Call) -> Tensor:
    return call[0].permute(call.get("perm", list(reversed(range(call[0].ndim)))))


def _unsqueeze(call: Call) -> Tensor:
    axes = _required(call, 1, "axes")
    rank = call[0].ndim + len(axes)
    value = call[0]
    for axis in sorted(axis % rank for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _squeeze(call: Call) -> Tensor:
    axes = call.integers(1, "axes")
    return call[0].squeeze() if axes is None else call[0].squeeze(tuple(axes))


def _slice(call: Call) -> Tensor:
    starts, ends = _required(call, 1), _required(call, 2)
    axes = call.integers(3) or list(range(len(starts)))
    steps = call.integers(4) or [1] * len(starts)
    value = call[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            cut = (*[slice(None)] * (axis % value.ndim), slice(start, end, step))
            value = value[cut]
        else:  # torch has no negative steps
            chosen = range(*slice(start, end, step).indices(value.shape[axis]))
            value = value.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
    return value


def _split(call: Call) -> tuple[Tensor, ...]:
    axis: int = call.get("axis", 0)
    sizes = call.integers(1, "split")
    if sizes is not None:
        return torch.split(call[0], sizes, axis)
    return torch.split(call[0], -(-call[0].shape[axis] // call.outputs), axis)


def _concat(call: Call) -> Tensor:
    return torch.cat([call[slot] for slot in range(len(call.inputs))], call.attributes["axis"])


def _expand(call: Call) -> Tensor:
    # Both sides broadcast: a 1 in the wanted shape keeps the size of the input.
    return call[0].broadcast_to(torch.broadcast_shapes(call[0].shape, _required(call, 1)))


def _constant_of_shape(call: Call) -> Tensor:
    value = call.get("value", None)
    filled = torch.zeros(1) if value is None else torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
    return filled.reshape(()).expand(_required(call, 0)).clone()


def _range(call: Call) -> Tensor:
    return torch.arange(call[0].item(), call[1].item(), call[2].item(), dtype=call[0].dtype)


def _counted(index: Tensor, size: int) -> Tensor:
    """Indices from 0; ONNX counts negative ones from the end."""
    return torch.where(index < 0, index + size, index)


def _gather(call: Call) -> Tensor:
    axis = call.get("axis", 0) % call[0].ndim
    index = _counted(call[1].long(), call[0].shape[axis])
    picked = call[0].index_select(axis, index.reshape(-1))
    return picked.reshape((*call[0].shape[:axis], *index.shape, *call[0].shape[axis + 1 :]))


def _gather_elements(call: Call) -> Tensor:
    axis = call.get("axis", 0)
    return call[0].gather(axis, _counted(call[1].long(), call[0].shape[axis]))


def _gather_nd(call: Call) -> Tensor:
    value, index, batch = call[0], call[1].long(), call.get("batch_dims", 0)
    depth = index.shape[-1]
    leading = [
        torch.arange(value.shape[axis]).reshape([-1 if at == axis else 1 for at in range(index.ndim - 1)])
        for axis in range(batch)
    ]
    picks = [_counted(index[..., at], value.shape[batch + at]) for at in range(depth)]
    where = (*leading, *picks)
    return value[where]


def _top_k(call: Call) -> tuple[Tensor, Tensor]:
    axis, count = call.get("axis", -1), int(call[1].item())
    # A stable sort, because ONNX takes the lower index of two equal values and torch.topk takes any.
    values, index = call[0].sort(dim=axis, descending=bool(call.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), index.narrow(axis, 0, count)


INDEXING: dict[str, Operator] = {
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda call: call[0].repeat(_required(call, 1)),
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

"""ONNX operators that compute element by element, reduce, or multiply matrices."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.qat.call import Call, Operator


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda call: function(call[0])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda call: function(call[0], call[1])


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda call: functools.reduce(function, [call[slot] for slot in range(len(call.inputs))])


def _divide(call: Call) -> Tensor:
    # ONNX divides integers like C, towards zero.
    return torch.div(call[0], call[1], rounding_mode=None if call[0].is_floating_point() else "trunc")


def _clip(call: Call) -> Tensor:
    low, high = call.optional(1), call.optional(2)
    return call[0].clamp(min=low, max=high) if low is not None or high is not None else call[0]


def _mod(call: Call) -> Tensor:
    return torch.fmod(call[0], call[1]) if call.get("fmod", 0) else torch.remainder(call[0], call[1])


def _axes(call: Call) -> list[int]:
    found = call.integers(1, "axes")
    if found:
        return found
    return [] if call.get("noop_with_empty_axes", 0) else list(range(call[0].ndim))


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def run(call: Call) -> Tensor:
        axes = _axes(call)
        return function(call[0], axes, bool(call.get("keepdims", 1))) if axes else call[0]

    return run


def _arg_max(call: Call) -> Tensor:
    call.expect(not call.get("select_last_index", 0), "the first of equal maxima")
    return call[0].argmax(dim=call.get("axis", 0), keepdim=bool(call.get("keepdims", 1)))


def _gemm(call: Call) -> Tensor:
    left = call[0].T if call.get("transA", 0) else call[0]
    right = call[1].T if call.get("transB", 0) else call[1]
    alpha, beta = float(call.get("alpha", 1.0)), float(call.get("beta", 1.0))
    added = call.optional(2)
    return left @ right * alpha if added is None else left @ right * alpha + beta * added


def _einsum(call: Call) -> Tensor:
    return torch.einsum(call.attributes["equation"], *[call[slot] for slot in range(len(call.inputs))])


def _layer_norm(call: Call) -> Tensor:
    axis = call.get("axis", -1) % call[0].ndim
    return F.layer_norm(call[0], call[0].shape[axis:], call[1], call.optional(2), call.get("epsilon", 1e-5))


def _batch_norm(call: Call) -> Tensor:
    return F.batch_norm(call[0], call[3], call[4], call[1], call[2], eps=call.get("epsilon", 1e-5))


def _gelu(call: Call) -> Tensor:
    return F.gelu(call[0], approximate=call.get("approximate", "none"))


def _hard_sigmoid(call: Call) -> Tensor:
    alpha, beta = float(call.get("alpha", 0.2)), float(call.get("beta", 0.5))
    return (call[0] * alpha + beta).clamp(0.0, 1.0)


ARITHMETIC: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Ceil": _unary(torch.ceil),
    "Cos": _unary(torch.cos),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda value: value),
    "Log": _unary(torch.log),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Sigmoid": _unary(torch.sigmoid),
    "Sin": _unary(torch.sin),
    "Softplus": _unary(F.softplus),
    "Sqrt": _unary(torch.sqrt),
    "Tanh": _unary(torch.tanh),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Div": _divide,
    "Equal": _binary(torch.eq),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "MatMul": _binary(torch.matmul),
    "Mod": _mod,
    "Mul": _binary(torch.mul),
    "Or": _binary(torch.logical_or),
    "Pow": _binary(lambda base, exponent: torch.pow(base, exponent).to(base.dtype)),
    "Sub": _binary(torch.sub),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Sum": _variadic(torch.add),
    "ArgMax": _arg_max,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Einsum": _einsum,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda call: F.leaky_relu(call[0], call.get("alpha", 0.01)),
    "LogSoftmax": lambda call: call[0].log_softmax(call.get("axis", -1)),
    "ReduceMax": _reduction(lambda value, axes, keep: value.amax(axes, keep)),
    "ReduceMean": _reduction(lambda value, axes, keep: value.mean(axes, keep)),
    "ReduceMin": _reduction(lambda value, axes, keep: value.amin(axes, keep)),
    "ReduceSum": _reduction(lambda value, axes, keep: value.sum(axes, keep)),
    "Softmax": lambda call: call[0].softmax(call.get("axis", -1)),
    "Where": lambda call: torch.where(call[0], call[1], call[2]),
}

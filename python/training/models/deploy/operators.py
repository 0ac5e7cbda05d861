"""Operators in the spelling that inference engines run fastest, for any of which the opset has several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.models.layers import RMSNorm


class _GatherRows(torch.autograd.Function):
    """Rows of a table by index, each batch element from its own table: one ONNX GatherND."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        """Table (B, N, D), index (B, M) to (B, M, D)."""
        return table.gather(1, index.unsqueeze(-1).expand(-1, -1, table.shape[-1]))

    @staticmethod
    def symbolic(g: Any, table: Any, index: Any) -> Any:
        axis = g.op("Constant", value_t=torch.tensor([2]))
        return g.op("GatherND", table, g.op("Unsqueeze", index, axis), batch_dims_i=1)


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table, each batch element's from its own. table: (B, N, D); index: (B, M) int64. Returns (B, M, D)."""
    return _GatherRows.apply(table, index)  # type: ignore[no-any-return, no-untyped-call]


class SpeltLayerNorm(nn.Module):
    """`nn.LayerNorm` over the last axis by its definition.

    OpenVINO fuses this spelling into one kernel as it does the operator of opset 17; onnxruntime runs it faster than
    that operator on a CPU, and TensorRT 8.5 does not know the operator.
    """

    def __init__(self, source: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = source.weight, source.bias, source.eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        x = x - x.mean(-1, keepdim=True)
        return x * (1.0 / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()) * self.weight + self.bias


class SpeltRMSNorm(nn.Module):
    """`RMSNorm` by its definition, which engines recognise and fuse."""

    def __init__(self, source: RMSNorm) -> None:
        super().__init__()
        self.scale, self.eps = source.scale, source.eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return x * (1.0 / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()) * self.scale


def spell_norms(model: nn.Module) -> None:
    """Puts the spelt norms in the place of the modules. In place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, SpeltLayerNorm(child))
            elif isinstance(child, RMSNorm):
                setattr(module, name, SpeltRMSNorm(child))

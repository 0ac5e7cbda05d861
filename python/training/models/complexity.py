"""How large a detector is and how much it computes, by the shapes alone: no weight is made and nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from training.models.blocks import RepBlock
from training.models.detector import DetectorConfig, build
from training.models.layers import ConvNorm


@dataclass(frozen=True)
class Complexity:
    """Figures of one detector.

    parameters: all of them, in training. deployed_parameters: those of the deployed form, which has norms and parallel
    branches folded into convolutions and nothing that only training needs.

    FLOPs are those of one image of the configured size outside of training, a multiplication and an addition being two.
    layer_flops: of convolutions and linear layers when deployed. attention_flops: of the products of queries, keys and
    values. branch_flops: of the branches that folding saves. Activations, norms and the sampling of maps do not count.
    """

    parameters: int
    deployed_parameters: int
    layer_flops: int
    attention_flops: int
    branch_flops: int

    @property
    def flops(self) -> int:
        """Of the deployed form."""
        return self.layer_flops + self.attention_flops


def complexity(config: DetectorConfig) -> Complexity:
    """Counts; takes a second at most for any detector."""
    # Tensors without data that claim to be on the CPU: modules that ask for autocast do not know the meta device.
    with FakeTensorMode(), torch.no_grad():
        model = build(config).eval()
        parameters = sum(p.numel() for p in model.parameters())
        _drop_norms(model)
        branches = [module.conv2 for module in model.modules() if isinstance(module, RepBlock)]
        folded = {id(p) for branch in branches if branch is not None for p in branch.parameters()}
        images = torch.empty(1, 3, *config.input_size)
        with _Counter(folded) as counter:
            model(images)
    deployed = sum(p.numel() for p in model.parameters() if id(p) in counter.read - folded)
    return Complexity(parameters, deployed, counter.layers, counter.attention, counter.branches)


def _drop_norms(model: nn.Module) -> None:
    """Leaves of norms and affine blocks what folding leaves: a bias."""
    for module in model.modules():
        if isinstance(module, ConvNorm):
            module.conv.bias = nn.Parameter(torch.empty(module.conv.out_channels))
            module.norm, module.lab = nn.Identity(), None


class _Counter(TorchDispatchMode):
    """Adds up what operators compute, and notes which parameters they read (by id)."""

    def __init__(self, folded: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.folded = folded
        self.read: set[int] = set()
        self.layers = self.attention = self.branches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter)}
        self.read |= read
        out = func(*args, **kwargs)
        operator = func.overloadpacket
        if operator is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
            query, key = args[:2]
            self.attention += 4 * query.numel() * key.shape[-2]
        elif operator in flop_registry:
            flops = flop_registry[operator](*args, **kwargs, out_val=out)
            if read & self.folded:
                self.branches += flops
            else:
                self.layers += flops
        return out

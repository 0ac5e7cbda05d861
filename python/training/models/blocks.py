"""The convolutional blocks that encoders fuse their maps with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.layers import Activation, ConvNorm, activation_layer


class RepBlock(nn.Module):
    """A 3x3 and a 1x1 convolution side by side, added; one 3x3 convolution after deployment (Ding et al., 2021)."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3)
        self.conv2: ConvNorm | None = ConvNorm(channels, channels, 1)
        self.act = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        out = self.conv1(x)
        return self.act(out if self.conv2 is None else out.add_(self.conv2(x)))  # type: ignore[no-any-return]


class CSPLayer(nn.Module):
    """Two 1x1 convolutions of the same map, one of which goes on through the bottlenecks; their sum (RT-DETR).

    inner: width between. A third convolution follows where it is not that of the output.
    """

    def __init__(self, in_channels: int, channels: int, inner: int, blocks: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, inner, 1, activation=activation)
        self.conv2 = ConvNorm(in_channels, inner, 1, activation=activation)
        self.bottlenecks = nn.Sequential(*(RepBlock(inner, activation) for _ in range(blocks)))
        self.conv3 = nn.Identity() if inner == channels else ConvNorm(inner, channels, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, channels, H, W)."""
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))  # type: ignore[no-any-return]


class SplitCSPLayer(nn.Module):
    """`CSPLayer` with one convolution of twice the width, whose second half goes through the bottlenecks (DEIMv2)."""

    def __init__(self, in_channels: int, channels: int, blocks: int, activation: Activation) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = ConvNorm(in_channels, 2 * channels, 1, activation=activation)
        self.bottlenecks = nn.Sequential(*(RepBlock(channels, activation) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, channels, H, W)."""
        kept, refined = self.conv1(x).split(self.channels, dim=1)
        return kept + self.bottlenecks(refined)  # type: ignore[no-any-return]


class ElanBlock(nn.Module):
    """Split, two CSP branches in a row, everything concatenated and mixed (the RepNCSPELAN4 of D-FINE and DEIMv2).

    inner: width of the branches. split_csp: make them of `SplitCSPLayer` instead of `CSPLayer`.
    """

    def __init__(
        self, in_channels: int, channels: int, inner: int, blocks: int, activation: Activation, *, split_csp: bool
    ) -> None:
        super().__init__()

        def branch(width: int) -> nn.Sequential:
            csp = (
                SplitCSPLayer(width, inner, blocks, activation)
                if split_csp
                else CSPLayer(width, inner, inner, blocks, activation)
            )
            return nn.Sequential(csp, ConvNorm(inner, inner, 3, activation=activation))

        self.channels = channels
        self.cv1 = ConvNorm(in_channels, 2 * channels, 1, activation=activation)
        self.cv2 = branch(channels)
        self.cv3 = branch(inner)
        self.cv4 = ConvNorm(2 * channels + 2 * inner, channels, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, channels, H, W)."""
        both = self.cv1(x)
        second = self.cv2(both.split(self.channels, dim=1)[1])
        third = self.cv3(second)
        return self.cv4(torch.cat([both, second, third], dim=1))  # type: ignore[no-any-return]

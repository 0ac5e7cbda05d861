"""What tells attention where the cells of a map are."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_position(
    height: int, width: int, dim: int, *, device: torch.device, dtype: torch.dtype, temperature: float = 10000.0
) -> Tensor:
    """Sines and cosines of the row, then of the column, of every cell of a map, at dim / 4 frequencies.

    Returns (height * width, dim), row by row. The published code of RT-DETR goes column by column instead, which is the
    same for the square maps it was trained with, and puts cells in wrong places otherwise. Raises ValueError if dim is
    not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"dim must be a multiple of 4, got {dim}")
    frequency = temperature ** -(torch.arange(dim // 4, dtype=torch.float64, device=device) / (dim // 4))
    angles = torch.arange(max(height, width), device=device)[:, None] * frequency
    waves = torch.cat([angles.sin(), angles.cos()], dim=1).to(dtype)
    # One wave per row and one per column, spread over the map: too little to compute to be worth keeping.
    rows, columns = waves[:height, None].expand(-1, width, -1), waves[None, :width].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)

"""What tells attention where the cells of a map are."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def sincos_position(
    height: int, width: int, dim: int, *, device: torch.device, dtype: torch.dtype, temperature: float = 10000.0
) -> Tensor:
    """Sines and cosines of the row, then of the column, of every cell of a map, at dim / 4 frequencies.

    Returns (height * width, dim), row by row, made once per size; not to be changed in place. The published code of
    RT-DETR goes column by column instead, which is the same for the square maps it was trained with, and puts cells in
    wrong places otherwise. Raises ValueError if dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"dim must be a multiple of 4, got {dim}")
    with torch.inference_mode(False), torch.no_grad():
        frequency = temperature ** -(torch.arange(dim // 4, dtype=torch.float64, device=device) / (dim // 4))
        rows = torch.arange(height, device=device).repeat_interleave(width)[:, None] * frequency
        columns = torch.arange(width, device=device).repeat(height)[:, None] * frequency
        return torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=1).to(dtype)

"""Averages of maps over the cells of a grid.

PyTorch's kernel for grids that do not divide the map has no deterministic backward pass on CUDA.
There the same averages are taken axis by axis: plain means where the cells are even, otherwise a
product with a fixed matrix. Both ways give the same values but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def average(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Average maps over a grid: (N, C, *space) to (N, C, *grid), one, two or three axes.

    Cell i of G along an axis of S covers the places floor(i S / G) to ceil((i + 1) S / G).
    """
    return average_by_axis(maps, grid) if maps.is_cuda else average_by_kernel(maps, grid)


def average_by_kernel(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Do what `average` says with PyTorch's kernel."""
    match tuple(grid):
        case (cells,):
            return functional.adaptive_avg_pool1d(maps, cells)
        case (rows, columns):
            return functional.adaptive_avg_pool2d(maps, (rows, columns))
        case (slices, rows, columns):
            return functional.adaptive_avg_pool3d(maps, (slices, rows, columns))
    raise ValueError(f"a grid has one, two or three axes, not {len(grid)}")


def average_by_axis(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Do what `average` says with operations whose kernels are deterministic on every device,
    forward and backward.
    """
    with torch.autocast(maps.device.type, enabled=False):
        for axis, cells in enumerate(grid, start=2):
            size = maps.shape[axis]
            if size == cells:
                continue
            if size % cells == 0:
                maps = maps.unflatten(axis, (cells, size // cells)).mean(axis + 1)
            else:
                shares = _shares(size, cells, maps)
                maps = (maps.transpose(axis, -1) @ shares).transpose(axis, -1)
    return maps


class AdaptiveAverage(nn.Module):
    """Average pooling to a fixed grid, in the place of PyTorch's module."""

    def __init__(self, grid: Sequence[int]) -> None:
        """Keep the grid."""
        super().__init__()
        self.grid = tuple(grid)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, *space) to (B, C, *grid)."""
        return average(maps, self.grid)


def _shares(size: int, cells: int, like: Tensor) -> Tensor:
    """Give the matrix (size, cells) of how much each place adds to each cell; made on the device,
    so that making it can be part of a CUDA graph.
    """
    place = torch.arange(size, device=like.device).unsqueeze(1)
    cell = torch.arange(cells, device=like.device)
    first, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    inside = ((place >= first) & (place < end)).to(like.dtype)
    return inside / inside.sum(0)

"""What an item is: a patient, a place or a region, from feature maps of any architecture to items
with feature vectors.

`fedskd_sim.learning.distillation.similarity` compares the items of two models. Patients: Tung &
Mori 2019 (arXiv 1907.09682). Places: Liu et al. 2019 (arXiv 1903.04197).

Maps are averaged over the cells of a grid. PyTorch's kernel for grids that do not divide the map
has no deterministic backward pass on CUDA. There the same averages are taken axis by axis: plain
means where the cells are even, otherwise a product with a fixed matrix. Both ways give the same
values but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal, NamedTuple

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
    """Return the matrix (size, cells) of how much each place adds to each cell; made on the device,
    so that making it can be part of a CUDA graph.
    """
    place = torch.arange(size, device=like.device).unsqueeze(1)
    cell = torch.arange(cells, device=like.device)
    first, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    inside = ((place >= first) & (place < end)).to(like.dtype)
    return inside / inside.sum(0)


LEAST_MASS = 0.5
"""Regions with less than this many feature cells are left out."""


class AtlasPooling(NamedTuple):
    """What brings one architecture's maps to the regions of an atlas: make it once, keep it as a
    buffer.
    """

    shares: Tensor
    """(R, S): how much of feature cell s belongs to region r."""
    mass: Tensor
    """(R,): size of each region in feature cells."""


def batch_items(features: Tensor, reduce: Literal["flatten", "gap"] = "flatten") -> Tensor:
    """Make one item per patient from (B, C, ...): the whole map (B, C*S), or its mean over space
    (B, C).

    Raises:
        ValueError: another reduction.

    """
    if reduce not in ("flatten", "gap"):
        raise ValueError(f"reduce is flatten or gap, not {reduce!r}")
    flat = features.flatten(2) if features.ndim > 2 else features.unsqueeze(2)  # noqa: PLR2004 - (B, C) has no space
    return flat.mean(2) if reduce == "gap" else flat.flatten(1)


def position_items(features: Tensor, grid: Sequence[int]) -> Tensor:
    """Make one item per position of a canonical grid: (B, C, *space) to (B, S, C), by area averages
    over the map.

    Args:
        features: (B, C, H, W) or (B, C, D, H, W).
        grid: cells along each spatial axis, S in all; the same for every architecture.

    Raises:
        ValueError: the grid has other axes than the map, or is finer than it along one of them.

    """
    return _pool(features, tuple(grid)).flatten(2).transpose(1, 2)


def region_items(features: Tensor, grid: Sequence[int]) -> Tensor:
    """Make one item per region, where regions are the cells of a coarse grid: (B, C, *space) to (B,
    R, C).

    Raises:
        ValueError: the grid has other axes than the map, or is finer than it along one of them.

    """
    return position_items(features, grid)


def roi_items(features: Tensor, *, keep_time: bool = False) -> Tensor:
    """Make one item per region of interest from (B, C, R) or (B, C, R, T): its channels (B, R, C)
    or (B, R, C*T).

    Raises:
        ValueError: another number of axes.

    """
    if features.ndim == 3:  # noqa: PLR2004 - (B, C, R)
        return features.transpose(1, 2)
    if features.ndim != 4:  # noqa: PLR2004 - (B, C, R, T)
        raise ValueError(f"ROI features are (B, C, R) or (B, C, R, T), not {tuple(features.shape)}")
    return features.transpose(1, 2).flatten(2) if keep_time else features.mean(3).transpose(1, 2)


def atlas_pooling(labels: Tensor, feature_grid: Sequence[int]) -> AtlasPooling:
    """Bring an atlas to an architecture's feature grid, so that no feature map is ever resized.

    Args:
        labels: integers on the input grid, (H, W) or (D, H, W); 1..R are regions, 0 is background.
        feature_grid: spatial size of the architecture's map, at most that of the atlas.

    Raises:
        ValueError: no region, or a feature grid that does not fit the atlas.

    """
    regions = int(labels.max())
    if regions < 1:
        raise ValueError("the atlas has no region: its labels are all 0 or below")
    grid = tuple(feature_grid)
    shares = torch.empty((regions, math.prod(grid)), dtype=torch.float64, device=labels.device)
    # one region's voxels at a time: those of all at once are hundreds of volumes
    for place, row in enumerate(shares, 1):
        row.copy_(_pool((labels == place).to(torch.float64)[None, None], grid).flatten())
    return AtlasPooling(shares, shares.sum(1))


def atlas_items(features: Tensor, pooling: AtlasPooling, other: AtlasPooling) -> Tensor:
    """Make one item per region of an atlas, the mean over its voxels: (B, C, *space) to (B, R', C).

    Args:
        features: this model's map.
        pooling: the atlas on this model's feature grid.
        other: the atlas on the other model's; regions too small in either are left out of both.

    Raises:
        ValueError: the map is not on the pooling's grid, or the two poolings are of different
            atlases.

    """
    return _take_means(features, find_region_means(pooling, other))


def find_region_means(pooling: AtlasPooling, other: AtlasPooling) -> Tensor:
    """Return the matrix (R', S) that takes the mean over each region that is large enough in both
    poolings; its size depends on their values, so finding it waits for the device.

    Raises:
        ValueError: the two poolings are of different atlases.

    """
    if pooling.mass.shape != other.mass.shape:
        raise ValueError(f"atlases of {len(pooling.mass)} and {len(other.mass)} regions")
    kept = _large_in_both(pooling, other)
    return pooling.shares[kept] / pooling.mass[kept].unsqueeze(1)


def _large_in_both(pooling: AtlasPooling, other: AtlasPooling) -> Tensor:
    return (pooling.mass >= LEAST_MASS) & (other.mass >= LEAST_MASS)


@dataclass(frozen=True)
class Atlas:
    """The regions of a brain on the input grid, and how they lie on the maps of every
    architecture, found once each.
    """

    labels: Tensor
    """Integers (D, H, W) or (H, W); 1..R are regions, 0 is background."""
    _poolings: dict[tuple[int, ...], AtlasPooling] = field(default_factory=dict)
    _means: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = field(default_factory=dict)

    def pooling(self, feature_grid: Sequence[int]) -> AtlasPooling:
        """Return `atlas_pooling` for maps of a size, on the labels' device."""
        grid = tuple(feature_grid)
        if grid not in self._poolings:
            self._poolings[grid] = atlas_pooling(self.labels, grid)
        return self._poolings[grid]

    def items(self, features: Tensor, others: Tensor) -> Tensor:
        """Return `atlas_items` of a map (B, C, *space) that is compared with another model's."""
        own, other = tuple(features.shape[2:]), tuple(others.shape[2:])
        if (own, other) not in self._means:
            self._means[own, other] = find_region_means(self.pooling(own), self.pooling(other))
        return _take_means(features, self._means[own, other])

    def kept(self, features: Tensor, others: Tensor) -> Tensor:
        """Return the numbers from 1 of the regions that `items` has, (R',)."""
        own, other = (self.pooling(maps.shape[2:]) for maps in (features, others))
        return _large_in_both(own, other).nonzero().flatten() + 1


def _take_means(features: Tensor, means: Tensor) -> Tensor:
    flat = features.flatten(2)
    if flat.shape[2] != means.shape[1]:
        raise ValueError(
            f"a map of {flat.shape[2]} cells does not fit an atlas pooling of {means.shape[1]}"
        )
    return means.to(flat.dtype) @ flat.transpose(1, 2)


def _pool(features: Tensor, grid: tuple[int, ...]) -> Tensor:
    space = tuple(features.shape[2:])
    if len(space) != len(grid) or len(grid) not in (2, 3):
        raise ValueError(
            f"a grid of {len(grid)} axes does not fit a map of shape {tuple(features.shape)}"
        )
    if any(cells < 1 or cells > size for cells, size in zip(grid, space, strict=True)):
        raise ValueError(
            f"the grid {grid} is finer than the map {space}; maps are pooled down, never up"
        )
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if any(size % cells for cells, size in zip(grid, space, strict=True)):
        return average(features, grid)
    # even cells: sums of slices, a third of the time of the pooling kernels
    for axis, cells in enumerate(grid, start=2):
        if features.shape[axis] > cells:
            parts = features.unflatten(axis, (cells, -1)).unbind(axis + 1)
            features = reduce(torch.add, parts)
    share = math.prod(grid) / math.prod(space)
    return features if share == 1 else features * share


def channel_means(deep: Tensor, length: int) -> Tensor:
    """Return features (B, length) of deep maps (B, C, ...), to compare architectures: means over
    space of each channel, of which neighbours are averaged down to ``length``.

    >>> channel_means(torch.tensor([1.0, 3.0, 5.0, 7.0]).reshape(1, 4, 1, 1), 2)
    tensor([[2., 6.]])

    """
    return average(deep.flatten(2).mean(dim=2).unsqueeze(1), (length,)).squeeze(1)

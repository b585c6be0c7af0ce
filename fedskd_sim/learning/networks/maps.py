"""What a module of a network gives, understood as a map (B, C, *space).

- A tensor of as many axes is one; its channels come last where only so its places lie as the
  input's do: (B, H, W, C).
- Tokens (B, N, C) are laid out on a grid like the input's, without up to eight tokens before them,
  such as a class token.
- A vector (B, C) is a map of one place.
- Of a tuple or a list, the first tensor counts.
"""

from __future__ import annotations

from math import inf, prod
from typing import NamedTuple

from torch import Tensor

from fedskd_sim.learning.networks.shapes import ImageShape

MOST_PREFIX_TOKENS = 8
MOST_UNEVEN = 2.0
"""How much farther places may be apart along one axis: sizes are rounded at each stride."""


class Reading(NamedTuple):
    """How a tensor is read as a map: the grid of its places, and what is before and behind it."""

    grid: tuple[int, ...]
    channels: int
    last: bool = False
    """Channels come last."""
    skipped: int = 0
    """Tokens before those of the grid."""


def first_tensor(given: object) -> Tensor | None:
    """Return a tensor, or the first one of a tuple or list; None without one."""
    if isinstance(given, tuple | list):
        given = next((one for one in given if isinstance(one, Tensor)), None)
    return given if isinstance(given, Tensor) else None


def read(sizes: tuple[int, ...], shape: ImageShape) -> Reading | None:
    """Return how a tensor of these sizes, behind those of the batch, is a map of such an input;
    None if it is none.
    """
    space, found = shape.space, None
    if not sizes or not all(sizes):
        return None
    if shape.kind == "roi":
        found = _regions(sizes, shape.size)
    elif shape.kind == "table":
        found = Reading((1,), *sizes) if len(sizes) == 1 else _regions(sizes, shape.size)
    elif len(sizes) == len(space) + 1:
        found = _places(sizes, space)
    elif len(sizes) == 1:
        found = Reading((1,) * len(space), sizes[0])
    elif len(sizes) == 2:  # noqa: PLR2004 - tokens and channels
        found = _tokens(sizes, space)
    return found


def _places(sizes: tuple[int, ...], space: tuple[int, ...]) -> Reading | None:
    first, last = (_unevenness(grid, space) for grid in (sizes[1:], sizes[:-1]))
    if min(first, last) > MOST_UNEVEN:
        return None
    if last < first:
        return Reading(sizes[:-1], sizes[-1], last=True)
    return Reading(sizes[1:], sizes[0])


def _regions(sizes: tuple[int, ...], regions: int) -> Reading | None:
    if len(sizes) != 2 or regions not in sizes:  # noqa: PLR2004 - channels and regions
        return None
    last = sizes[1] != regions
    return Reading((regions,), sizes[1 if last else 0], last=last)


def _tokens(sizes: tuple[int, ...], space: tuple[int, ...]) -> Reading | None:
    for skipped in range(min(MOST_PREFIX_TOKENS, sizes[0] - 1) + 1):
        count = sizes[0] - skipped
        stride = (prod(space) / count) ** (1 / len(space))
        grid = tuple(round(places / stride) for places in space)
        if count > 1 and prod(grid) == count:
            return Reading(grid, sizes[1], last=True, skipped=skipped)
    return None


def _unevenness(grid: tuple[int, ...], space: tuple[int, ...]) -> float:
    """Compute how much farther places are apart along one axis than along another, for an input
    like this; they are no places where there are more than it has.
    """
    if any(cells > places for places, cells in zip(space, grid, strict=True)):
        return inf
    strides = [places / cells for places, cells in zip(space, grid, strict=True)]
    return max(strides) / min(strides)


def as_map(given: object, shape: ImageShape) -> Tensor:
    """Return what a module gave as a map (B, C, *space); TypeError says why it is none."""
    tensor = first_tensor(given)
    if tensor is None:
        raise TypeError(f"gives {type(given).__name__}, and no tensor")
    found = read(tuple(tensor.shape[1:]), shape)
    if found is None:
        raise TypeError(f"gives {tuple(tensor.shape)}, which is no map of {_input(shape)}")
    if found.last:
        tensor = tensor.flatten(1, -2)[:, found.skipped :].mT
    return tensor.reshape(len(tensor), found.channels, *found.grid)


def _input(shape: ImageShape) -> str:
    what = {"image": "pixels", "volume": "voxels", "roi": "regions", "table": "columns"}[shape.kind]
    return f"{' x '.join(map(str, shape.space))} {what}"

"""What goes into a network, and the axes of its maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

import torch

from fedskd_sim.learning.samples import SampleKind

AXES: Mapping[SampleKind, str] = MappingProxyType(
    {"image": "HW", "roi": "R", "volume": "DHW", "table": "R"}
)
"""The axes of a tap behind sample and channel."""
GRIDLESS = ("roi", "table")
"""Kinds of which a map has regions or columns, and no grid of places."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: of one or two samples, threads take longer to meet than to compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ImageShape(NamedTuple):
    """What goes in and how many classes come out: images (channels, size, size), connectivity of
    ``size`` regions, volumes, or tables of ``size`` columns with ``channels`` numbers each.

    Volumes are (channels, *grid), and without a grid cubes of ``size`` voxels along each axis.
    """

    channels: int
    size: int
    classes: int
    kind: SampleKind = "image"
    grid: tuple[int, ...] = ()

    @property
    def space(self) -> tuple[int, ...]:
        """The places of a sample along each axis of a map."""
        return self.grid or (self.size,) * len(AXES[self.kind])

    def blank(self) -> torch.Tensor:
        """Return a batch of one empty sample."""
        if self.kind == "volume":
            return torch.zeros(1, self.channels, *self.space)
        if self.kind == "table":
            return torch.zeros(1, self.channels, self.size)
        lead = (1,) if self.kind == "roi" else (1, self.channels)
        return torch.zeros(*lead, self.size, self.size)

"""The similarity term of a session: what visitor and resident learn from each other at batch,
pixel and region level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from fedskd_sim.learning.distillation.arrangements import (
    Atlas,
    batch_items,
    position_items,
    region_items,
    roi_items,
)
from fedskd_sim.learning.distillation.similarity import Distance, distance
from fedskd_sim.scenario import Similarity, Tap


class Taps(NamedTuple):
    """Two feature maps of a model, at which similarity distillation compares it with others.

    An architecture of your own returns ``logits, Taps(mid, deep)``. A map is (B, C, H, W) for
    images, (B, C, D, H, W) for volumes, (B, C, R) for connectivity. Its size in space has to be the
    same for every batch.

    >>> Taps(torch.zeros(2, 8, 14, 14), torch.ones(2, 32, 7, 7)).at("deep").shape
    torch.Size([2, 32, 7, 7])

    """

    mid: Tensor
    """The map of a middle stage. The pixel level compares it unless the scenario says otherwise."""
    deep: Tensor
    """The map of the last stage. Batch and region level compare it unless the scenario says
    otherwise."""

    def at(self, tap: Tap) -> Tensor:
        """Return a map by its name, ``mid`` or ``deep``."""
        return self.mid if tap == "mid" else self.deep


class Term(NamedTuple):
    """What similarity adds to a step."""

    total: Tensor | None
    """To be added to the cross-entropies, a scalar; None where every weight is 0."""
    levels: Mapping[str, Tensor]
    """Distance of each active level for the log, detached and without its weight."""


class _Level(NamedTuple):
    name: str
    weight: float
    items: Callable[[Taps, Taps], Tensor]
    """Of the first model's maps, when they are compared with the second's."""
    across: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityLoss:
    """Distances between visitor and resident, weighted; levels of weight 0 are not computed at all.

    Raises:
        ValueError: a negative weight.

    """

    batch: float = 0.1
    """Weight of the batch level: patients compared with patients."""
    pixel: float = 0.1
    """Weight of the pixel level: places compared with places within each image."""
    region: float = 0.1
    """Weight of the region level: regions compared with regions within each image."""
    batch_tap: Tap = "deep"
    """Map of the batch level."""
    pixel_tap: Tap = "mid"
    """Map of the pixel level."""
    region_tap: Tap = "deep"
    """Map of the region level."""
    distance: Distance = "corr"
    """Distance between two similarity matrices."""
    pixel_grid: tuple[int, ...] | None = (8, 8)
    """Cells the pixel level's maps are pooled to, the same for all hospitals; None: they are by
    region of interest already."""
    region_grid: tuple[int, ...] | None = (4, 4)
    """Cells the region level's maps are pooled to; None: they are by region of interest already."""
    atlas: Atlas | None = None
    """Regions in the place of a grid."""
    weight_v: float = 1.0
    """Factor on what the visitor learns from the resident."""
    weight_l: float = 1.0
    """Factor on what the resident learns from the visitor."""
    across: bool = False
    """Pixel and region level compare patients with each other at each place instead of places
    within each patient."""

    def __post_init__(self) -> None:
        """Refuse negative weights."""
        for name in ("batch", "pixel", "region", "weight_v", "weight_l"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is a weight of 0 or more, not {getattr(self, name)}")

    @classmethod
    def of(
        cls, settings: Similarity, pixel_grid: tuple[int, ...] | None, atlas: Atlas | None = None
    ) -> Self:
        """Make the term from a scenario's settings, the federation's pixel grid (None: maps are
        by region) and its atlas.
        """
        return cls(
            batch=settings.batch,
            pixel=settings.pixel,
            region=settings.region,
            batch_tap=settings.batch_tap,
            pixel_tap=settings.pixel_tap,
            region_tap=settings.region_tap,
            distance=settings.distance,
            pixel_grid=pixel_grid,
            region_grid=(settings.region_grid,) * len(pixel_grid) if pixel_grid else None,
            atlas=atlas,
            weight_v=settings.to_visitor,
            weight_l=settings.to_resident,
        )

    def __call__(self, visitor: Taps, resident: Taps, ramp: float | Tensor = 1.0) -> Term:
        """Compare two models' maps of the identical input.

        With equal factors one distance with both gradients serves both directions, and counts once
        in the total: it is symmetric and the models share no parameters. Otherwise each direction
        is computed with the other side detached.

        Args:
            visitor: the visitor's maps.
            resident: the resident's maps; without a graph it is a frozen teacher.
            ramp: factor on all weights, 0..1; at the number 0 nothing is computed.

        Raises:
            ValueError: maps that do not fit the grids or each other.

        """
        total: Tensor | None = None
        log: dict[str, Tensor] = {}
        still = not isinstance(ramp, Tensor) and ramp <= 0
        if still or (self.weight_v == 0 and self.weight_l == 0):
            return Term(None, log)
        for level in self._levels():
            value, gained = self._level(
                level, level.items(visitor, resident), level.items(resident, visitor)
            )
            log[level.name] = value.detach()
            part = scale(gained, ramp * level.weight)
            total = part if total is None else total + part
        return Term(total, log)

    def items(self, visitor: Taps, resident: Taps) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what every level compares, whatever its weight: items of both models, (N, C) of
        the batch level, (B, N, C) of the others. A level without weight whose maps do not fit is
        left out; of another one that raises ValueError.
        """
        found = {}
        for level in self._all_levels():
            try:
                found[level.name] = level.items(visitor, resident), level.items(resident, visitor)
            except ValueError:
                if level.weight:
                    raise
        return found

    def region_numbers(self, visitor: Taps, resident: Taps) -> Tensor:
        """Return which regions the region level compares, (R,), counted from 1."""
        maps = visitor.at(self.region_tap), resident.at(self.region_tap)
        if self.atlas is not None:
            return self.atlas.kept(*maps)
        cells = math.prod(self.region_grid) if self.region_grid else maps[0].shape[2]
        return torch.arange(1, cells + 1)

    def _levels(self) -> list[_Level]:
        return [level for level in self._all_levels() if level.weight > 0]

    def _all_levels(self) -> list[_Level]:
        return [
            _Level(
                "batch",
                self.batch,
                lambda taps, _: batch_items(taps.at(self.batch_tap)),
                across=False,
            ),
            _Level(
                "pixel",
                self.pixel,
                lambda taps, _: _places(taps.at(self.pixel_tap), self.pixel_grid),
                self.across,
            ),
            _Level("region", self.region, self._regions, self.across),
        ]

    def _regions(self, own: Taps, other: Taps) -> Tensor:
        features = own.at(self.region_tap)
        if self.atlas is not None:
            return self.atlas.items(features, other.at(self.region_tap))
        return (
            roi_items(features)
            if self.region_grid is None
            else region_items(features, self.region_grid)
        )

    def _level(self, level: _Level, v: Tensor, l: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741 - as in weight_l
        """Return the distance for the log and its share of the total before the level's weight."""

        def measure(x: Tensor, y: Tensor) -> Tensor:
            return distance(x, y, self.distance, across=level.across)

        if self.weight_v == self.weight_l:
            value = measure(v, l)
            return value, value * self.weight_v
        parts = []
        if self.weight_v > 0:
            parts.append((measure(v, l.detach()), self.weight_v))
        if self.weight_l > 0:
            parts.append((measure(v.detach(), l), self.weight_l))
        return parts[0][0], torch.stack([value * weight for value, weight in parts]).sum()


def scale(value: Tensor, factor: float | Tensor) -> Tensor:
    """Multiply by a number, or by a float64 scalar on the device, which rounds as a number does."""
    return value * (factor.to(value.dtype) if isinstance(factor, Tensor) else factor)


def ramp(step: int, total: int, share: float = 0.3) -> float:
    """Return the factor of a step counted from 0: a linear rise from 0 over the first ``share`` of
    ``total`` steps, then 1.

    Raises:
        ValueError: a negative step, no steps at all, or a share outside 0..1.

    """
    if step < 0 or total < 1 or not 0 <= share <= 1:
        raise ValueError(f"no ramp for step {step} of {total} with share {share}")
    rise = share * total
    return min(1.0, step / rise) if rise else 1.0


def _places(features: Tensor, grid: tuple[int, ...] | None) -> Tensor:
    return roi_items(features) if grid is None else position_items(features, grid)

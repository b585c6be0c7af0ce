"""Where the voxels of volumes lie: two volumes can be compared voxel by voxel only if that is the
same for both; pure.

Two grids are the same if they have as many voxels along each axis and no voxel's centre lies
further away in the other than `TOLERANCE` of the shortest edge of a voxel. That is more than
rounding in a header, and less than any resampling.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.01
"""Of the shortest edge of a voxel."""


class Geometry(NamedTuple):
    """Of which file or key; voxels along the axes, which point to the right, the front and the
    top (RAS+); affine (4, 4) in mm.
    """

    source: str
    grid: tuple[int, ...]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> NDArray[np.float64]:
        """The edges of a voxel (3,) in mm."""
        edges: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return edges

    def __str__(self) -> str:
        """Describe it for people."""
        cells, edges = (
            " x ".join(map(str, self.grid)),
            " x ".join(f"{edge:.6g}" for edge in self.spacing),
        )
        origin = ", ".join(f"{place:.6g}" for place in self.affine[:3, 3])
        tilt = self.affine[:3, :3] / self.spacing
        told = (
            ""
            if np.allclose(tilt, np.eye(3), atol=TOLERANCE / max(self.grid))
            else f", axes along {_format_rows(tilt.T, 3)}"
        )
        return f"a grid of {cells} voxels of {edges} mm, the first at ({origin}) mm{told}"

    def key(self) -> str:
        """Write it as the scenario's ``data.space``."""
        return (
            f"space: {{grid: [{', '.join(map(str, self.grid))}], affine: "
            f"{_format_rows(self.affine[:3], 9)}}}"
        )


def difference(one: Geometry, other: Geometry) -> str:
    """Say how two geometries differ, naming both sources; empty if they do not."""
    if one.grid == other.grid and not apart(one.affine, other.affine, one.grid):
        return ""
    place = (
        "; with another affine the same voxel is another place" if one.grid == other.grid else ""
    )
    return f"{one.source} has {one}, {other.source} has {other}{place}"


def apart(one: NDArray[np.float64], other: NDArray[np.float64], grid: tuple[int, ...]) -> bool:
    """Tell whether two affines (4, 4) put a voxel of a grid to different places; the corners are
    the worst.
    """
    corners = np.array(
        [(*corner, 1) for corner in product(*((0, cells - 1) for cells in grid))], np.float64
    )
    distances = np.linalg.norm(corners @ (one - other).T, axis=1)
    edge = min(np.linalg.norm(affine[:3, :3], axis=0).min() for affine in (one, other))
    return not distances.max() <= TOLERANCE * edge


def _format_rows(rows: NDArray[np.float64], digits: int) -> str:
    return (
        "["
        + ", ".join(
            "[" + ", ".join(f"{value + 0.0:.{digits}g}" for value in row) + "]" for row in rows
        )
        + "]"
    )

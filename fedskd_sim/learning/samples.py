"""What every data source gives: samples, labels and splits of one hospital, and where the voxels of
its volumes lie.

Two volumes can be compared voxel by voxel only if their grids are the same: as many voxels along
each axis, and no voxel's centre further away in the other than `TOLERANCE` of the shortest edge of
a voxel. That is more than rounding in a header, and less than any resampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.records import SampleCounts

TOLERANCE = 0.01
"""Of the shortest edge of a voxel."""


class Geometry(NamedTuple):
    """The grid of volumes: where their voxels lie, on axes to the right, the front and the top
    (RAS+).

    A reader of volumes returns one in a `Preview`. Hospitals on different grids are then refused
    before anything starts.

    >>> Geometry("brain.nii", (61, 73, 61), np.diag([3.0, 3.0, 3.0, 1.0])).spacing.tolist()
    [3.0, 3.0, 3.0]

    """

    source: str
    """The file or key that says so, for errors."""
    grid: tuple[int, ...]
    """Voxels along the three axes."""
    affine: NDArray[np.float64]
    """The matrix (4, 4) from the indices of a voxel to its place in mm."""

    @property
    def spacing(self) -> NDArray[np.float64]:
        """The lengths of a voxel's edges (3,), in mm."""
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
        """Return it as text for the scenario's ``data.space``."""
        return (
            f"space: {{grid: [{', '.join(map(str, self.grid))}], affine: "
            f"{_format_rows(self.affine[:3], 9)}}}"
        )

    def difference(self, other: Geometry) -> str:
        """Return how another grid differs, as a text that names both sources; empty if it does
        not. Grids are the same if they have as many voxels, and no voxel's centre is off by more
        than a hundredth of a voxel's shortest edge.

        >>> import numpy as np
        >>> one, other = (Geometry(name, (4, 4, 4), np.eye(4)) for name in ("a.nii", "b.nii"))
        >>> one.difference(other)
        ''

        """
        if self.grid == other.grid and not apart(self.affine, other.affine, self.grid):
            return ""
        place = "; with another affine the same voxel is another place" * (self.grid == other.grid)
        return f"{self.source} has {self}, {other.source} has {other}{place}"


def apart(one: NDArray[np.float64], other: NDArray[np.float64], grid: tuple[int, ...]) -> bool:
    """Return whether two affines (4, 4) put a voxel of a grid to different places; the corners are
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


SampleKind = Literal["image", "roi", "volume", "table"]
"""What a sample is: an image (C, S, S), the connectivity of regions of interest (R, R), a volume
(C, D, H, W), or the row of a table (F, R): F numbers for each of R columns, the last of which is 1
where the value is missing."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a reader of one's own gave in one call, to be compared with its other calls: the reader
    with its options, a digest of each column of its rows, and, unless a hospital may have only its
    own site's files, ``parted``.
    """

    source: str
    columns: Mapping[str, str]
    parted: bool
    pictures: Mapping[bytes, tuple[str, str]]
    """Digests of samples of the hospital, with the id that the reader gives, or none, and the
    split."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What can be checked before anything starts: classes, pixels or regions along an axis,
    channels, training labels (N,), counts.

    Of volumes the size is that of the shortest axis, ``grid`` has all three, ``atlas`` (D, H, W)
    regions 1..R, 0 outside, and ``geometry`` tells where their voxels lie, if their source does.
    ``notes`` say what is odd and no error, ``given`` what a reader of one's own gave.
    """

    classes: tuple[str, ...]
    size: int
    channels: int
    train_labels: NDArray[np.integer[Any]]
    counts: SampleCounts
    kind: SampleKind = "image"
    grid: tuple[int, ...] = ()
    atlas: NDArray[np.integer[Any]] | None = None
    geometry: Geometry | None = None
    notes: tuple[str, ...] = ()
    given: Given | None = None
    columns: tuple[str, ...] = ()
    """Of tables: the names of the columns."""
    patients: int | None = None
    """Of whom the training samples are; None: the source does not say."""
    multi_label: bool = False
    """A sample may have several of the classes, or none: labels are patterns of bits."""


@dataclass(frozen=True, slots=True)
class Images:
    """Pixels (N, H, W, C) uint8, labels (N,), the rows that train, validate and test, and an id for
    each sample.

    Ids say which sample of the source it is (an image, a subject, a row), whatever part of the
    source a hospital has; no two samples of a hospital share one.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]
    splits: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.integer[Any]]]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    subjects: tuple[int, ...] = ()
    """Whom, or what lesion, each sample is of, as numbers; empty where samples were made here."""
    remark: str = ""
    """What was masked or left out, for the records; empty if nothing was."""
    numbers: tuple[int, ...] = ()
    """The row of each sample among all that the hospital has in its source, from 0, whatever the
    fold; empty where they are as given here."""


@dataclass(frozen=True, slots=True)
class Arrays:
    """Connectivity (N, R, R), volumes (N, C, D, H, W) or rows of tables (N, F, R), float32; all
    else as that of `Images`.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.integer[Any]]
    splits: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.integer[Any]]]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    subjects: tuple[int, ...] = ()
    remark: str = ""
    """What was masked or left out, for the records; empty if nothing was."""
    numbers: tuple[int, ...] = ()
    """The row of each sample among all that the hospital has in its source, from 0, whatever the
    fold; empty where they are as given here."""

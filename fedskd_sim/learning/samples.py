"""What every data source gives: samples, labels and splits of one hospital."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.geometry import Geometry
from fedskd_sim.records import SampleCounts

Kind = Literal["image", "roi", "volume"]
"""What a sample is: an image (C, S, S), the connectivity of regions of interest (R, R), or a volume
(C, D, H, W)."""


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
    kind: Kind = "image"
    grid: tuple[int, ...] = ()
    atlas: NDArray[np.integer[Any]] | None = None
    geometry: Geometry | None = None
    notes: tuple[str, ...] = ()
    given: Given | None = None


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
    """Whom, or what lesion, each sample is of, as numbers; empty where the source does not say."""


@dataclass(frozen=True, slots=True)
class Arrays:
    """Connectivity (N, R, R) or volumes (N, C, D, H, W), float32; labels, splits, ids and
    subjects as those of `Images`.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.integer[Any]]
    splits: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.integer[Any]]]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    subjects: tuple[int, ...] = ()
    remark: str = ""
    """What was masked or left out, for the records; empty if nothing was."""

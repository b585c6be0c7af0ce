"""What every data source gives: samples, labels and splits of one hospital."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["image", "roi"]
"""What a sample is: an image (C, S, S), or the connectivity of regions of interest (R, R)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What can be checked before anything starts: classes, pixels along an image or regions, channels, training labels (N,)."""

    classes: tuple[str, ...]
    size: int
    channels: int
    train_labels: NDArray[np.integer[Any]]
    kind: Kind = "image"


@dataclass(frozen=True, slots=True)
class Images:
    """Pixels (N, H, W, C) uint8, labels (N,), and the rows that train, validate and test."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]
    splits: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.integer[Any]]]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrices:
    """Connectivity (N, R, R) float32, labels (N,), and the rows that train, validate and test."""

    values: NDArray[np.float32]
    labels: NDArray[np.integer[Any]]
    splits: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.integer[Any]]]
    classes: tuple[str, ...]

"""What every image source gives: pixels, labels and splits of one hospital."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Facts:
    """What can be checked before anything starts: classes, image size in pixels, channels, and training labels (N,)."""

    classes: tuple[str, ...]
    size: int
    channels: int
    train_labels: NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Images:
    """Pixels (N, H, W, C) uint8, labels (N,), and the rows that train, validate and test."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]
    splits: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.integer[Any]]]
    classes: tuple[str, ...]

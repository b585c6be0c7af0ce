"""Image files of a data set as it was released: found by name, read, cut to a square and brought to one size."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedskd_sim.learning.readers.npz import corrupt

SUFFIXES = (".jpg", ".jpeg", ".png")
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def by_name(folder: Path) -> dict[str, Path]:
    """Find all images below a folder by their name without its suffix; of several with one name, the first by path."""
    found: dict[str, Path] = {}
    for place, inner, files in os.walk(folder):
        inner.sort()
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)  # noqa: PTH122 - faster than Path for tens of thousands
            if suffix.lower() in SUFFIXES:
                found.setdefault(stem, Path(place, file))
    return found


def all_there(paths: Sequence[Path]) -> None:
    """Refuse a data set of which images are missing; raises DataCorrupt, naming the first."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        others = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
        raise corrupt(f"the image {missing[0]} is not there{others}")


def pixels(paths: Sequence[Path], size: int) -> NDArray[np.uint8]:
    """Read images as (N, size, size, 3): the middle square of each, scaled with antialiasing.

    Raises:
        DataCorrupt: an image is missing, truncated or no image; names the file.

    """
    found = np.empty((len(paths), size, size, 3), np.uint8)
    for row, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                found[row] = np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
        except UNREADABLE as error:
            raise corrupt(f"the image {path} cannot be read: {error}") from error
    return found

"""HAM10000 (Tschandl et al. 2018, CC BY-NC 4.0) as one file of small images.

Expected: an ``.npz`` with arrays of N rows each: ``image`` uint8 (N, S, S, 3), ``label`` (N,) into
``label_names``, and ``site`` (N,) into ``site_names``. Also ``fold`` (N,) in 0 to 4 and
``split_group`` (N,). Images of one lesion or near-duplicates share a ``split_group``, and no group
may be in two folds.

Four source collections act as hospitals. A hospital owns a collection, or with ``partition`` a part
of all; split groups are never cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim import Cohort, Preview
from fedskd_sim.datasets import npz
from fedskd_sim.datasets.refusals import corrupt, in_order

NEEDED = ("image", "label", "label_names", "site", "site_names", "split_group", "fold")


def read(folder: Path, *, file: str = "ham10000_28x28.npz") -> Cohort:
    """Read everything but the images, which are read when they are asked for."""
    path = folder / file
    with npz.open_archive(path, NEEDED) as arrays:
        rows, size = _image_shape(arrays)
        label, site, fold = (
            npz.numbers(arrays, name, rows, "image") for name in ("label", "site", "fold")
        )
        group = npz.array(arrays, "split_group")
        if group.shape != (rows,):
            text = f"split_group has shape {group.shape}, not ({rows},) as image asks for"
            raise corrupt(text)
        classes, sites = npz.names(arrays, "label"), np.array(npz.names(arrays, "site"))

    def images(rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        with npz.open_archive(path, NEEDED) as arrays:
            found: NDArray[np.uint8] = npz.array(arrays, "image")[rows]
            return found

    return Cohort(
        images,
        label,
        classes,
        subjects=in_order(group) if group.dtype.kind in "iu" else group,
        sites=sites[site],
        folds=fold,
        preview=lambda _: Preview(np.empty((0, size, size, 3), np.uint8)),
    )


def _image_shape(arrays: Any) -> tuple[int, int]:
    """Read the number of images and their size from the array's header alone."""
    shape, dtype = npz.shape(arrays, "image")
    match shape:
        case (int(rows), int(height), int(width), 3) if height == width and dtype == np.uint8:
            return rows, height
    raise corrupt(f"image has shape {shape} of {dtype}, not (N, S, S, 3) of uint8")

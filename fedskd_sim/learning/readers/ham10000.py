"""HAM10000 (Tschandl et al. 2018, CC BY-NC 4.0) from one ``.npz``: four source collections act as
four hospitals.

Expected arrays, N rows each: ``image`` uint8 (N, S, S, 3), ``label`` (N,) into ``label_names``,
``site`` (N,) into ``site_names``, ``fold`` (N,) in 0..4, and ``split_group`` (N,): images of one
lesion or near-duplicates share it, and no group may stand in two folds. A hospital owns a site, or
with ``partition`` a part of all sites; split groups are never cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedskd_sim.learning.readers import cut, npz, splits
from fedskd_sim.learning.samples import Facts, Images
from fedskd_sim.scenario import Ham10000

NEEDED = ("image", "label", "label_names", "site", "site_names", "split_group", "fold")


def facts(dataset: Ham10000, folder: Path | None, scenario_seed: int, name: str) -> Facts:
    """Read everything but the images of a site.

    Raises:
        DataMissing: no folder given, or the file is not in it.
        DataCorrupt: the file is truncated or lacks arrays, or a lesion stands in two folds.
        InvalidValue: no such site, validation and test are the same fold, or too small a part.

    """
    with npz.open_archive(npz.find(dataset.file, folder), NEEDED) as arrays:
        found = _splits(dataset, arrays, scenario_seed, name)
        labels, classes = npz.array(arrays, "label"), npz.names(arrays, "label")
        counts = splits.counts(name, splits.Source(dataset.file, classes, labels), found)
        return Facts(classes, _image_shape(arrays)[1], 3, labels[found.train], counts)


def load(dataset: Ham10000, folder: Path | None, scenario_seed: int, name: str) -> Images:
    """Read the images of one site; raises as `facts`."""
    with npz.open_archive(npz.find(dataset.file, folder), NEEDED) as arrays:
        chosen = _splits(dataset, arrays, scenario_seed, name)
        rows = chosen.rows
        pixels, labels = npz.array(arrays, "image")[rows], npz.array(arrays, "label")[rows]
        classes, ids = npz.names(arrays, "label"), tuple(map(str, rows))
        return Images(pixels, labels, chosen.places, classes, ids, chosen.subjects)


def _image_shape(arrays: Any) -> tuple[int, int]:
    """Read the number of images and their size from the array's header alone."""
    shape, dtype = npz.shape(arrays, "image")
    match shape:
        case (int(rows), int(height), int(width), 3) if height == width and dtype == np.uint8:
            return rows, height
    raise npz.corrupt(f"image has shape {shape} of {dtype}, not (N, S, S, 3) of uint8")


def _splits(dataset: Ham10000, arrays: Any, scenario_seed: int, name: str) -> splits.Splits:
    rows, _ = _image_shape(arrays)
    label, site, fold = (
        npz.numbers(arrays, numbered, rows, "image") for numbered in ("label", "site", "fold")
    )
    group = npz.array(arrays, "split_group")
    if group.shape != (rows,):
        raise npz.corrupt(f"split_group has shape {group.shape}, not ({rows},) as image asks for")
    if len(np.unique(np.stack([group, fold]), axis=1).T) != len(np.unique(group)):
        raise npz.corrupt("a split_group stands in more than one fold")
    known = npz.names(arrays, "site")
    return cut.by_fold(
        dataset, cut.Columns(label, group, fold, np.array(known)[site], known), scenario_seed, name
    )

"""ABIDE I (Di Martino et al. 2014, CC BY-NC-SA 3.0): functional connectivity from one ``.npz``;
imaging sites act as hospitals.

Expected arrays, N rows each: ``fc_q8`` int8 (N, n (n - 1) / 2), the upper triangle of the Pearson
matrix of n regions in the order of ``np.triu_indices(n, 1)``, r = q / 127; ``label`` (N,) into
``label_names``; ``site`` and ``institution`` (N,) into ``site_names`` and ``institution_names``;
``fold`` (N,) in 0..4; ``sub_id`` (N,), and no subject may stand in two folds.

A region without signal has r = 0 to all others in a subject. Regions for which that is so in more
than `MOST_SILENT` of the file's subjects are left out for everybody, which keeps the regions of all
hospitals the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers import cut, npz, splits
from fedskd_sim.learning.samples import Arrays, Facts
from fedskd_sim.scenario import Abide

NEEDED = (
    "fc_q8",
    "label",
    "label_names",
    "site",
    "site_names",
    "institution",
    "institution_names",
    "fold",
    "sub_id",
)
SCALE = 127
LARGEST_R = 0.99
"""Correlations are cut here before Fisher's transform, which is infinite at 1."""
MOST_SILENT = 0.05


def facts(dataset: Abide, folder: Path | None, scenario_seed: int, name: str) -> Facts:
    """Read what can be checked before anything starts.

    Raises:
        DataMissing: no folder given, or the file is not in it.
        DataCorrupt: the file is truncated, lacks arrays or contradicts itself.
        InvalidValue: no such site, or validation and test are the same fold.

    """
    with npz.open_archive(npz.find(dataset.file, folder), NEEDED) as arrays:
        found = _splits(dataset, arrays, scenario_seed, name)
        labels, classes = npz.array(arrays, "label"), npz.names(arrays, "label")
        counts = splits.counts(name, splits.Source(dataset.file, classes, labels), found)
        return Facts(
            classes, len(_regions_with_signal(arrays)), 1, labels[found.train], counts, "roi"
        )


def load(dataset: Abide, folder: Path | None, scenario_seed: int, name: str) -> Arrays:
    """Read the connectivity of one site: Fisher z = arctanh r, diagonal 0; raises as `facts`."""
    with npz.open_archive(npz.find(dataset.file, folder), NEEDED) as arrays:
        chosen = _splits(dataset, arrays, scenario_seed, name)
        rows = chosen.rows
        kept, regions = _regions_with_signal(arrays), _regions(arrays)
        upper = npz.array(arrays, "fc_q8")[rows].astype(np.float32) / SCALE
        z = np.zeros((len(rows), regions, regions), np.float32)
        first, second = np.triu_indices(regions, 1)
        z[:, first, second] = np.arctanh(upper.clip(-LARGEST_R, LARGEST_R))
        z = (z + z.transpose(0, 2, 1))[:, kept][:, :, kept]
        remark = (
            f"{regions - len(kept)} of {regions} regions are left out, silent in many subjects"
            if len(kept) < regions
            else ""
        )
        ids = cut.distinct([str(subject) for subject in npz.array(arrays, "sub_id")], rows)
        return Arrays(
            z,
            npz.array(arrays, "label")[rows],
            chosen.places,
            npz.names(arrays, "label"),
            ids,
            chosen.subjects,
            remark,
        )


def _regions(arrays: Any) -> int:
    """Find n from the number of pairs."""
    shape, dtype = npz.shape(arrays, "fc_q8")
    pairs = shape[1] if len(shape) == 2 else 0  # noqa: PLR2004 - subjects by pairs
    regions = (1 + math.isqrt(1 + 8 * pairs)) // 2
    if pairs < 1 or regions * (regions - 1) // 2 != pairs or dtype != np.int8:
        raise npz.corrupt(f"fc_q8 has shape {shape} of {dtype}, not (N, n (n - 1) / 2) of int8")
    return regions


def _regions_with_signal(arrays: Any) -> NDArray[np.int64]:
    """Find the regions that have a signal in nearly all subjects."""
    regions, values = _regions(arrays), npz.array(arrays, "fc_q8")
    pairs = np.zeros((regions, regions), np.int64)
    first, second = np.triu_indices(regions, 1)
    pairs[first, second] = pairs[second, first] = np.arange(len(first))
    others = ~np.eye(regions, dtype=bool)
    silent = np.array(
        [
            (values[:, pairs[region][others[region]]] == 0).all(axis=1).mean()
            for region in range(regions)
        ]
    )
    return np.flatnonzero(silent <= MOST_SILENT)


def _splits(dataset: Abide, arrays: Any, scenario_seed: int, name: str) -> splits.Splits:
    _regions(arrays)
    rows = npz.shape(arrays, "fc_q8")[0][0]
    for numbered in ("label", "site", "institution"):
        npz.numbers(arrays, numbered, rows, "fc_q8")
    fold, subject = (
        npz.numbers(arrays, numbered, rows, "fc_q8") for numbered in ("fold", "sub_id")
    )
    if len(np.unique(np.stack([subject, fold]), axis=1).T) != len(np.unique(subject)):
        raise npz.corrupt("a subject stands in more than one fold")
    where = npz.find_site(dataset.site, npz.names(arrays, dataset.by), dataset.by)
    mine = npz.array(arrays, dataset.by) == where
    return splits.by_fold(dataset, mine, fold, scenario_seed, name)._replace(of=subject)

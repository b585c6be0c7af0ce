"""ABIDE I (Di Martino et al. 2014, CC BY-NC-SA 3.0) as one file of functional connectivity.

Expected: an ``.npz`` with arrays of N rows each: ``fc_q8`` int8 (N, n (n - 1) / 2), ``label`` (N,)
into ``label_names``, ``fold`` (N,) in 0 to 4, and ``sub_id`` (N,). Also ``site`` and
``institution`` (N,) into ``site_names`` and ``institution_names``. ``fc_q8`` is the upper triangle
of the Pearson matrix of n regions in the order of ``np.triu_indices(n, 1)``, with r = q / 127. No
subject may be in two folds.

Scanners or institutions act as hospitals. Models see Fisher's z of r, cut at 0.99. A region without
signal has r = 0 to all others in a subject. A region for which that is so in more than 5 % of the
file's subjects is left out for everybody, which keeps the regions of all hospitals the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim import Cohort, Preview
from fedskd_sim.datasets import npz
from fedskd_sim.datasets.refusals import corrupt, in_order

NUMBERED = ("label", "site", "institution")
NEEDED = ("fc_q8", "fold", "sub_id", *NUMBERED, *(f"{name}_names" for name in NUMBERED))
SCALE = 127
LARGEST_R = 0.99
"""Correlations are cut here before Fisher's transform, which is infinite at 1."""
MOST_SILENT = 0.05
Rows = NDArray[np.integer[Any]]


def read(
    folder: Path, *, file: str = "abide_ho111_nofilt_noglobal_q8.npz", by: str = "site"
) -> Cohort:
    """Read connectivity as Fisher z = arctanh r, diagonal 0; ``by`` site or institution."""
    with npz.open_archive(folder / file, NEEDED) as arrays:
        regions, rows = _regions(arrays), npz.shape(arrays, "fc_q8")[0][0]
        numbers = {
            name: npz.numbers(arrays, name, rows, "fc_q8") for name in (*NUMBERED, "fold", "sub_id")
        }
        classes, sites = npz.names(arrays, "label"), npz.names(arrays, by)
        values = npz.array(arrays, "fc_q8")
    kept = _regions_with_signal(values, regions)
    left_out = f"{regions - len(kept)} of {regions} regions are left out, silent in many subjects"

    def connectivity(rows: Rows) -> tuple[NDArray[np.float32], str]:
        upper = values[rows].astype(np.float32) / SCALE
        z = np.zeros((len(rows), regions, regions), np.float32)
        first, second = np.triu_indices(regions, 1)
        z[:, first, second] = np.arctanh(upper.clip(-LARGEST_R, LARGEST_R))
        z = (z + z.transpose(0, 2, 1))[:, kept][:, :, kept]
        return z, left_out * (len(kept) < regions)

    return Cohort(
        connectivity,
        numbers["label"],
        classes,
        subjects=in_order(numbers["sub_id"]),
        sites=np.array(sites)[numbers[by]],
        folds=numbers["fold"],
        ids=[str(subject) for subject in numbers["sub_id"]],
        preview=lambda _: Preview(np.empty((0, len(kept), len(kept)), np.float32)),
    )


def _regions(arrays: Any) -> int:
    """Find n from the number of pairs."""
    shape, dtype = npz.shape(arrays, "fc_q8")
    pairs = shape[1] if len(shape) == 2 else 0  # noqa: PLR2004 - subjects by pairs
    regions = (1 + math.isqrt(1 + 8 * pairs)) // 2
    if pairs < 1 or regions * (regions - 1) // 2 != pairs or dtype != np.int8:
        raise corrupt(f"fc_q8 has shape {shape} of {dtype}, not (N, n (n - 1) / 2) of int8")
    return regions


def _regions_with_signal(values: NDArray[np.int8], regions: int) -> NDArray[np.int64]:
    """Find the regions that have a signal in nearly all subjects."""
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

"""Which samples of a data set are a hospital's, and which of these train, validate and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers import npz, partition, splits
from fedskd_sim.learning.readers.partition import Column
from fedskd_sim.scenario import AbideRois, Derm7pt, Ham10000, Ham10000Images, MedMnist, Nifti
from fedskd_sim.seeds import seed

FOLDS = 5
TRAIN, VALIDATION, TEST = 0, 1, 2
"""The official splits, by number."""


def distinct(names: Sequence[str], rows: Iterable[int]) -> tuple[str, ...]:
    """Give the ids of some rows of a source: what names them there, with the row's number behind
    a name that several rows have.
    """
    counts = Counter(names)
    return tuple(
        names[row] if counts[names[row]] == 1 else f"{names[row]} (row {row})" for row in rows
    )


class Columns(NamedTuple):
    """What is known of every sample (N,): class, group that stays together, fold or official
    split, name of the site; all sites.
    """

    labels: Column
    groups: Column
    strata: Column
    sites: Column | None = None
    known: tuple[str, ...] = ()


def by_fold(
    dataset: Ham10000 | Ham10000Images | AbideRois | Nifti,
    columns: Columns,
    scenario_seed: int,
    name: str,
) -> splits.Splits:
    """Cut the hospital's site, or part, by folds.

    Args:
        dataset: with ``site``, and ``partition`` where there can be one, folds and ``limit``.
        columns: of all samples; strata are folds.
        scenario_seed: decides which training samples a limit leaves.
        name: the hospital's, for the same.

    Raises:
        InvalidValue: no such site, validation and test are the same fold, or too small a part.
        NoTrainingSamples: nothing of the part trains.

    """
    if isinstance(dataset, Ham10000 | Ham10000Images) and dataset.partition:
        trains = ~np.isin(columns.strata, [dataset.test_fold, dataset.validation_fold])
        mine = partition.own(dataset.partition, *columns[:3], trains)
    else:
        what = dataset.by if isinstance(dataset, AbideRois) else "site"
        mine = (
            np.asarray(columns.sites)
            == columns.known[npz.find_site(dataset.site, columns.known, what)]
        )
    found = splits.by_fold(dataset, mine, columns.strata, scenario_seed, name)
    return found._replace(of=np.asarray(columns.groups))


def by_split(
    dataset: MedMnist | Derm7pt, columns: Columns, scenario_seed: int, name: str
) -> splits.Splits:
    """Take the official splits of the whole set, or of the hospital's part; arguments and errors
    as `by_fold`.
    """
    mine: NDArray[np.bool_] = np.ones(len(columns.labels), bool)
    if dataset.partition:
        mine = partition.own(dataset.partition, *columns[:3], columns.strata == TRAIN)
    left_out = {
        splits.others_of(dataset): np.flatnonzero(~mine),
        "in no split": np.flatnonzero(mine & (columns.strata < TRAIN)),
    }
    train, validation, test = (
        mine & (columns.strata == split) for split in (TRAIN, VALIDATION, TEST)
    )
    found = splits.make_splits(
        (train, validation, test), left_out, dataset.limit, seed(scenario_seed, "limit", name)
    )
    return found._replace(of=np.asarray(columns.groups))


def draw_folds(groups: Column, strata: Column) -> NDArray[np.int64]:
    """Draw five folds, always the same ones: groups stay whole, and every stratum is spread over
    the folds evenly.

    The groups of a stratum are taken in random order, large ones first; each goes to the fold that
    has the fewest samples of the stratum, and among equals to the one with the fewest samples of
    all.

    Args:
        groups: samples that stay together have one group (N,).
        strata: what every fold shall have its share of (N,); that of a group is its first sample's.

    Returns:
        The fold of each sample (N,), from 0 to 4.

    """
    _, first, members, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    draw, folds, totals = (
        np.random.default_rng(seed(0, "folds")),
        np.zeros(len(first), np.int64),
        np.zeros(FOLDS, np.int64),
    )
    for stratum in np.unique(strata[first]):
        own = draw.permutation(np.flatnonzero(strata[first] == stratum))
        counts = np.zeros(FOLDS, np.int64)
        for group in own[np.argsort(-sizes[own], kind="stable")]:
            fold = np.lexsort((totals, counts))[0]
            folds[group] = fold
            counts[fold] += sizes[group]
            totals[fold] += sizes[group]
    return folds[members.reshape(-1)]

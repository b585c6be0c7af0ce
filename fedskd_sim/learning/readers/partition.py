"""Cutting one data set into parts for several hospitals, by Dirichlet draws; pure.

Label skew follows Hsu, Qi and Brown 2019 in the form common since: for every class, the shares of
the parts are drawn from Dir(alpha, ..., alpha). Quantity skew draws the shares once, for all
classes together. The shares are drawn once and then applied to every stratum (official split, or
fold) by itself: a hospital's training and test samples have the same expected class frequencies,
and a hospital keeps its samples when another fold is tested on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import InvalidValue, NoTrainingSamples
from fedskd_sim.scenario import Partition, partless
from fedskd_sim.seeds import seed

Column = NDArray[Any]


def cut(partition: Partition, labels: Column, groups: Column, strata: Column) -> NDArray[np.int64]:
    """Give every sample its part; the same for every hospital that asks.

    Args:
        partition: how to cut.
        labels: the class of each sample (N,).
        groups: samples that stay together have one group (N,); label and stratum of a group are
            those of its first sample.
        strata: what is cut by itself (N,).

    Returns:
        The part of each sample (N,), from 0 to ``partition.parts`` - 1.

    """
    _, first, members, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    draw = np.random.default_rng(seed(partition.seed, "partition", partition.by))
    kinds = labels[first] if partition.by == "dirichlet" else np.zeros(len(first), np.int64)
    found = np.zeros(len(first), np.int64)
    for kind in np.unique(kinds):
        shares = draw.dirichlet(np.full(partition.parts, partition.alpha))
        for stratum in np.unique(strata):
            own = draw.permutation(np.flatnonzero((kinds == kind) & (strata[first] == stratum)))
            found[own] = _dealt(sizes[own], shares, draw)
    return found[members.reshape(-1)]


def own(
    partition: Partition, labels: Column, groups: Column, strata: Column, trains: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Tell which samples are in this hospital's part.

    Args:
        partition: how to cut, and which part is the hospital's.
        labels: as for `cut`, like groups and strata.
        groups: see labels.
        strata: see labels.
        trains: which samples would train (N,).

    Raises:
        NoTrainingSamples: nothing of the part trains.
        InvalidValue: less than ``partition.least`` samples of it do, or it is not said which part.

    """
    if partition.part is None:
        raise partless(partition, ("data", "partition"))
    mine: NDArray[np.bool_] = cut(partition, labels, groups, strata) == partition.part
    count = int((mine & trains).sum())
    if count < partition.least:
        text = (
            f"part {partition.part} of {partition.parts} has {count or 'no'} training samples, "
            f"less than {partition.least}"
        )
        fix = f"choose a larger alpha than {partition.alpha:g}, another seed, fewer parts"
        error = InvalidValue if count else NoTrainingSamples
        raise error(
            text, fix=fix + (", or a smaller 'least'" if count else ""), key=("data", "partition")
        )
    return mine


def _dealt(
    sizes: NDArray[np.int64], shares: NDArray[np.float64], draw: np.random.Generator
) -> NDArray[np.int64]:
    """Lay groups side by side and give each to the part in whose share its middle lies; the
    parts lie in random order.
    """
    order = draw.permutation(len(shares))
    middles = (np.cumsum(sizes) - sizes / 2) / max(1, sizes.sum())
    dealt: NDArray[np.int64] = order[np.searchsorted(np.cumsum(shares[order])[:-1], middles)]
    return dealt

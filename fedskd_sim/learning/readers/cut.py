"""Which samples of a data set are a hospital's, and which of these train, validate and test; pure.

One data set is cut into parts for several hospitals by Dirichlet draws. Label skew follows Hsu, Qi
and Brown 2019 in the form common since: for every class, the shares of the parts are drawn from
Dir(alpha, ..., alpha). Quantity skew draws the shares once, for all classes together. The shares
are drawn once and then applied to every stratum (official split, or fold) by itself: a hospital's
training and test samples have the same expected class frequencies, and a hospital keeps its samples
when another fold is tested on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import InvalidValue, NoTrainingSamples
from fedskd_sim.learning.readers import splits
from fedskd_sim.scenario import Partition, nearest, partless
from fedskd_sim.seeds import seed

Column = NDArray[Any]


def cut(partition: Partition, labels: Column, groups: Column, strata: Column) -> NDArray[np.int64]:
    """Assign a part to every sample; the same for every hospital that asks.

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
            these = draw.permutation(np.flatnonzero((kinds == kind) & (strata[first] == stratum)))
            found[these] = _dealt(sizes[these], shares, draw)
    return found[members.reshape(-1)]


def own_part(
    partition: Partition, labels: Column, groups: Column, strata: Column, trains: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which samples are in this hospital's part.

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


FOLDS = splits.FOLDS
TRAIN, VALIDATION, TEST, NOWHERE = 0, 1, 2, -1
"""The splits that a reader gives, by number, and that of a sample in none."""


def distinct(names: Sequence[str], rows: Iterable[int]) -> tuple[str, ...]:
    """Return the ids of some rows of a source: what names them there, with the row's number behind
    a name that several rows have.
    """
    counts = Counter(names)
    return tuple(
        names[row] if counts[names[row]] == 1 else f"{names[row]} (row {row})" for row in rows
    )


class Columns(NamedTuple):
    """What is known of every sample (N,): class, group that stays together, fold or split, name of
    the site; all sites; and whether all of them are one hospital's.
    """

    labels: Column
    groups: Column
    strata: Column
    sites: Column | None = None
    known: tuple[str, ...] = ()
    own: bool = False


def choose(
    dataset: Any, columns: Columns, scenario_seed: int, name: str, *, by_split: bool
) -> splits.Splits:
    """Choose the rows of a hospital, by its site or its part, and cut them by folds or by splits.

    Args:
        dataset: with ``limit`` and, where there can be any, ``site``, ``partition`` and folds.
        columns: of all samples.
        scenario_seed: decides which training samples a limit leaves.
        name: the hospital's, for the same.
        by_split: whether strata are splits.

    Raises:
        InvalidValue: no such site, validation and test are the same fold, or too small a part.
        NoTrainingSamples: nothing of the part trains.

    """
    mine, strata = owned(dataset, columns, by_split=by_split), columns.strata
    if not by_split:
        found = splits.by_fold(dataset, mine, strata, scenario_seed, name)
        return found._replace(of=np.asarray(columns.groups))
    left_out = {
        splits.others_of(dataset): np.flatnonzero(~mine),
        "in no split": np.flatnonzero(mine & (strata == NOWHERE)),
    }
    train, validation, test = (mine & (strata == split) for split in (TRAIN, VALIDATION, TEST))
    draw = seed(scenario_seed, "limit", name)
    found = splits.make_splits((train, validation, test), left_out, dataset.limit, draw)
    return found._replace(of=np.asarray(columns.groups))


def owned(dataset: Any, columns: Columns, *, by_split: bool) -> NDArray[np.bool_]:
    """Return which samples (N,) are a hospital's; arguments and errors as those of `choose`."""
    strata = columns.strata
    if columns.own:
        return np.ones(len(strata), bool)
    if partition := getattr(dataset, "partition", None):
        held_back = () if by_split else (*splits.test_folds(dataset), dataset.validation_fold)
        trains = strata == TRAIN if by_split else ~np.isin(strata, held_back)
        return own_part(partition, *columns[:3], trains)
    if columns.sites is not None:
        site = find_site(dataset.site, columns.known, splits.kind_of_site(dataset))
        return np.asarray(columns.sites == site)
    if getattr(dataset, "site", ""):
        text = f"there is no site {dataset.site!r}: {dataset.reader} names none"
        fix = "leave it out and cut the data by 'partition', or let the reader give 'sites'"
        raise InvalidValue(text, fix=fix, key=("data", "site"))
    return np.ones(len(strata), bool)


def find_site(given: str, known: Sequence[str], what: str) -> str:
    """Find a site by name; InvalidValue with the nearest name."""
    if given not in known:
        text = f"there is no {what} {given!r}" if given else f"it does not say which {what}"
        fix = nearest(given, known, "") + f" choose one of {', '.join(known)}"
        raise InvalidValue(text, fix=fix.lstrip(), key=("data", "site"))
    return given


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

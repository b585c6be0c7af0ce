"""Which rows of a source train, validate and test at a hospital, which it leaves out and why, and
how many these are by class. A name that may be one of two things is an error that names both: only
whoever wrote it knows.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.task import MORE_LABELS, NO_LABEL, count_labels
from fedskd_sim.records import SampleCounts
from fedskd_sim.seeds import seed

Rows = NDArray[np.int64]
OVER_LIMIT = "more than the limit lets train"
FOLDS = 5
UNLABELLED = ""
"""The class of what has none."""


class Splits(NamedTuple):
    """Rows that train, validate and test, under each reason those that are left out, and whom each
    row of the source is of (N,), if it says so.
    """

    train: Rows
    validation: Rows
    test: Rows
    left_out: Mapping[str, Rows]
    of: NDArray[Any] | None = None

    @property
    def rows(self) -> Rows:
        """All rows that are used, one split after the other."""
        return np.concatenate((self.train, self.validation, self.test))

    @property
    def places(self) -> tuple[Rows, Rows, Rows]:
        """The splits as places in `rows`."""
        ends = np.cumsum([len(self.train), len(self.validation), len(self.test)])
        train, validation, test = np.split(np.arange(ends[-1]), ends[:-1])
        return train, validation, test

    @property
    def subjects(self) -> tuple[int, ...]:
        """Whom each of `rows` is of, as numbers of their own; empty where the source does not
        say.
        """
        if self.of is None:
            return ()
        _, numbers = np.unique(self.of[self.rows], return_inverse=True)
        return tuple(map(int, numbers.reshape(-1)))


class Source(NamedTuple):
    """What is counted: the file, the names of its classes, the class of each row (N,), and what
    it has besides rows, by reason.
    """

    name: str
    classes: Sequence[str]
    labels: NDArray[Any]
    besides: Mapping[str, Mapping[str, int]] = {}
    multi_label: bool = False


def counts(host: str, source: Source, splits: Splits) -> SampleCounts:
    """Count what a hospital found, uses and leaves out."""

    def by_class(rows: Rows) -> Counter[str]:
        labels = np.asarray(source.labels)[rows]
        return Counter(count_labels(labels, source.classes, multi_label=source.multi_label))

    used = {
        "train": by_class(splits.train),
        "validation": by_class(splits.validation),
        "test": by_class(splits.test),
    }
    left_out = {reason: by_class(rows) for reason, rows in splits.left_out.items()}
    for reason, numbers in source.besides.items():
        left_out[reason] = left_out.get(reason, Counter()) + Counter(numbers)
    found = sum((*used.values(), *left_out.values()), Counter())
    names = (NO_LABEL, *source.classes, MORE_LABELS, UNLABELLED)
    order = [name for name in names if name in found]
    return SampleCounts(
        host,
        source.name,
        _in_order(found, order),
        {name: _in_order(numbers, order) for name, numbers in used.items()},
        {reason: _in_order(numbers, order) for reason, numbers in left_out.items() if numbers},
    )


def by_fold(
    dataset: Any, mine: NDArray[np.bool_], fold: NDArray[Any], scenario_seed: int, name: str
) -> Splits:
    """Cut a hospital's rows by fold.

    Args:
        dataset: with ``test_fold``, ``validation_fold``, ``limit`` (training rows at most, drawn
            from the seed), and perhaps ``test_folds``.
        mine: which rows are the hospital's (N,).
        fold: the fold of each row (N,).
        scenario_seed: decides which training rows a limit leaves.
        name: the hospital's, for the same.

    Raises:
        InvalidValue: validation and test are the same fold.

    """
    tested = test_folds(dataset)
    if dataset.validation_fold in tested:
        given = "test_fold" if "test_fold" in dataset.model_fields_set else "validation_fold"
        text = f"fold {dataset.validation_fold} cannot both validate and test"
        raise InvalidValue(text, fix="choose two different folds", key=("data", given))
    trains = mine & ~np.isin(fold, [*tested, dataset.validation_fold])
    others = {others_of(dataset): np.flatnonzero(~mine)}
    validates, tests = mine & (fold == dataset.validation_fold), mine & np.isin(fold, tested)
    draw = seed(scenario_seed, "limit", name)
    return make_splits((trains, validates, tests), others, dataset.limit, draw)


def test_folds(dataset: Any) -> list[int]:
    """List the folds that test: ``test_fold`` and, where several are pooled, those before it."""
    pooled = getattr(dataset, "test_folds", 1)
    return [(dataset.test_fold - back) % FOLDS for back in range(pooled)]


def others_of(dataset: Any) -> str:
    """Describe whose the samples are that are not the hospital's."""
    if getattr(dataset, "partition", None):
        return "of another part"
    return f"of another {kind_of_site(dataset)}"


def kind_of_site(dataset: Any) -> str:
    """Describe what a hospital is, of the data sets that may be shared in more than one way."""
    return str(getattr(dataset, "by", "site"))


def make_splits(
    parts: tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]],
    left_out: Mapping[str, Rows],
    limit: int | None,
    draw: int,
) -> Splits:
    """Make splits from masks (N,), with at most so many training rows.

    Args:
        parts: which rows train, validate and test.
        left_out: the other rows, by reason.
        limit: how many may train; None for all.
        draw: the seed that decides which; a hospital's depends on the scenario's and its name.

    """
    train, validation, test = (np.flatnonzero(part) for part in parts)
    if limit is None or len(train) <= limit:
        return Splits(train, validation, test, left_out)
    kept = np.sort(np.random.default_rng(draw).choice(train, limit, replace=False))
    return Splits(kept, validation, test, {**left_out, OVER_LIMIT: np.setdiff1d(train, kept)})


def _in_order(numbers: Mapping[str, int], order: Sequence[str]) -> dict[str, int]:
    return {name: numbers[name] for name in order if numbers.get(name)}


def normal_form(name: str) -> str:
    """Write a name as it is apart from capital letters, blanks and the coding of accents."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def problem(what: str, named: Iterable[tuple[str, int]]) -> str:
    """Name which two of several names, each with its row, are one; empty if none are."""
    first: dict[str, tuple[str, int]] = {}
    for name, row in named:
        other, before = first.setdefault(normal_form(name), (name, row))
        if before != row:
            how = "twice" if other == name else "in two ways"
            return f"a {what} {how}: {other!r} in row {before} and {name!r} in row {row}"
    return ""

"""What paired differences over seeds say: Student's t, corrected for how many differences are
looked at; pure.

An interval and a p are about further seeds on the same data, not about other patients, and suppose
that the differences of seeds are independent and near normal. Where no test is possible (one seed,
or the same difference under every seed) nothing is claimed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit
from scipy.stats import nct

Values = NDArray[np.float64]

LEVEL = 0.05
"""How often a whole table may hold a false claim; intervals are at 1 - LEVEL."""
POWER = 0.8
MOST_SEEDS = 1000
LARGEST_SIZE = 100.0
"""Differences of more standard deviations than this take as few seeds."""
SAME = 1e-9
"""A spread below this is rounding: the difference is the same under every seed."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference over ``seeds`` seeds, those with both values; NaN stands for what cannot
    be said.

    ``low`` and ``high`` bound the 95 % interval of this difference by itself, ``p`` is its
    two-sided p. ``corrected`` is that p after Holm's correction, where it is one of ``beside``
    differences of a table.
    """

    mean: float
    error: float
    seeds: int
    low: float
    high: float
    p: float
    corrected: float = math.nan
    beside: int = 1

    @property
    def claimed(self) -> bool:
        """Return whether it may be called a difference, beside all others of its table."""
        return self.corrected <= LEVEL

    @property
    def needed(self) -> float:
        """The fewest seeds that find a difference of this size with a power of 80 % at the level
        LEVEL / beside.

        That is Holm's first step, which is enough at every other. The size is d = |mean| / sd as
        observed, itself uncertain. Power of n seeds, on the observed side: P(T > t_c), T noncentral
        t on n - 1 degrees of freedom with noncentrality d sqrt(n), t_c Student's two-sided critical
        value (Cohen 1988, chapter 2). A whole number, infinity beyond ``MOST_SEEDS``, NaN without a
        p.
        """
        if not math.isfinite(self.p):
            return math.nan
        size = min(LARGEST_SIZE, abs(self.mean) / (self.error * math.sqrt(self.seeds)))

        def power(seeds: int) -> float:
            least = stdtrit(seeds - 1, 1 - LEVEL / self.beside / 2)
            with np.errstate(divide="ignore"):  # of which SciPy before 1.14 warns, and is right
                return float(nct.sf(least, seeds - 1, size * math.sqrt(seeds)))

        found = bisect_left(range(MOST_SEEDS + 1), POWER, lo=2, key=power)
        return float(found) if found <= MOST_SEEDS else math.inf


class Student(NamedTuple):
    """What Student's t says of differences: shaped as they were, without the axis of the seeds."""

    mean: Values
    error: Values
    low: Values
    high: Values
    p: Values


def student(differences: Values) -> Student:
    """Test means against 0: t = mean / (sd / sqrt(n)) on n - 1 degrees of freedom, two-sided
    (Student 1908).

    Args:
        differences: (..., n), n > 1 seeds, of some spread.

    """
    freedom = differences.shape[-1] - 1
    mean = differences.mean(axis=-1)
    error = differences.std(axis=-1, ddof=1) / math.sqrt(freedom + 1)
    reach = error * stdtrit(freedom, 1 - LEVEL / 2)
    return Student(
        mean, error, mean - reach, mean + reach, 2 * stdtr(freedom, -np.abs(mean) / error)
    )


class SeedMean(NamedTuple):
    """A mean over ``seeds`` seeds, with the ends of its 95 % interval; NaN for what cannot be
    said.
    """

    mean: float
    low: float
    high: float
    seeds: int


def seed_mean(values: Iterable[float]) -> SeedMean:
    """Give the mean of one value per seed with Student's interval; values that are NaN are left
    out. One value, or the same one under every seed, has no interval.
    """
    known = np.array([value for value in values if math.isfinite(value)])
    seeds = len(known)
    if seeds > 1 and known.std(ddof=1) > SAME:
        found = student(known)
        return SeedMean(float(found.mean), float(found.low), float(found.high), seeds)
    return SeedMean(float(known.mean()) if seeds else math.nan, math.nan, math.nan, seeds)


def compare_paired(values: Sequence[float], control: Sequence[float]) -> Difference:
    """Compare two methods seed by seed.

    Args:
        values: one value per seed, NaN where it is missing.
        control: the control's, in the same order.

    """
    differences = np.array(
        [a - b for a, b in zip(values, control, strict=True) if math.isfinite(a - b)]
    )
    seeds = len(differences)
    if seeds > 1 and differences.std(ddof=1) > SAME:
        mean, error, low, high, p = map(float, student(differences))
        return Difference(mean, error, seeds, low, high, p)
    mean, error = float(differences.mean()) if seeds else math.nan, 0.0 if seeds > 1 else math.nan
    return Difference(mean, error, seeds, math.nan, math.nan, math.nan)


def correct(table: Iterable[Difference]) -> list[Difference]:
    """Correct all differences of a table together, in their order; those that cannot be tested
    count too.
    """
    found = list(table)
    adjusted = holm(np.array([difference.p for difference in found]))
    return [
        replace(difference, corrected=float(p), beside=len(found))
        for difference, p in zip(found, adjusted, strict=True)
    ]


def holm(ps: Values) -> Values:
    """Adjust p-values (..., m) so that claims at `LEVEL` are false in at most that share of
    families, whatever else is true.

    The i-th smallest becomes max_{j <= i} min(1, (m - j + 1) p_(j)) (Holm 1979); NaN stays, and is
    one of the m.
    """
    order = np.argsort(ps, axis=-1)  # NaN comes last
    steps = np.minimum(1, np.take_along_axis(ps, order, axis=-1) * np.arange(ps.shape[-1], 0, -1))
    adjusted = np.empty_like(ps)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(steps, axis=-1), axis=-1)
    return adjusted


def best(
    scores: Mapping[str, Sequence[float]],
    versus: Callable[[str, str], Difference] | None = None,
) -> str:
    """Name the method that is ahead of every other one, each at the level LEVEL / (methods - 1);
    empty if there is none.

    A method that is not the best one is named only if it beats that one by chance: the chances of
    all that might add up to no more than half of LEVEL.

    Args:
        scores: for each method one value per seed, all in the same order of seeds; a method without
            any value is left out.
        versus: compares two methods by name; None pairs their values.

    """
    known = {name: values for name, values in scores.items() if any(map(math.isfinite, values))}
    if len(known) <= 1:
        return ""
    first = max(known, key=lambda name: float(np.nanmean(known[name])))
    others = [name for name in known if name != first]
    leads = [
        versus(first, name) if versus else compare_paired(known[first], known[name])
        for name in others
    ]
    return first if all(lead.mean > 0 and lead.p * len(leads) <= LEVEL for lead in leads) else ""

"""Means, paired differences and what may be said of them; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
BEYOND_NOISE = 2.0
"""A difference of more than so many standard errors is called one."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference over seeds: its mean, the standard error of that, and a 95 % percentile bootstrap interval."""

    mean: float
    error: float
    low: float
    high: float

    @property
    def beyond_noise(self) -> bool:
        """Tell whether the mean is more than twice its standard error away from 0."""
        return abs(self.mean) > BEYOND_NOISE * self.error


def paired(values: Sequence[float], control: Sequence[float]) -> Difference:
    """Compare two methods seed by seed; NaN without any pair, an infinite error with one.

    Args:
        values: one value per seed, NaN where it is missing.
        control: the control's, in the same order.

    """
    differences = np.array([a - b for a, b in zip(values, control, strict=True) if math.isfinite(a - b)])
    count = len(differences)
    if not count:
        return Difference(math.nan, math.nan, math.nan, math.nan)
    mean = float(differences.mean())
    if count == 1:
        return Difference(mean, math.inf, -math.inf, math.inf)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    draws = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    low, high = np.percentile(differences[draws].mean(axis=1), [2.5, 97.5])
    return Difference(mean, error, float(low), float(high))


def verdict(scores: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """Name the methods that may be called best: the highest mean, and all that are not behind it by more than the noise.

    Args:
        scores: for each method one value per seed, all in the same order of seeds.

    """
    known = {name: values for name, values in scores.items() if any(map(math.isfinite, values))}
    if not known:
        return ()
    best = max(known, key=lambda name: float(np.nanmean(known[name])))
    ties = [name for name, values in known.items() if name != best and not paired(known[best], values).beyond_noise]
    return (best, *ties)

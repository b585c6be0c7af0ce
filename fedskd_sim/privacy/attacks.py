"""What somebody who saw models of a run can tell of a hospital's patients, in numbers; pure.

Three groups of samples are told apart by the losses that models have on them: members, which were
trained on; outsiders, of the same hospital, which were not; and canaries, of which a coin decided.
Members and outsiders are told apart by folds, not by coins: they give an AUC and rates. Only
canaries give a lower bound of epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
OUTSIDER, MEMBER, LEFT_OUT, PUT_IN = range(4)
"""Groups of samples; the last two are canaries."""
LEVEL = 0.05
"""How often a bound or interval may be wrong."""
RATES = (0.05, 0.01)
"""Shares of outsiders that may be taken for members."""
GUESSED = 0.5
"""The share of the canaries that are guessed, fixed before anything is seen: half of them as in,
half as out."""
LARGEST = 20.0
"""Epsilons are not looked for above this."""
SMALL = 1e-3
"""Added to a loss before its logarithm."""
HALVINGS = 50


class SeenLosses(NamedTuple):
    """What models said of the N samples of one hospital."""

    groups: NDArray[np.integer]
    """Of which group each is, (N,)."""
    before: Floats
    """Losses of the S models that came, (S, N); a row of NaN where none is known."""
    after: Floats
    """Losses of the models that left instead, (S, N), in order."""
    visits: NDArray[np.bool_]
    """Which of them were visitors, and not the hospital's own model, (S,)."""
    shown: bool
    """Whether the next hospital sees what leaves; else only two neighbours together do."""
    finals: Floats
    """Losses of the M models that everybody has in the end, (M, N)."""
    own: int
    """Which of these is the hospital's own."""


class Guesses(NamedTuple):
    """How many canaries were guessed, and how many of them rightly."""

    canaries: int
    guessed: int
    right: int

    def epsilon(self, delta: float = 0.0, level: float = LEVEL) -> float:
        """Return the least epsilon that this speaks for, as `lower_bound`."""
        return lower_bound(self, delta, level)

    def ceiling(self, delta: float = 0.0, level: float = LEVEL) -> float:
        """Return what `epsilon` would be, had every guess been right."""
        return lower_bound(self._replace(right=self.guessed), delta, level)


class Rate(NamedTuple):
    """A share of members that are found, with its interval."""

    found: float
    low: float
    high: float


def attacks(seen: SeenLosses) -> dict[str, Floats]:
    """Score every sample (N,), by attacker: the higher, the more likely it was trained on.

    Attackers are the next hospital, which sees models as they leave; two neighbours of the
    hospital, which see them come and leave; and everybody, who has the final models.
    """
    found: dict[str, Floats] = {}
    left = ~np.isnan(seen.after).any(1)
    moved = left & ~np.isnan(seen.before).any(1)
    for who, known, values in (
        ("next hospital", left & seen.shown, -np.log(seen.after + SMALL)),
        ("two neighbours", moved, seen.before - seen.after),
    ):
        if (known & seen.visits).any():
            found[f"{who}, last visitor"] = values[known & seen.visits][-1]
        if known.any():
            found[f"{who}, all models"] = np.stack([scaled(row) for row in values[known]]).sum(0)
    if len(seen.finals):
        found["everybody, its final model"] = -seen.finals[seen.own]
        found["everybody, mean of finals"] = -seen.finals.mean(0)
    return found


def scaled(scores: Floats) -> Floats:
    """Return scores (N,) with mean 0 and spread 1, so that those of hospitals can be pooled."""
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)


def auc(members: Floats, outsiders: Floats) -> tuple[float, float]:
    """Return the chance that a member scores above an outsider, equal scores counting half, and
    half the width of its 95 % interval (Hanley and McNeil 1982).

    >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))[0]
    0.875

    """
    both = np.concatenate((members, outsiders))
    _, places, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places.reshape(-1)]
    one, other = len(members), len(outsiders)
    area = float((ranks[:one].sum() - one * (one + 1) / 2) / (one * other))
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (one - 1) * (first - area**2) + (other - 1) * (second - area**2)
    return area, 1.96 * math.sqrt(max(0.0, variance) / (one * other))


def rate_at(members: Floats, outsiders: Floats, share: float) -> Rate | None:
    """Return which share of members scores above all outsiders but a ``share`` of them, with its
    95 % interval (Clopper and Pearson 1934); None where that share is less than one outsider.
    """
    passed = math.floor(share * len(outsiders) + 1e-9)
    if passed < 1:
        return None
    cut = np.sort(outsiders)[::-1][passed] if passed < len(outsiders) else -math.inf
    found, all_ = int((members > cut).sum()), len(members)
    low = high = found / all_
    low = _solved(lambda p: tail(found, all_, p) < LEVEL / 2, 0.0, low) if found else 0.0
    fewer = 1 - LEVEL / 2
    high = _solved(lambda p: tail(found + 1, all_, p) < fewer, high, 1.0) if found < all_ else 1.0
    return Rate(found / all_, low, high)


def guess(scores: Floats, put_in: NDArray[np.bool_]) -> Guesses:
    """Guess that the highest scores (N,) belong to canaries that were put in, the lowest to those
    that were left out, and count how many guesses are right.
    """
    each = int(len(scores) * GUESSED / 2)
    order = np.argsort(scores, kind="stable")
    right = int(put_in[order[len(order) - each :]].sum()) + int((~put_in[order[:each]]).sum())
    return Guesses(len(scores), 2 * each, right)


def chance(found: Guesses, epsilon: float, delta: float = 0.0) -> float:
    """Return the largest chance of as many right guesses or more, were the run (epsilon,
    delta)-private in each canary.

    Theorem 5.2 of Steinke, Nasr and Jagielski (2023, arXiv 2305.08846). With m canaries, r guesses,
    v of them right, and W from Binomial(r, e^epsilon / (1 + e^epsilon)), it is

        P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i,   i = 1, ..., v.

    """
    share = 1 / (1 + math.exp(-epsilon))
    usual = tail(found.right, found.guessed, share)
    if not delta or not found.right:
        return min(1.0, usual)
    below = masses(found.guessed, share)[: found.right][::-1].cumsum()
    slack = float((below / np.arange(1, found.right + 1)).max())
    return min(1.0, usual + 2 * found.canaries * delta * slack)


def lower_bound(found: Guesses, delta: float = 0.0, level: float = LEVEL) -> float:
    """Return the largest epsilon at which so many right guesses have a `chance` below ``level``; 0
    where even epsilon 0 explains them.

    >>> round(lower_bound(Guesses(240, 120, 120)), 1)
    3.7

    """
    if not found.guessed or chance(found, 0.0, delta) >= level:
        return 0.0
    return _solved(lambda epsilon: chance(found, epsilon, delta) < level, 0.0, LARGEST)


def _solved(below: Callable[[float], bool], low: float, high: float) -> float:
    """Return the largest number for which something holds that holds up to there."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


def masses(tries: int, share: float) -> Floats:
    """Return the chances of 0, 1, ..., ``tries`` successes (tries + 1,)."""
    if share in (0.0, 1.0):
        sure: Floats = (np.arange(tries + 1) == tries * share).astype(np.float64)
        return sure
    logs = [
        math.lgamma(tries + 1) - math.lgamma(k + 1) - math.lgamma(tries - k + 1)
        + k * math.log(share) + (tries - k) * math.log1p(-share)
        for k in range(tries + 1)
    ]  # fmt: skip
    found: Floats = np.exp(np.array(logs))
    return found


def tail(least: int, tries: int, share: float) -> float:
    """Return the chance of ``least`` successes or more."""
    return min(1.0, float(masses(tries, share)[least:].sum()))


class AttackResult(NamedTuple):
    """What one attacker can tell of the patients of one hospital, or of several."""

    auc: float
    width: float
    """Half of the AUC's 95 % interval."""
    rates: Mapping[float, Rate | None]
    """The share of members that are found, by the share of outsiders that are taken for some."""
    guesses: Guesses | None
    """None without canaries."""


def tell(scores: Floats, groups: NDArray[np.integer]) -> AttackResult | None:
    """Measure an attack by its scores (N,) and the groups (N,) of the samples; None without
    members or without outsiders.
    """
    members, outsiders = scores[groups == MEMBER], scores[groups == OUTSIDER]
    if not len(members) or not len(outsiders):
        return None
    area, width = auc(members, outsiders)
    canaries = groups >= LEFT_OUT
    found = guess(scores[canaries], groups[canaries] == PUT_IN) if canaries.any() else None
    rates = {share: rate_at(members, outsiders, share) for share in RATES}
    return AttackResult(area, width, rates, found)


def pooled(found: list[tuple[Floats, NDArray[np.integer]]]) -> tuple[Floats, NDArray[np.integer]]:
    """Pool the scores and groups of hospitals; patients and canaries are scaled by themselves."""
    scores = []
    for some, groups in found:
        own = some.copy()
        for mask in (groups < LEFT_OUT, groups >= LEFT_OUT):
            if mask.any():
                own[mask] = scaled(some[mask])
        scores.append(own)
    return np.concatenate(scores), np.concatenate([groups for _, groups in found])

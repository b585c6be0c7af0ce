"""What the answers of one model to many patients are worth, and how far that would move with other
patients of the same kind; pure.

Everything takes labels (N,) and class probabilities (N, C) as `fedskd_sim.results.predictions`
reads them.

Intervals are by the Bayesian bootstrap (Rubin 1981): in every draw each patient counts an
exponential weight instead of once. It is stratified: the weights of a class sum to the number of
its patients, so that no draw lacks a class. Every class also has two made-up patients of little
weight, one that a model gets right and one that it gets wrong; without them, a class of three
patients that are all right would have no spread at all. With weight 1/2 each, the share of right
decisions of a class with k of n right is distributed as Beta(k + 1/2, n - k + 1/2), which gives
Jeffreys' interval; for areas under ROC curves they weigh 1/10. Limits are percentiles.

The same draw is used for all models that are tested at a hospital, so that means over models are
right too. Several samples of one patient, as images of one lesion, are drawn together: they have
one weight, and a made-up patient has as many samples as the patients of its class have on average.
Simulated coverage of the 95 % intervals, 3 to 60 patients per class: 92 to 98 %
(tests/unit/results/test_patients.py has some of these cases).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.task import ONE_LABEL

BINS = 10
Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """A ROC curve from (0, 0) to (1, 1), without points on a straight line between others."""

    false_positive: Floats
    true_positive: Floats


@dataclass(frozen=True, slots=True)
class Calibration:
    """How sure a model is, and how often it is right: by bins of equal width of the probability of
    what it decided.

    ``confidence`` and ``right`` are means over a bin, NaN in an empty one.
    """

    counts: NDArray[np.int64]
    confidence: Floats
    right: Floats

    @property
    def error(self) -> float:
        """ECE = sum_b (n_b / N) |right_b - confidence_b| (Guo et al. 2017, arXiv 1706.04599);
        few patients raise it.
        """
        filled = self.counts > 0
        gaps = np.abs(self.right[filled] - self.confidence[filled])
        return float((gaps * self.counts[filled]).sum() / self.counts.sum())


def decisions(probabilities: Floats) -> NDArray[np.int64]:
    """Return the class (N,) that a model decides for."""
    return np.asarray(ONE_LABEL.decisions(probabilities), np.int64)


def confusion(labels: NDArray[np.int64], probabilities: Floats) -> NDArray[np.int64]:
    """Count patients by class (row) and decision (column), (C, C)."""
    classes = probabilities.shape[1]
    counts = np.asarray(
        np.bincount(labels * classes + decisions(probabilities), minlength=classes**2)
    )
    return counts.reshape(classes, classes)


def recalls(matrix: NDArray[np.int64]) -> Floats:
    """Return the share of right decisions of every class (C,) from `confusion`; NaN for a class
    without patients.
    """
    totals = matrix.sum(axis=1)
    return np.where(totals > 0, np.diag(matrix) / np.maximum(totals, 1), np.nan)


def roc(positive: NDArray[np.bool_], scores: Floats) -> Curve:
    """Return the ROC curve of one class against the rest.

    Args:
        positive: (N,), true for its patients; there are some of both.
        scores: (N,), its `odds`, or its probabilities.

    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order])[last]
    curve = np.stack([np.append(0, last + 1 - hits), np.append(0, hits)]).astype(np.float64)
    bends = np.any(np.diff(curve, 2) != 0, axis=0)
    curve = curve[:, np.concatenate([[True], bends, [True]])]
    return Curve(curve[0] / curve[0, -1], curve[1] / curve[1, -1])


def areas(labels: NDArray[np.int64], scores: Floats, weights: Floats | None = None) -> Floats:
    """Return the area under the ROC curve of every class against the rest, ties counted half.

    Args:
        labels: (N,); places beyond the classes are allowed with ``weights`` 0 only.
        scores: (N, C), `odds` of the classes, or their probabilities.
        weights: (B, N), how much every patient counts in each of B resamples; None is once.

    Returns:
        (C, B), one column without weights; NaN for a class that is absent or alone.

    """
    weigh = np.ones((1, len(labels))) if weights is None else weights
    found = np.full((scores.shape[1], len(weigh)), np.nan)
    for label in np.unique(labels):
        positive = labels == label
        if not positive.all():
            found[label] = _area(positive, scores[:, label], weigh)
    return found


def _area(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Weigh the Mann-Whitney statistic: sum_ij w_i w_j [s_i > s_j] / (sum_i w_i sum_j w_j), i
    positive, j negative; (B,).
    """
    order = np.flatnonzero(~positive)[np.argsort(scores[~positive])]
    below = np.concatenate(
        [np.zeros((len(weights), 1)), np.cumsum(weights[:, order], axis=1)], axis=1
    )
    sides: list[Any] = [
        np.searchsorted(scores[order], scores[positive], side) for side in ("left", "right")
    ]
    passed = sum(below[:, side] for side in sides) / 2
    own = weights[:, positive]
    return np.asarray((own * passed).sum(axis=1) / (own.sum(axis=1) * below[:, -1]))


def calibration(labels: NDArray[np.int64], probabilities: Floats) -> Calibration:
    """Compare how sure a model is of what it decides with how often that is right."""
    sure, right = probabilities.max(axis=1), decisions(probabilities) == labels
    place = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    filled = np.where(counts > 0, counts, np.nan)
    confidence, shares = (np.bincount(place, values, BINS) / filled for values in (sure, right))
    return Calibration(counts, confidence, shares)


DRAWS = 1000
LEVEL = 0.95
OF_SHARES, OF_AREAS = 0.5, 0.1


class Interval(NamedTuple):
    """A value with the limits of its interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, eq=False)
class Resampling:
    """The draws for one hospital's patients."""

    labels: NDArray[np.int64]
    _patients: Floats
    """(B, N), before they are brought to the sizes of the classes."""
    _made_up: tuple[Floats, Floats]
    """(B, 2, C') for shares and for areas: right and wrong, of the classes that are present."""

    @classmethod
    def of(
        cls,
        labels: NDArray[np.int64],
        seed: int,
        draws: int = DRAWS,
        subjects: NDArray[np.int64] | None = None,
    ) -> Resampling:
        """Draw the weights.

        Args:
            labels: (N,), classes of the patients.
            seed: the same one gives the same intervals.
            draws: how many.
            subjects: (N,), whom each sample is of; None for a patient each.

        """
        draw = np.random.default_rng(seed)
        size = (draws, 2, len(np.unique(labels)))
        if subjects is None:
            subjects = np.arange(len(labels))
        whose, samples = np.unique(subjects, return_inverse=True)
        patients = draw.standard_exponential((draws, len(whose)))[:, samples.reshape(-1)]
        each = [
            (labels == label).sum() / len(np.unique(subjects[labels == label]))
            for label in np.unique(labels)
        ]
        of_shares, of_areas = (draw.standard_gamma(of, size) for of in (OF_SHARES, OF_AREAS))
        return cls(labels, patients, (of_shares * each, of_areas * each))

    @property
    def present(self) -> NDArray[np.int64]:
        """The classes that have patients."""
        return np.unique(self.labels)

    def recalls(self, probabilities: Sequence[Floats]) -> Floats:
        """Return the share of right decisions of every class that is present, for M models in B
        draws: (C', B, M).
        """
        right = np.stack(
            [decisions(answers) == self.labels for answers in probabilities], axis=1
        ).astype(np.float64)
        found = []
        for place, label in enumerate(self.present):
            own = self.labels == label
            patients, made_up = self._patients[:, own], self._made_up[0][:, :, place]
            total = patients.sum(axis=1) + made_up.sum(axis=1)
            found.append((patients @ right[own] + made_up[:, :1]) / total[:, None])
        return np.stack(found)

    def areas(self, answers: Floats) -> Floats:
        """Return the mean area under the ROC curves of the classes that are present for one model,
        (B,), from its `odds` or probabilities (N, C); NaN for one class.
        """
        if len(self.present) == 1:
            return np.full(len(self._patients), np.nan)
        classes = answers.shape[1]
        ends = np.full((2, len(self.present), classes), -np.inf)
        ends[1] = np.inf
        own = np.arange(len(self.present)), self.present
        ends[0][own], ends[1][own] = np.inf, -np.inf
        scores = np.concatenate([answers, ends.reshape(-1, classes)])
        labels = np.concatenate([self.labels, self.present, self.present])
        weights = np.concatenate(
            [self._patients, self._made_up[1].reshape(len(self._patients), -1)], axis=1
        )
        for label in self.present:
            whose = labels == label
            weights[:, whose] *= (self.labels == label).sum() / weights[:, whose].sum(
                axis=1, keepdims=True
            )
        return np.asarray(np.nanmean(areas(labels, scores, weights), axis=0))


def interval(value: float, draws: Floats) -> Interval:
    """Return the interval between the percentiles of draws (B,); it holds the value."""
    if not (math.isfinite(value) and np.isfinite(draws).all()):
        return Interval(value)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, min(value, float(low)), max(value, float(high)))

"""What the answers of one model to many patients are worth: confusion, recall, ROC, calibration;
pure.

Everything takes labels (N,) and class probabilities (N, C) as `fedskd_sim.report.predictions` reads
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    """Give the class (N,) that a model decides for: the first of the most probable."""
    return np.asarray(probabilities.argmax(axis=1), np.int64)


def confusion(labels: NDArray[np.int64], probabilities: Floats) -> NDArray[np.int64]:
    """Count patients by class (row) and decision (column), (C, C)."""
    classes = probabilities.shape[1]
    counts = np.asarray(
        np.bincount(labels * classes + decisions(probabilities), minlength=classes**2)
    )
    return counts.reshape(classes, classes)


def recalls(matrix: NDArray[np.int64]) -> Floats:
    """Give the share of right decisions of every class (C,) from `confusion`; NaN for a class
    without patients.
    """
    totals = matrix.sum(axis=1)
    return np.where(totals > 0, np.diag(matrix) / np.maximum(totals, 1), np.nan)


def roc(positive: NDArray[np.bool_], scores: Floats) -> Curve:
    """Give the ROC curve of one class against the rest.

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
    """Give the area under the ROC curve of every class against the rest, ties counted half.

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

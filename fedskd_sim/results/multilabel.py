"""What answers are worth where a patient has several labels; pure.

Everything takes which labels are present, (N, L), probabilities (N, L) and thresholds (L,). Means
are over the labels that some patients have and others have not. Draws are those of
`fedskd_sim.results.curves`, label by label: present and absent are its two classes, and a patient
has the same weight for all labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.results import curves
from fedskd_sim.results.curves import Floats, Resampling

Present = NDArray[np.bool_]


class LabelledPatients(NamedTuple):
    """The patients of one hospital: which labels are present (N, L), from what the draws follow,
    and whom each sample is of (N,).
    """

    present: Present
    seed: int
    subjects: NDArray[np.int64] | None


def tested(present: Present) -> NDArray[np.int64]:
    """Return the labels that some patients have and others have not."""
    counts = present.sum(axis=0)
    return np.flatnonzero((counts > 0) & (counts < len(present)))


def confusion(present: Present, decided: Present) -> NDArray[np.int64]:
    """Count patients by label, whether they have it, and whether that is decided: (L, 2, 2)."""
    counts = [
        np.bincount(2 * own + said, minlength=4).reshape(2, 2)
        for own, said in zip(present.T.astype(np.int64), decided.T, strict=True)
    ]
    return np.stack(counts)


def sensitivities(matrix: NDArray[np.int64]) -> Floats:
    """Return the share of those with a label for whom it is decided, (L,); NaN for nobody."""
    having = matrix[:, 1].sum(axis=1)
    return np.where(having > 0, matrix[:, 1, 1] / np.maximum(having, 1), np.nan)


def areas(present: Present, scores: Floats) -> Floats:
    """Return the area under the ROC curve of each label, (L,); NaN where all have it or none."""
    found = np.full(scores.shape[1], np.nan)
    for label in tested(present):
        found[label] = curves.areas(present[:, label].astype(np.int64), _pair(scores[:, label]))[
            1, 0
        ]
    return found


def measures(matrix: NDArray[np.int64], areas: Floats) -> dict[str, float]:
    """Compute what records have of a test, from `confusion` and `areas`."""
    right = matrix[:, [0, 1], [0, 1]]
    with np.errstate(invalid="ignore"):
        balanced = (right / matrix.sum(axis=2)).mean(axis=1)
    known = np.isfinite(areas)
    return {
        "accuracy": float(right.sum() / matrix.sum()),
        "balanced_accuracy": float(balanced[known].mean()) if known.any() else np.nan,
        "auc": float(areas[known].mean()) if known.any() else np.nan,
    }


def draw(
    whose: LabelledPatients, decided: Sequence[Present], scores: Sequence[Floats | None]
) -> list[Mapping[str, Floats]]:
    """Return every measure of M models in all draws, (B,), and as ``recall`` the sensitivity to the
    labels that are `tested`, (L', B); areas are NaN of a model without ``scores``.
    """
    labels = tested(whose.present)
    found: list[dict[str, list[Floats]]] = [
        {"recall": [], "accuracy": [], "balanced_accuracy": [], "auc": []} for _ in decided
    ]
    draws = 0
    for label in labels:
        own = whose.present[:, label].astype(np.int64)
        resampled = Resampling.of(own, whose.seed, subjects=whose.subjects)
        # of absent and of present, in B draws, for M models
        shares = resampled.recalls([_pair(one[:, label].astype(float) - 0.5) for one in decided])
        sizes, draws = np.bincount(own) / len(own), shares.shape[1]
        for number, into in enumerate(found):
            drawn, ranked = shares[:, :, number], scores[number]
            into["recall"].append(drawn[1])
            into["accuracy"].append(sizes @ drawn)
            into["balanced_accuracy"].append(drawn.mean(axis=0))
            nothing = np.full(draws, np.nan)
            into["auc"].append(
                nothing if ranked is None else resampled.areas(_pair(ranked[:, label]))
            )
    return [
        {
            name: np.stack(values) if name == "recall" else np.mean(values, axis=0)
            for name, values in one.items()
        }
        if draws
        else {"recall": np.zeros((0, 1))} | dict.fromkeys([*one][1:], np.full(1, np.nan))
        for one in found
    ]


def calibration(present: Present, answers: Sequence[Floats]) -> curves.Calibration:
    """Compare how sure models are of each label, that it is present or that it is not, with how
    often that is right.
    """
    chances = np.concatenate(answers).reshape(-1)
    own = np.tile(present, (len(answers), 1)).reshape(-1).astype(np.int64)
    return curves.calibration(own, np.stack([1 - chances, chances], axis=1))


def _pair(scores: Floats) -> Floats:
    """Return scores of absent and present, (N, 2), from those of present (N,)."""
    return np.stack([-scores, scores], axis=1)

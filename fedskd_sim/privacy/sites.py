"""Whether the answers of models name the hospital that a patient is of; pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 7
ROUNDS = 200
"""Permutations that say what chance gives."""
MOST = 500
"""Patients that are asked about, drawn from all: distances are kept of every pair."""
FEWEST = 40
"""Patients below which nothing is told."""


class Named(NamedTuple):
    """How often the hospital was named, every hospital counting alike."""

    patients: int
    right: float
    by_chance: float
    """The mean over permutations."""
    p: float
    """How often a permutation does as well, at least 1 / (`ROUNDS` + 1)."""


def probe(answers: NDArray[np.float64], homes: NDArray[np.int64], seed: int = 0) -> Named | None:
    """Name the hospital of each patient by the hospitals of the patients with the nearest answers.

    Every patient is left out once. The votes of its seven nearest neighbours are weighted by how
    rare a hospital is. What chance gives is measured by permuting the hospitals.

    Args:
        answers: (N, F), as all models' probabilities of a patient, one after the other.
        homes: the hospital of each, (N,), as numbers.
        seed: decides which patients are asked about, and the permutations.

    Returns:
        What was found; None of too few patients, or of one hospital.

    """
    draw = np.random.default_rng(seed)
    some = np.sort(draw.permutation(len(homes))[:MOST])
    homes = np.unique(homes[some], return_inverse=True)[1].reshape(-1)
    answers = answers[some]
    if len(homes) < FEWEST or homes.max() == 0:
        return None
    squares = (answers**2).sum(1)
    distances = squares[:, None] + squares[None, :] - 2 * answers @ answers.T
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    found = _named(near, homes)
    null = [_named(near, draw.permutation(homes)) for _ in range(ROUNDS)]
    as_good = sum(value >= found for value in null)
    return Named(len(homes), found, float(np.mean(null)), (1 + as_good) / (ROUNDS + 1))


def _named(near: NDArray[np.int64], homes: NDArray[np.int64]) -> float:
    """Return the mean over hospitals of the share of their patients that are named rightly."""
    shares = np.bincount(homes) / len(homes)
    votes = np.stack([(homes[near] == one).mean(1) / share for one, share in enumerate(shares)], 1)
    right = votes.argmax(1) == homes
    return float(np.mean([right[homes == one].mean() for one in range(len(shares))]))

"""What home does with its resident and its returned traveller: two replicas of the same hospital's
model.

No other hospital's weights enter, so this is not aggregation across hospitals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedskd_sim.learning.weights import FLOATS, buffer_of, tensor_of
from fedskd_sim.messages import Buffer, Weights

Mode = Literal["average", "two_track", "replace", "select"]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What `CirculatingLearner.join` returns."""

    home: Weights
    """The home model of the next round."""
    general: Weights | None = None
    """A model that departs in its place, as with ``reconcile: two_track``; None: a copy of home."""
    note: str = ""
    """Why another model was taken than the mode says, for the record."""


def reconcile(
    mode: Mode,
    resident: Weights,
    traveller: Weights,
    score: Callable[[Weights], float],
    validation: int,
) -> Reconciled:
    """Join a resident and its returned traveller.

    Args:
        mode: ``average`` takes the mean, unless it scores worse than the better parent by more than
            max(0.01, 0.5 / sqrt(validation)), in which case that parent is taken; ``two_track``
            keeps both; ``replace`` takes the traveller; ``select`` the one that scores better.
        resident: weights of the model that stayed.
        traveller: weights of the model that came home.
        score: balanced accuracy of weights on the validation data.
        validation: number of validation samples.

    """
    match mode:
        case "replace":
            return Reconciled(traveller)
        case "two_track":
            return Reconciled(resident, traveller)
        case "select":
            return _better(resident, traveller, (score(resident), score(traveller)))
        case "average":
            return _average(resident, traveller, score, validation)


def mean(one: Weights, other: Weights) -> Weights:
    """Average float tensors of two replicas; integer tensors are taken from the first."""
    return {
        name: _mean(buffer, other[name]) if buffer.dtype in FLOATS else buffer
        for name, buffer in one.items()
    }


def _mean(one: Buffer, other: Buffer) -> Buffer:
    # halves first: their sum cannot overflow
    return buffer_of(tensor_of(one) * 0.5 + tensor_of(other) * 0.5)


def _average(
    resident: Weights, traveller: Weights, score: Callable[[Weights], float], validation: int
) -> Reconciled:
    middle = mean(resident, traveller)
    scores = score(resident), score(traveller)
    parent = _better(resident, traveller, scores)
    margin = max(0.01, 0.5 / math.sqrt(validation)) if validation else math.inf
    loss = max(scores) - score(middle)
    if loss > margin:
        return Reconciled(parent.home, note=f"{parent.note}; the average was worse by {loss:.3f}")
    return Reconciled(middle)


def _better(resident: Weights, traveller: Weights, scores: tuple[float, float]) -> Reconciled:
    if scores[1] > scores[0]:
        return Reconciled(
            traveller, note=f"took the traveller ({scores[1]:.3f} against {scores[0]:.3f})"
        )
    return Reconciled(resident, note=f"took the resident ({scores[0]:.3f} against {scores[1]:.3f})")

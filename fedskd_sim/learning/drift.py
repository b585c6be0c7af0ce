"""How far a session has moved the weights of a model."""

from __future__ import annotations

from fedskd_sim.learning.base import Measures
from fedskd_sim.learning.weights import FLOATS, tensor_of
from fedskd_sim.messages import Weights
from fedskd_sim.records import Measure


def drift(before: Weights, after: Weights, name: str = "drift") -> Measures:
    """Give the Euclidean change of the float tensors as a sum and, as its weight, their norm
    before: the mean is relative.
    """
    moved = length = 0.0
    for key, now in after.items():
        if now.dtype in FLOATS:
            old = tensor_of(before[key]).double()
            moved += float((tensor_of(now).double() - old).square().sum())
            length += float(old.square().sum())
    return {name: Measure(moved**0.5, length**0.5 or 1.0)}

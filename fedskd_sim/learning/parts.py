"""Sets of weights that travel together: the names of the second one are prefixed."""

from __future__ import annotations

from fedskd_sim.messages import Weights


def join(weights: Weights, prefix: str, other: Weights) -> Weights:
    """Put a second set of weights behind the first, its names prefixed."""
    return {**weights, **{prefix + name: buffer for name, buffer in other.items()}}


def split(weights: Weights, prefix: str) -> tuple[Weights, Weights]:
    """Undo `join`; the second set is empty where there is none."""
    first = {name: buffer for name, buffer in weights.items() if not name.startswith(prefix)}
    return first, {
        name.removeprefix(prefix): buffer
        for name, buffer in weights.items()
        if name.startswith(prefix)
    }


def copy_of(weights: Weights) -> Weights:
    """Copy weights that live in a model or in a received message."""
    return {name: buffer._replace(data=bytearray(buffer.data)) for name, buffer in weights.items()}

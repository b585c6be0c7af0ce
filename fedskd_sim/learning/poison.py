"""Weights that are wrong on purpose."""

from __future__ import annotations

import numpy as np

from fedskd_sim.messages import Buffer, Weights

FLOATS = ("float64", "float32", "float16")


def poison(weights: Weights, factor: float | None) -> Weights:
    """Give a copy of weights times a factor, or without one with not a number everywhere.

    Whole numbers and bfloat16, which numpy does not know, stay as they are. What no longer fits its
    type becomes infinite.
    """
    return {name: _poison(buffer, factor) for name, buffer in weights.items()}


def _poison(buffer: Buffer, factor: float | None) -> Buffer:
    if buffer.dtype not in FLOATS:
        return buffer
    values = np.frombuffer(buffer.data, buffer.dtype)
    with np.errstate(over="ignore"):
        wrong = values * values.dtype.type(np.nan if factor is None else factor)
    return buffer._replace(data=wrong.tobytes())

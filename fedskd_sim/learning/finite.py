"""Whether a tensor's numbers are numbers, at the speed of memory, for those that come from
others.
"""

from __future__ import annotations

import numpy as np

HALVES = {"float16": 0x7C00, "bfloat16": 0x7F80}
"""The bits of the exponent: all of them are set in what is infinite or not a number."""


def finite(dtype: str, data: memoryview) -> bool:
    """Tell whether a tensor has neither infinite values nor NaN; whole numbers never have.

    The sum of squares tells nearly always, and once through the cache; only where it overflows
    every number is looked at.

    Args:
        dtype: element type as `fedskd_sim.messages.Buffer` names it.
        data: the tensor's bytes.

    """
    if dtype in HALVES:
        bits = np.frombuffer(data, np.uint16) & HALVES[dtype]
        return not bool((bits == HALVES[dtype]).any())
    if dtype not in ("float32", "float64"):
        return True
    values = np.frombuffer(data, dtype)
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.dot(values, values)) or np.isfinite(values).all())

"""How measures are named and differences are written wherever a comparison is shown."""

from __future__ import annotations

import math

from fedskd_sim.compare.statistics import LEVEL, MOST_SEEDS, Difference
from fedskd_sim.report.notes import ADJUSTED
from fedskd_sim.report.text import TITLES

WIDTH = 118
NAMES = {
    **TITLES,
    ADJUSTED: "balanced accuracy, adjusted",
    "retention": "home retention",
    "forgetting": "forgetting",
}
SMALLEST_P = 0.001


def format_difference(difference: Difference | None) -> tuple[str, str, str]:
    """Write a difference in points with its interval, the corrected p and the seeds that a claim
    takes; blank what is unknown.
    """
    if difference is None:
        return "", "", ""
    low, high, p, needed = difference.low, difference.high, difference.corrected, difference.needed
    if not math.isfinite(p):
        return f"{100 * difference.mean:+.1f}", "", ""
    seeds = f"{needed:.0f}" if math.isfinite(needed) else f">{MOST_SEEDS}"
    return (
        f"{100 * difference.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
        _format_p(p) if p >= SMALLEST_P else f"<{SMALLEST_P}",
        seeds,
    )


def _format_p(p: float) -> str:
    """Write a p with as many digits as tell on which side of `LEVEL` it is."""
    texts = (f"{p:.{digits}f}" for digits in range(3, 17))
    return next((text for text in texts if (float(text) <= LEVEL) == (p <= LEVEL)), repr(p))

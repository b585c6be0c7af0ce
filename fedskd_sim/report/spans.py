"""When the hospitals of a run did what, taken from a stream of timings: numbers in arrays,
whatever their count.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.records import Timing

Floats = NDArray[np.float64]


@dataclass
class Spans:
    """The timings of a run."""

    peaks: dict[str, int] = field(default_factory=dict)
    """The largest resident memory of every hospital's process, in bytes."""
    cards: dict[str, int] = field(default_factory=dict)
    """The most that it has taken of a card's memory; only those that have."""
    _times: dict[tuple[str, str], array[float]] = field(default_factory=dict)
    """By host and kind of timing: start and end of each in turn, UNIX seconds."""

    @classmethod
    def of(cls, timings: Iterable[Timing]) -> Spans:
        """Take in all timings of a run."""
        found = cls()
        for timing in timings:
            place = timing.host, timing.what
            if place not in found._times:
                found._times[place] = array("d")
            found._times[place].extend((timing.start, timing.end))
            if timing.peak_bytes > found.peaks.get(timing.host, 0):
                found.peaks[timing.host] = timing.peak_bytes
            if timing.device_bytes > found.cards.get(timing.host, 0):
                found.cards[timing.host] = timing.device_bytes
        return found

    def __len__(self) -> int:
        """Count the timings."""
        return sum(map(len, self._times.values())) // 2

    @property
    def restarts(self) -> dict[str, int]:
        """Count how often each hospital was started again and went on; only those that were."""
        return {
            host: len(times) // 2
            for (host, what), times in sorted(self._times.items())
            if what == "resumed"
        }

    @property
    def range(self) -> tuple[float, float]:
        """Give the first start and the last end, UNIX seconds."""
        ends = [np.array(times) for times in self._times.values()]
        return min(float(times.min()) for times in ends), max(float(times.max()) for times in ends)

    def at(self, host: str, what: str, since: float) -> tuple[Floats, Floats]:
        """Give starts and ends of one kind of timing at a hospital, in seconds since a UNIX
        time.
        """
        times = np.array(self._times.get((host, what), array("d"))).reshape(-1, 2) - since
        return times[:, 0], times[:, 1]


def busy(starts: Floats, ends: Floats, edges: Floats) -> Floats:
    """Give the share of the time between each two edges that lies within spans, at most 1; (B,) for
    B + 1 edges.

    The time that spans have taken until t is sum_i max(0, t - start_i) - sum_i max(0, t - end_i).
    """

    def elapsed(moments: Floats) -> Any:
        ordered = np.sort(moments)
        count = np.searchsorted(ordered, edges)
        return count * edges - np.concatenate([[0.0], np.cumsum(ordered)])[count]

    return np.asarray(np.clip(np.diff(elapsed(starts) - elapsed(ends)) / np.diff(edges), 0.0, 1.0))

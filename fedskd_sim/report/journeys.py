"""What a picture of the models' journeys needs of the timings: all of a short run, of a long one
its first rounds; and which hops took more than one attempt or were done again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from fedskd_sim.records import Timing

MOST_PIECES = 1200
MOST_LINES = 24
MOST_REPEATED = 200


class Repeat(NamedTuple):
    """A hop of a model that was sent more than once, or a session that was done more than once:
    where, whereto ('': a session), how often, and the seconds of the last time.
    """

    model: str
    round: int
    hop: int
    host: str
    to: str
    times: int
    seconds: float


@dataclass
class Journeys:
    """Pieces of a run by rounds; a round is kept whole or not at all, and only of hospitals that
    are drawn.
    """

    hosts: tuple[str, ...]
    """Those that are drawn, in ring order."""
    more_repeats: int = 0
    """How many are left out of the repeats."""
    attempts_known: bool = False
    cut: int | None = None
    """The first round that is not kept."""
    _kept: dict[int, list[Timing]] = field(default_factory=dict)
    _repeats: dict[tuple[str, str, str, int, int], Repeat] = field(default_factory=dict)
    _size: int = 0
    _host: str = ""
    _done: Counter[tuple[str, str, int, int]] = field(default_factory=Counter)
    """What the hospital has done whose timings are being read: what, model, round, hop."""

    @classmethod
    def among(cls, hospitals: Iterable[str]) -> Journeys:
        """Take the first hospitals, as many as can be told apart."""
        return cls(tuple(islice(hospitals, MOST_LINES)))

    def taking(self, timings: Iterable[Timing]) -> Iterator[Timing]:
        """Yield timings unchanged and keep those that can be drawn: whoever sums them up afterwards
        reads the files once for both.
        """
        for timing in timings:
            self._look(timing)
            if timing.host in self.hosts and (self.cut is None or timing.round < self.cut):
                self._kept.setdefault(timing.round, []).append(timing)
                self._size += 1
                if self._size > MOST_PIECES:
                    self._shorten()
            yield timing

    @property
    def repeats(self) -> list[Repeat]:
        """Give what took place more than once, by round and hop."""
        return sorted(self._repeats.values(), key=lambda one: (one.round, one.hop))

    @property
    def pieces(self) -> list[Timing]:
        """Give what can be drawn, in order of time."""
        found = [one for kept in self._kept.values() for one in kept]
        return sorted(found, key=lambda one: one.start)[:MOST_PIECES]

    @property
    def whole(self) -> bool:
        """Tell whether everything of the hospitals that are drawn can be."""
        return self.cut is None and self.fits

    @property
    def fits(self) -> bool:
        """Tell whether everything of the rounds that are kept can be drawn."""
        return self._size <= MOST_PIECES

    @property
    def last(self) -> int:
        """Give the last round that is kept."""
        return max(self._kept, default=0)

    def _shorten(self) -> None:
        """Let the last round go, unless it is the only one in which models travel."""
        if len(self._kept.keys() - {0}) > 1:
            self.cut = max(self._kept)
            self._size -= len(self._kept.pop(self.cut))

    def _look(self, timing: Timing) -> None:
        """Note what took place more than once."""
        if timing.host != self._host:
            self._host = timing.host
            self._done.clear()
        sent = timing.what == "transfer"
        if not sent and timing.what not in ("session", "warm_up"):
            return
        place = timing.what, timing.model, timing.round, timing.hop
        self._done[place] += max(1, timing.attempts)
        self.attempts_known |= timing.attempts > 0
        if (times := self._done[place]) > 1:
            key = timing.host, *place
            if key in self._repeats or len(self._repeats) < MOST_REPEATED:
                seconds = timing.end - timing.start
                self._repeats[key] = Repeat(*place[1:], timing.host, timing.to, times, seconds)
            else:
                self.more_repeats += 1

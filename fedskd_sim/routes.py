"""The way of models through a ring that has lost hospitals; pure, O(hospitals lost) per question.

Nothing is numbered anew: a model, a round and a hop mean the same host in every epoch. Stops at a
lost hospital are *void*: whoever had the model before sends it on to the next stop that is not. The
lost hospital's own model travels on, from its last visit of a round to the first of the next, or
from some round on its stops are void too. So all that an epoch says is who is lost, which only
grows: whatever the order in which two hospitals hear of it, what they do fits together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fedskd_sim.topology import FIRST_EPOCH, Stop, Topology

Lost = Mapping[str, int]
"""Hospitals that are lost, each with the first round in which its model does not travel; 0: it
travels on to the end."""
NOBODY: Lost = MappingProxyType({})


def merged(one: Lost, other: Lost) -> Lost:
    """Give all that are lost by either word; a model retires at the earlier of two rounds."""
    return {
        name: min(rounds) if (rounds := [r for r in (one.get(name, 0), other.get(name, 0)) if r])
        else 0
        for name in sorted({*one, *other})
    }  # fmt: skip


def epoch(lost: Lost) -> int:
    """Number the epoch: every loss, and every model that retires, begins another."""
    return FIRST_EPOCH + len(lost) + sum(1 for round_ in lost.values() if round_)


@dataclass(frozen=True)
class Routes:
    """The ways that are left of a topology's."""

    topology: Topology
    lost: Lost = field(default_factory=lambda: NOBODY)

    def void(self, stop: Stop) -> bool:
        """Tell whether nothing happens at a stop: its host is lost, or its model has retired."""
        retired = self.lost.get(stop.model, 0)
        return stop.host in self.lost or (0 < retired <= stop.round)

    def onward(self, stop: Stop) -> Stop | None:
        """Give the stop to which a model goes after this one, or None where it stays."""
        if not self.lost:
            return self.topology.onward(stop)
        at_home = stop.kind == "homecoming" and not self.void(stop)
        return None if at_home else self.next_living(self._after(stop))

    def departure(self, model: str, round_: int) -> Stop | None:
        """Give the stop to which a hospital's model sets out in a round."""
        return self.next_living(self.topology.stop(model, round_, 1))

    def next_living(self, stop: Stop | None) -> Stop | None:
        """Give the first stop of a model's way, from this one on, that is not void."""
        while stop is not None and self.void(stop):
            stop = self._after(stop)
        return stop

    def goes_on(self, stop: Stop) -> bool:
        """Tell whether a model has another stop to go to after this one, from whoever hosts it."""
        return self.next_living(self._after(stop)) is not None

    def before(self, stop: Stop) -> Stop | None:
        """Give the stop where a model was before this one; None at the beginning of its way."""
        found = self.back(stop)
        while found is not None and found.host in self.lost:
            found = self.back(found)
        return found

    def sender(self, stop: Stop) -> str:
        """Name the hospital from which a stop's model comes."""
        if not self.lost:
            return self.topology.sender(stop)
        before = self.before(stop)
        return before.host if before else stop.model

    def _after(self, stop: Stop) -> Stop | None:
        """Give the next stop of a model as if nobody were lost, through all rounds."""
        ring = self.topology
        if stop.hop + 1 in ring.hops(stop.round):
            return ring.stop(stop.model, stop.round, stop.hop + 1)
        following = stop.round + 1
        return ring.stop(stop.model, following, 1) if self._has(following) else None

    def back(self, stop: Stop) -> Stop | None:
        """Give the stop before one as if nobody were lost; for a hospital's own model, that of its
        homecoming a round before.
        """
        ring, earlier = self.topology, stop.round - 1
        if stop.hop > 1:
            return ring.stop(stop.model, stop.round, stop.hop - 1)
        return (
            ring.stop(stop.model, earlier, ring.hops(earlier)[-1]) if self._has(earlier) else None
        )

    def _has(self, round_: int) -> bool:
        """Tell whether models travel in a round."""
        ring = self.topology
        return 1 <= round_ <= ring.evaluation_round and len(ring.hops(round_)) > 0

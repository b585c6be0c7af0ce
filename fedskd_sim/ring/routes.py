"""The way of models through a ring that has lost hospitals; pure, O(hospitals lost) per question.

Nothing is numbered anew: a model, a round and a hop mean the same host in every epoch. Stops at a
lost hospital are *void*: whoever had the model before sends it on to the next stop that is not. The
lost hospital's own model travels on, from its last visit of a round to the first of the next, or
from some round on its stops are void too. So all that an epoch says is who is lost, which only
grows: whatever the order in which two hospitals hear of it, what they do fits together.

A lost hospital may be back from a round on: its stops of that round and later ones are void no
more. Its model comes home in that round, from wherever it has travelled meanwhile, and sets out
from home again in the next; one that has retired stays so. What is known of a return only grows,
too; who may believe in one is said in `fedskd_sim.protocol.losses`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from fedskd_sim.ring.topology import FIRST_EPOCH, Stop, Topology

LostHospitals = Mapping[str, int]
"""Hospitals that are or were lost, each with the first round in which its model does not travel; 0:
it travels on to the end."""
NOBODY: LostHospitals = MappingProxyType({})


class Back(NamedTuple):
    """A lost hospital's return: from which round on it is back, or was to be, for it is ``away``
    again. Of two words the larger one is newer: no two returns have the same round.
    """

    round: int
    away: bool = False


Returns = Mapping[str, Back]
"""What is known of the returns of those that were lost; who is not in it never came back."""
NO_RETURN: Returns = MappingProxyType({})


def code(back: Back | None) -> int:
    """Write what is known of a return as a number, which grows with it; 0: nothing.

    >>> code(None), code(Back(2)), code(Back(2, away=True)), decoded(5)
    (0, 4, 5, Back(round=2, away=True))

    """
    return 2 * back.round + back.away if back else 0


def decoded(number: int) -> Back | None:
    """Undo `code`."""
    return Back(number >> 1, bool(number & 1)) if number else None


def merged(one: LostHospitals, other: LostHospitals) -> LostHospitals:
    """Return all that are lost by either word; a model retires at the earlier of two rounds.

    Used wherever two views of a run meet: in a hospital that hears the controller, in a controller
    that hears a hospital. The order of the words does not matter.

    >>> merged({"a": 0, "b": 4}, {"b": 3, "c": 0})
    {'a': 0, 'b': 3, 'c': 0}

    """
    return {
        name: min(rounds) if (rounds := [r for r in (one.get(name, 0), other.get(name, 0)) if r])
        else 0
        for name in sorted({*one, *other})
    }  # fmt: skip


def merged_returns(one: Returns, other: Returns) -> Returns:
    """Return the newer of two words on each return.

    >>> merged_returns({"a": Back(2)}, {"a": Back(2, away=True), "b": Back(1)})
    {'a': Back(round=2, away=True), 'b': Back(round=1, away=False)}

    """
    newer = {name: max(one.get(name, back), back) for name, back in other.items()}
    return dict(sorted((dict(one) | newer).items()))


def epoch(lost: LostHospitals, back: Returns = NO_RETURN) -> int:
    """Number the epoch: every loss, every model that retires and every word on a return begins
    another. Of two views one of which has all that is in the other, only equal ones have the same.

    >>> epoch({}), epoch({"a": 0}), epoch({"a": 3}), epoch({"a": 0}, {"a": Back(2)})
    (1, 2, 3, 6)

    """
    retired = sum(1 for round_ in lost.values() if round_)
    return FIRST_EPOCH + len(lost) + retired + sum(map(code, back.values()))


class ToldLosses(NamedTuple):
    """What a hospital's last record tells: its round, whom it names as left out, with the rounds in
    which their models retire, and who is back from which round on.
    """

    round: int
    without: LostHospitals
    back: Mapping[str, int]


def as_told(words: Mapping[str, ToldLosses]) -> tuple[LostHospitals, Returns]:
    """Put together what the last records of hospitals, by name, tell of losses and returns.

    A return is over where somebody who was not lost, and has come to its round, names the hospital
    as left out and not as back.

    >>> as_told({"a": ToldLosses(2, {"c": 0}, {}), "b": ToldLosses(3, {}, {"c": 3})})
    ({'c': 0}, {'c': Back(round=3, away=False)})

    """
    lost: LostHospitals = {}
    rounds: dict[str, int] = {}
    for _, without, back in words.values():
        lost = merged(merged(lost, without), dict.fromkeys(back, 0))
        rounds |= {name: max(round_, rounds.get(name, 0)) for name, round_ in back.items()}
    over = {
        name
        for host, (round_, without, back) in words.items()
        for name in without
        if name in rounds.keys() - back.keys() and round_ >= rounds[name]
        if host not in lost or round_ >= rounds.get(host, round_ + 1)
    }
    return lost, {name: Back(round_, name in over) for name, round_ in rounds.items()}


@dataclass(frozen=True)
class Routes:
    """The ways that are left of a topology's.

    >>> ring = Topology(("a", "b", "c"), rounds=2)
    >>> routes = Routes(ring, lost={"b": 0})
    >>> routes.departure("a", 1)  # past b
    Stop(round=1, hop=2, host='c', model='a', kind='visit')
    >>> routes.sender(ring.stop("a", 1, 2))
    'a'
    >>> routes.away("b", 2), Routes(ring, {"b": 0}, {"b": Back(2)}).away("b", 2)
    (True, False)

    """

    topology: Topology
    lost: LostHospitals = field(default_factory=lambda: NOBODY)
    back: Returns = field(default_factory=lambda: NO_RETURN)

    def away(self, name: str, round_: int) -> bool:
        """Return whether the ring goes on without a hospital in a round.

        True in every round before its return, and in all where there is none or it is over; False
        for who was never lost.
        """
        if name not in self.lost:
            return False
        back = self.back.get(name)
        return back is None or back.away or round_ < back.round

    def left_out(self, name: str) -> bool:
        """Return whether the ring goes on without a hospital, as far as is known for ever.

        Such a hospital is rejoining: it asks to be taken in again and takes no models.
        """
        back = self.back.get(name)
        return name in self.lost and (back is None or back.away)

    def retired(self, model: str, round_: int) -> bool:
        """Return whether a model does not travel any more in a round.

        >>> routes = Routes(Topology(("a", "b", "c"), rounds=3), lost={"b": 2})
        >>> [routes.retired("b", round_) for round_ in (1, 2, 3)]
        [False, True, True]

        """
        return 0 < self.lost.get(model, 0) <= round_

    def stays(self, name: str, round_: int) -> bool:
        """Return whether no model sets out from a hospital in a round: it is away, its model has
        retired, or is still under way since the hospital was away the round before.

        >>> routes = Routes(Topology(("a", "b", "c"), rounds=3), {"b": 0}, {"b": Back(2)})
        >>> [routes.stays("b", round_) for round_ in (1, 2, 3)]
        [True, True, False]

        """
        back = self.back.get(name)
        returns = back is not None and not back.away and back.round == round_
        return self.away(name, round_) or self.retired(name, round_) or returns

    def void(self, stop: Stop) -> bool:
        """Return whether nothing happens at a stop: its host is lost, or its model has retired.

        Whoever holds a model whose next stop is void sends it to `next_living`.
        """
        return self.away(stop.host, stop.round) or self.retired(stop.model, stop.round)

    def onward(self, stop: Stop) -> Stop | None:
        """Return the stop to which a model goes after this one, or None where it stays.

        It stays when it is home, where the evaluation is over, and where nobody is left that it
        could go to.
        """
        if not self.lost:
            return self.topology.onward(stop)
        at_home = stop.kind == "homecoming" and not self.void(stop)
        return None if at_home else self.next_living(self._after(stop))

    def departure(self, model: str, round_: int) -> Stop | None:
        """Return the stop to which a hospital's model sets out in a round.

        None where every stop of its way is void.
        """
        return self.next_living(self.topology.stop(model, round_, 1))

    def next_living(self, stop: Stop | None) -> Stop | None:
        """Return the first stop of a model's way, from this one on, that is not void.

        None where there is no such stop, and for None.
        """
        while stop is not None and self.void(stop):
            stop = self._after(stop)
        return stop

    def goes_on(self, stop: Stop) -> bool:
        """Return whether a model has another stop to go to after this one, whoever hosts it."""
        return self.next_living(self._after(stop)) is not None

    def before(self, stop: Stop) -> Stop | None:
        """Return the stop where a model was before this one; None at the beginning of its way.

        Hosts that were away then are passed over.
        """
        found = self.back_of(stop)
        while found is not None and self.away(found.host, found.round):
            found = self.back_of(found)
        return found

    def sender(self, stop: Stop) -> str:
        """Name the hospital from which a stop's model comes.

        It is the last host before the stop that was not away, or the model's home; a model from
        anybody else is refused, see `fedskd_sim.protocol.delivery.judge`.
        """
        if not self.lost:
            return self.topology.sender(stop)
        before = self.before(stop)
        return before.host if before else stop.model

    def _after(self, stop: Stop) -> Stop | None:
        """Return the next stop of a model as if nobody were lost, through all rounds."""
        ring = self.topology
        if stop.hop + 1 in ring.hops(stop.round):
            return ring.stop(stop.model, stop.round, stop.hop + 1)
        following = stop.round + 1
        return ring.stop(stop.model, following, 1) if self._has(following) else None

    def back_of(self, stop: Stop) -> Stop | None:
        """Return the stop before one as if nobody were lost; for a hospital's own model, that of
        its homecoming a round before.
        """
        ring, earlier = self.topology, stop.round - 1
        if stop.hop > 1:
            return ring.stop(stop.model, stop.round, stop.hop - 1)
        return (
            ring.stop(stop.model, earlier, ring.hops(earlier)[-1]) if self._has(earlier) else None
        )

    def _has(self, round_: int) -> bool:
        """Return whether models travel in a round."""
        ring = self.topology
        return 1 <= round_ <= ring.evaluation_round and len(ring.hops(round_)) > 0

"""Who hosts whose model at each hop, who is next, what every hospital does and when a run is over;
pure, O(1) per question.

What a round is depends on the algorithm's communication pattern:

- circulation: all K models travel at once. At hop h = 1..V the traveller of home k is d places
  further on in the round's order of hospitals, d = ((r - 1) V + h - 1) mod (K - 1) + 1 in round r,
  so every host has exactly one visitor and nobody is at home; hop V + 1 brings everyone home. A
  full round has V = K - 1 visits, d = h: every model sees every other hospital once. A partial
  round has fewer, and goes on with others the next time. The order is the scenario's, or drawn anew
  for every round. If the schedule is sequential, hops are numbered the same, but only one model
  travels at a time: the first of the order makes its whole tour, then the second, and so on. A host
  therefore meets the models in the round's order, and its own sets out in its turn.
- all_reduce: chunk k of a sum sets out at hospital k. At hops 1..K-1 every host adds its share
  (reduce-scatter), at hops K..2K-2 the finished chunk goes round (all-gather); together a ring
  all-reduce.
- none: nothing travels.

After the last round the models travel once more without training (the evaluation round), through
the hospitals that are held out too: with N hospitals in all, hops 1..N-1.

What every hospital does in all of this is a program known beforehand, see
`fedskd_sim.ring.program`. A *place* is an index into a round's order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, Self

from fedskd_sim.scenario import CommunicationPattern, Scenario, Schedule
from fedskd_sim.seeds import seed, shuffle

StopKind = Literal["visit", "homecoming", "reduce", "gather", "evaluation"]


@dataclass(frozen=True, slots=True)
class Stop:
    """One model at one hospital, in one hop of one round.

    >>> stop = Stop(2, 1, "bergen", "aachen", "visit")
    >>> f"the model of {stop.model} visits {stop.host}"
    'the model of aachen visits bergen'

    """

    round: int
    """Counted from 1."""
    hop: int
    """Counted from 1 in every round."""
    host: str
    """The hospital at which it is."""
    model: str
    """The hospital whose model, or chunk of a sum, it is."""
    kind: StopKind
    """What happens there: a ``visit`` to another hospital, a ``homecoming``, a chunk of a sum that
    is added to (``reduce``) or handed on whole (``gather``), or the ``evaluation``."""


class Seating(NamedTuple):
    """The order of a round, by place and by name."""

    names: tuple[str, ...]
    places: Mapping[str, int]


FULL = Schedule()
FIRST_EPOCH = 1
STOPS_KEPT = 4
"""Of each hospital."""


@dataclass(frozen=True)
class Topology:
    """The way of the hospitals' models, in the order of the scenario, for a number of training
    rounds.

    >>> ring = Topology(("a", "b", "c"), rounds=2)
    >>> [ring.stop("a", 1, hop).host for hop in ring.hops(1)]
    ['b', 'c', 'a']
    >>> ring.stop("a", 1, 3)
    Stop(round=1, hop=3, host='a', model='a', kind='homecoming')
    >>> ring.onward(ring.stop("a", 1, 3)) is None
    True
    >>> [(ring.stop("a", 3, hop).host, ring.kind(3, hop)) for hop in ring.hops(3)]
    [('b', 'evaluation'), ('c', 'evaluation')]

    """

    hospitals: tuple[str, ...]
    """Those that train."""
    rounds: int
    pattern: CommunicationPattern = "circulation"
    schedule: Schedule = FULL
    seed: int = 0
    held_out: tuple[str, ...] = ()
    """Those that only evaluate; in the evaluation round they stand behind the others."""
    epoch: int = FIRST_EPOCH
    """The number of this topology; every message carries it."""
    _orders: dict[int, Seating] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, scenario: Scenario) -> Self:
        """Return the topology of a scenario.

        Whoever runs a scenario begins with this one; hospitals, controller and `verify` compute the
        same.
        """
        algorithm = scenario.algorithm
        return cls(
            scenario.members,
            algorithm.rounds,
            algorithm.pattern,
            scenario.schedule,
            scenario.seed,
            scenario.held_out,
        )

    @cached_property
    def size(self) -> int:
        """K, the number of hospitals that train."""
        return len(self.hospitals)

    @property
    def names(self) -> tuple[str, ...]:
        """All N hospitals, those that are held out behind the others."""
        return self.seating(self.evaluation_round).names

    @property
    def evaluation_round(self) -> int:
        """The number of the round in which models travel without training."""
        return self.rounds + 1

    @property
    def behind(self) -> int:
        """The number behind the last hop of the evaluation, under which the ensemble is
        recorded.
        """
        return len(self.hops(self.evaluation_round)) + 1

    @cached_property
    def visits(self) -> int:
        """V, the visits of a round of circulation."""
        return min(self.schedule.visits or self.size - 1, self.size - 1)

    def trains(self, name: str) -> bool:
        """Return whether a hospital trains; one that is held out has no model.

        KeyError for a name that is none of the ring's.
        """
        return self.seating(self.evaluation_round).places[name] < self.size

    def order(self, round_: int) -> tuple[str, ...]:
        """Return the order in which hospitals stand in a round.

        That of the scenario, or one drawn from the seed for this round; behind the last training
        round that of the evaluation, in which the held-out stand last.

        >>> ring = Topology(("a", "b", "c"), 2, schedule=Schedule(order="shuffled"), seed=7)
        >>> ring.order(1), ring.order(2)
        (('b', 'a', 'c'), ('c', 'a', 'b'))

        """
        return self.seating(round_).names

    def hops(self, round_: int) -> range:
        """Return the hops of a round; in the evaluation round travellers need not come home.

        >>> Topology(("a", "b", "c"), 2).hops(1)  # two visits and the homecoming
        range(1, 4)
        >>> Topology(("a", "b", "c"), 2, "all_reduce").hops(1)
        range(1, 5)
        >>> Topology(("a", "b", "c"), 2, "none").hops(1)
        range(1, 1)

        """
        if round_ > self.rounds:
            return range(1, self.size + len(self.held_out))
        last = {"circulation": self.visits + 1, "all_reduce": 2 * self.size - 2, "none": 0}[
            self.pattern
        ]
        return range(1, last + 1)

    def stop(self, model: str, round_: int, hop: int) -> Stop:
        """Return where ``model`` is at a hop of a round and what happens there.

        ``hop`` is one of `hops`; KeyError for a name that is not in that round's order.
        """
        return self._stops(model, round_, hop)

    @cached_property
    def _stops(self) -> Callable[[str, int, int], Stop]:
        """The same, with those kept that all hospitals ask for at about one time."""
        return lru_cache(STOPS_KEPT * len(self.names))(self._stop)

    def _stop(self, model: str, round_: int, hop: int) -> Stop:
        order = self.seating(round_)
        host = order.names[(order.places[model] + self.distance(round_, hop)) % len(order.names)]
        return Stop(round_, hop, host, model, self.kind(round_, hop))

    def sender(self, stop: Stop) -> str:
        """Name the hospital from which a stop's model comes.

        At hop 1 that is the model's home, later the host of the hop before.

        >>> ring = Topology(("a", "b", "c"), rounds=1)
        >>> ring.sender(ring.stop("a", 1, 1)), ring.sender(ring.stop("a", 1, 2))
        ('a', 'b')

        """
        return stop.model if stop.hop == 1 else self.stop(stop.model, stop.round, stop.hop - 1).host

    def onward(self, stop: Stop) -> Stop | None:
        """Return the stop after this one, or None where the model stays (it is home, or the
        evaluation is over).
        """
        return (
            self.stop(stop.model, stop.round, stop.hop + 1)
            if stop.hop + 1 in self.hops(stop.round)
            else None
        )

    def far_ahead(self, stop: Stop, awaited: Stop) -> bool:
        """Return whether a model cannot have come so far: its way to ``stop`` leads through what
        its host still awaits.

        In full rounds of fixed order whoever is at hop T has had T - 1 from its predecessor, and so
        on around the ring: so the hop numbers of two hospitals differ by less than N, and by one
        more while one of them repeats a session after its death, whose result had left already. Of
        other schedules this says nothing.

        >>> ring = Topology(("a", "b", "c"), rounds=9)
        >>> ring.far_ahead(ring.stop("a", 2, 1), awaited=ring.stop("b", 1, 2))
        False
        >>> ring.far_ahead(ring.stop("a", 5, 1), awaited=ring.stop("b", 1, 2))
        True

        """
        if self.pattern == "circulation" and self.schedule != FULL:
            return False
        return self._count(stop) - self._count(awaited) > self.size + len(self.held_out)

    def patience(self, host: str) -> int:
        """Count the sessions of others that may pass between two models at a hospital: how many
        times as long it must wait.

        One where all travel at once, two tours of one traveller, and for who is held out everything
        before the evaluation.
        """
        sessions = 2 * self.size if self.schedule.mode == "sequential" else 1
        return sessions if self.trains(host) else sessions * self.rounds * (len(self.hops(1)) + 1)

    def travels(self, model: str) -> bool:
        """Return whether there is a model of that name.

        False for a held-out hospital and for any other name.
        """
        return self.seating(self.evaluation_round).places.get(model, self.size) < self.size

    def _count(self, stop: Stop) -> int:
        """Number hops through all rounds."""
        return (stop.round - 1) * len(self.hops(1)) + stop.hop

    def seating(self, round_: int) -> Seating:
        """Return the order of a round; drawn ones are kept, equal ones once.

        The place of a name is its index in ``names``.

        >>> Topology(("a", "b"), 1, held_out=("c",)).seating(2)
        Seating(names=('a', 'b', 'c'), places={'a': 0, 'b': 1, 'c': 2})

        """
        drawn = self.schedule.order == "shuffled" and round_ <= self.rounds
        key = round_ if drawn else -(round_ > self.rounds)
        if key not in self._orders:
            names = self.hospitals + (self.held_out if round_ > self.rounds else ())
            if drawn:
                names = shuffle(names, seed(self.seed, "order", round_))
            self._orders[key] = Seating(names, {name: place for place, name in enumerate(names)})
        return self._orders[key]

    def one_by_one(self, round_: int) -> bool:
        """Return whether a single model travels at a time in a round.

        All at once in the evaluation, whatever the schedule.
        """
        return self.schedule.mode == "sequential" and round_ <= self.rounds

    def kind(self, round_: int, hop: int) -> StopKind:
        """Return what happens at a hop of a round.

        ``evaluation`` behind the last training round; ``reduce`` and ``gather`` where a sum goes
        round; ``visit``, or ``homecoming`` at the last hop, where models circulate.
        """
        if round_ > self.rounds:
            return "evaluation"
        if self.pattern == "all_reduce":
            return "reduce" if hop < self.size else "gather"
        return "homecoming" if hop == self.visits + 1 else "visit"

    def distance(self, round_: int, hop: int) -> int:
        """Count the places between a model's home and its host at a hop.

        >>> ring = Topology(("a", "b", "c", "d"), 3, schedule=Schedule(visits=2))
        >>> [[ring.distance(round_, hop) for hop in ring.hops(round_)] for round_ in (1, 2, 3)]
        [[1, 2, 0], [3, 1, 0], [2, 3, 0]]

        """
        if self.pattern != "circulation" or round_ > self.rounds:
            return hop
        return (
            0
            if hop == self.visits + 1
            else ((round_ - 1) * self.visits + hop - 1) % (self.size - 1) + 1
        )

    def hop_over(self, distance: int, round_: int) -> int:
        """Return the hop of a visit to a host that is so many places away; undoes `distance`.

        The distance is that from the model's home to the host, from 1 to K - 1.
        """
        return (distance - 1 - (round_ - 1) * self.visits) % (self.size - 1) + 1

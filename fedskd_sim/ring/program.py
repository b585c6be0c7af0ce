"""What one hospital does in a run, step by step, known beforehand and addressed by index; pure,
O(1) per question.

A member's program is: warm up; in every round depart and host (where a sum goes round: train alone
first; where nothing travels: train alone); in the evaluation round depart, be tested at home, test
the others' models, and the ensemble. In a sequential schedule a model departs when its turn has
come, right before its homecoming is awaited. One that is held out only tests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, Self

from fedskd_sim.ring.topology import Stop, Topology

KEPT = 16
"""Steps around the present one."""
Action = Literal["warm_up", "alone", "depart", "home", "host", "ensemble"]


class Step(NamedTuple):
    """One entry of a hospital's program.

    ``warm_up``, ``alone`` (train without a visitor), ``depart`` (send the own model off), ``host``
    (the model of ``stop``), ``home`` (test the own model), ``ensemble`` (test all finished models
    together). ``round`` is 0 for the warm-up.
    """

    action: Action
    round: int
    stop: Stop | None = None


@dataclass(frozen=True)
class Program:
    """The steps of one hospital.

    >>> program = Program(Topology(("a", "b"), rounds=1), "a")
    >>> for index in range(len(program)):
    ...     print(program.at(index).action, program.at(index).stop)
    warm_up None
    depart None
    host Stop(round=1, hop=1, host='a', model='b', kind='visit')
    host Stop(round=1, hop=2, host='a', model='a', kind='homecoming')
    depart None
    home None
    host Stop(round=2, hop=1, host='a', model='b', kind='evaluation')
    ensemble None

    """

    topology: Topology
    host: str

    def __len__(self) -> int:
        """Count the steps."""
        return self._evaluation + self._own + self._tested + 1

    @cached_property
    def member(self) -> bool:
        """Whether the hospital trains and has a model."""
        return self.topology.trains(self.host)

    @cached_property
    def recorded(self) -> int:
        """The number of steps that leave a record, but for the ensemble, which not every
        scenario asks for.
        """
        departures = (
            1 + self.topology.rounds * (self.topology.pattern != "none") if self.member else 0
        )
        return len(self) - departures - 1

    def at(self, index: int) -> Step | None:
        """Return the step at an index, from 0; None behind the end.

        A hospital asks for the step at its cursor; None tells it that it is through.
        """
        return self._steps(index)

    @cached_property
    def _steps(self) -> Callable[[int], Step | None]:
        """The same, with the steps kept that are asked for again and again."""
        return lru_cache(KEPT)(self._step)

    def _step(self, index: int) -> Step | None:
        if index >= self._evaluation:
            return self._tail(index - self._evaluation)
        if index == 0:
            return Step("warm_up", 0)
        before, number = divmod(index - 1, self._per_round)
        round_ = before + 1
        if self.topology.pattern == "circulation":
            return self._circulating(round_, number)
        if number < 2:  # noqa: PLR2004 - it trains alone, then its chunk sets out
            return Step("depart" if number else "alone", round_)
        return self._hosting(round_, number - 1)

    def position(self, model: str, round_: int, hop: int) -> int | None:
        """Return the index of the step that hosts a model; None where that hop of it does not lead
        here.

        >>> program = Program(Topology(("a", "b"), rounds=1), "a")
        >>> program.position("b", 1, 1)
        2
        >>> program.position("a", 1, 1) is None  # there it is at b
        True

        """
        ring = self.topology
        if not (
            1 <= round_ <= ring.evaluation_round
            and hop in ring.hops(round_)
            and ring.travels(model)
        ):
            return None
        if (
            self.host not in ring.seating(round_).places
            or ring.stop(model, round_, hop).host != self.host
        ):
            return None
        if round_ > ring.rounds:
            return self._evaluation + self._own + self._number_in_evaluation(hop)
        start = 1 + (round_ - 1) * self._per_round
        if ring.pattern == "all_reduce":
            return start + 1 + hop
        if not ring.one_by_one(round_):
            return start + hop
        order = ring.seating(round_)
        visitors = self._visitors(round_)
        rank, home = visitors.rank(order.places[model]), visitors.rank(order.places[self.host])
        return start + rank + (rank >= home)

    def index_of_record(self, model: str, round_: int, hop: int) -> int | None:
        """Return the index of the step that leaves a record with these marks, if it leaves one;
        None where no step could.

        >>> program = Program(Topology(("a", "b"), rounds=1), "a")
        >>> program.index_of_record("a", 0, 0), program.index_of_record("b", 1, 1)
        (0, 2)

        """
        if hop == 0 and model == self.host and self.member:
            if round_ == 0:
                return 0
            if round_ == self.topology.evaluation_round:
                return self._evaluation + 1
            alone = self.topology.pattern != "circulation" and 1 <= round_ <= self.topology.rounds
            return 1 + (round_ - 1) * self._per_round if alone else None
        if model == self.host and (round_, hop) == (
            self.topology.evaluation_round,
            self.topology.behind,
        ):
            return len(self) - 1
        return self.position(model, round_, hop)

    def following(self, index: int) -> Stop | None:
        """Return the next stop behind a step.

        None where nothing more is hosted here. ``index`` -1 asks for the first.

        >>> program = Program(Topology(("a", "b"), rounds=1), "a")
        >>> program.following(0).model
        'b'

        """
        while (step := self.at(index := index + 1)) is not None:
            if step.stop is not None:
                return step.stop
        return None

    def stops(self) -> Iterator[Stop]:
        """List everything that is hosted here, in order, to the end of the run.

        For checks and for people: a hospital itself asks step by step.
        """
        steps = (self.at(index) for index in range(len(self)))
        return (step.stop for step in steps if step is not None and step.stop is not None)

    @cached_property
    def _per_round(self) -> int:
        """Count the steps of a training round."""
        ring = self.topology
        return {"circulation": ring.visits + 2, "all_reduce": 2 * ring.size, "none": 1}[
            ring.pattern
        ]

    @cached_property
    def _evaluation(self) -> int:
        """Return the index of the first step of the evaluation round."""
        return 1 + self.topology.rounds * self._per_round if self.member else 0

    @cached_property
    def _own(self) -> int:
        """Count the steps with the own model in the evaluation round: it departs and is tested
        at home.
        """
        return 2 if self.member else 0

    @cached_property
    def _tested(self) -> int:
        """Count the models that are tested here on their way."""
        return self.topology.size - self.member

    def _tail(self, index: int) -> Step | None:
        last = self.topology.evaluation_round
        if index < self._own:
            return Step("home" if index else "depart", last)
        if index < self._own + self._tested:
            return self._hosting(last, self._hop_in_evaluation(index - self._own))
        return Step("ensemble", last) if index == self._own + self._tested else None

    @cached_property
    def _place(self) -> int:
        return self.topology.seating(self.topology.evaluation_round).places[self.host]

    def _hop_in_evaluation(self, number: int) -> int:
        """Return the hop at which the model ``number`` (from 0) is tested; who is held out has
        none and is left out.
        """
        if not self.member:
            return self._place - self.topology.size + 1 + number
        return number + 1 + (number >= self._place) * len(self.topology.held_out)

    def _number_in_evaluation(self, hop: int) -> int:
        """Undo `_hop_in_evaluation`."""
        if not self.member:
            return hop - 1 - (self._place - self.topology.size)
        return hop - 1 - (hop > self._place) * len(self.topology.held_out)

    def _circulating(self, round_: int, number: int) -> Step:
        ring = self.topology
        if not ring.one_by_one(round_):
            return Step("depart", round_) if number == 0 else self._hosting(round_, number)
        order, visitors = ring.seating(round_), self._visitors(round_)
        own = order.places[self.host]
        home = visitors.rank(own)
        if number == home:
            return Step("depart", round_)
        model = visitors.at(number - (number > home))
        hop = ring.visits + 1 if model == own else ring.hop_over((own - model) % ring.size, round_)
        return Step("host", round_, ring.stop(order.names[model], round_, hop))

    def _hosting(self, round_: int, hop: int) -> Step:
        order = self.topology.seating(round_)
        model = order.names[
            (order.places[self.host] - self.topology.distance(round_, hop)) % len(order.names)
        ]
        return Step(
            "host", round_, Stop(round_, hop, self.host, model, self.topology.kind(round_, hop))
        )

    def _visitors(self, round_: int) -> _Places:
        """Return the places of the models that come in a round, the own among them."""
        ring = self.topology
        own, others = ring.seating(round_).places[self.host], ring.size - 1
        first = (round_ - 1) * ring.visits % others
        spans = [(first, min(first + ring.visits, others)), (0, first + ring.visits - others)]
        arcs = [(own - high, own - low) for low, high in spans if high > low] + [(own, own + 1)]
        straight = [
            part for low, high in arcs for part in _unwrap(low % ring.size, high - low, ring.size)
        ]
        return _Places(tuple(sorted(straight, key=lambda part: part.start)))


class _Places(NamedTuple):
    """Places in ascending order, as a few ranges."""

    parts: tuple[range, ...]

    def at(self, index: int) -> int:
        """Return the place at an index."""
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

    def rank(self, place: int) -> int:
        """Count the places before one."""
        return sum(min(len(part), max(0, place - part.start)) for part in self.parts)


def _unwrap(start: int, length: int, size: int) -> list[range]:
    """Cut an arc of a ring of ``size`` places where it passes the end."""
    end = start + length
    return [range(start, end)] if end <= size else [range(start, size), range(end - size)]


class RunPace(NamedTuple):
    """What a run's hospitals and models do, as shares of its seconds."""

    busy: Mapping[str, float]
    """Each hospital's steps: the rest of the time it waits."""
    chains: Mapping[str, float]
    """Each model's steps, none of which can begin before the one before it has ended. Empty where
    models do not circulate."""

    @classmethod
    def of(cls, spent: Iterable[tuple[str, str, float]], whole: float, *, chained: bool) -> Self:
        """Add up steps by hospital and by model.

        Args:
            spent: each step's host, its model ('' where no model waits for it) and its seconds.
            whole: seconds of the run, of which the sums are shares.
            chained: whether the steps of a model follow one another.

        """
        busy, chains = defaultdict[str, float](float), defaultdict[str, float](float)
        for host, model, seconds in spent:
            busy[host] += seconds / whole if whole else 0.0
            if chained and model:
                chains[model] += seconds / whole if whole else 0.0
        return cls(busy, chains)

    @property
    def words(self) -> str:
        """What sets the pace, and what would change it: a model whose steps follow one another, or
        the hospital that has most to do.
        """
        host = max(self.busy, key=lambda name: self.busy[name])
        model = max(self.chains, key=lambda name: self.chains[name], default="")
        if model and self.chains[model] > self.busy[host]:
            said = (
                f"{model}'s model, whose steps at all hospitals follow one another: "
                f"{self.chains[model]:.0%} of the run. A smaller network there"
            )
        else:
            said = (
                f"{host}, which is busy for {self.busy[host]:.0%} of the run. Fewer samples or a "
                "smaller network there"
            )
        fewer = ", or fewer visits (algorithm.schedule.visits)," if model else ""
        return f"pace: set by {said}{fewer} would make it shorter."

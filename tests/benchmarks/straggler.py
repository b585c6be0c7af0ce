"""What a slow hospital costs the ring, in simulated time: as hospitals take their visitors, in the
order of their programs, and if they took them in the order in which they arrive.
"""

from __future__ import annotations

import heapq
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import Scenario, Schedule, load
from fedskd_sim.world.forecast import forecast
from tests.benchmarks.table import Table

SIZES = (4, 8, 16)
ROUNDS = 3
DELAY_S = 0.01
FACTOR = 10.0
SLOW = "h1"
SECONDS = {"visit": 1.0, "homecoming": 1.0, "evaluation": 0.1}
SPREAD = 0.5
"""Standard deviation of the logarithm of what uneven sessions take."""
DRAWS = 10
VISITS = 2
TEXT = """
name: straggler
hospitals: [{hospitals}]
algorithm: {{name: placebo, rounds: {rounds}}}
network: {{inbox: {inbox}}}
timeouts: {{register: 1000000, hop: 1000000, acknowledgement: 1000000, retry: 100000}}
"""
Cost = Callable[[str, str, str], float]


def scenario_of(size: int, inbox: int) -> Scenario:
    names = ", ".join(f"{{name: h{number}, architecture: buffer}}" for number in range(size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "straggler.yaml"
        path.write_text(TEXT.format(hospitals=names, rounds=ROUNDS, inbox=inbox))
        return load(path).scenario


@dataclass
class Costs:
    """What steps cost: one hospital is ``factor`` times as slow, and from a seed every step takes a
    time of its own, the same in whatever order.
    """

    factor: float = 1.0
    seed: int | None = None
    _times: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def __call__(self, kind: str, host: str, model: str) -> float:
        self._times[kind, host, model] += 1
        seconds = SECONDS.get(kind, 0.0) * (self.factor if host == SLOW else 1.0)
        if self.seed is None:
            return seconds
        about = f"{self.seed} {kind} {host} {model} {self._times[kind, host, model]}"
        return seconds * random.Random(about).lognormvariate(0.0, SPREAD)


@dataclass
class Ring:
    """A ring without messages, deaths or limits: hosts take visitors as their programs have them,
    or whoever has come first, of whatever round.
    """

    topology: Topology
    cost: Cost
    in_order: bool
    now: float = 0.0
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _number: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        names = self.topology.hospitals
        self._waiting: dict[str, list[Stop]] = {name: [] for name in names}
        self._due = {name: list(self._stops(name)) for name in names}
        self._busy: set[str] = set()

    def played(self) -> float:
        """Give the seconds until the last hospital is done."""
        for name in self.topology.hospitals:
            self._depart(name, 1)
        while self._agenda:
            self.now, _, happen = heapq.heappop(self._agenda)
            happen()
        if any(self._due.values()):
            raise RuntimeError(self._due)
        return self.now

    def _stops(self, name: str) -> list[Stop]:
        """List what a hospital does: the test of its own model is a stop at hop 0."""
        program, last = Program(self.topology, name), self.topology.evaluation_round
        stops = list(program.stops())
        first = next(index for index, stop in enumerate(stops) if stop.round == last)
        return [*stops[:first], Stop(last, 0, name, name, "evaluation"), *stops[first:]]

    def _at(self, delay: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + delay, next(self._number), happen))

    def _depart(self, name: str, round_: int) -> None:
        self._at(DELAY_S, partial(self._arrives, self.topology.stop(name, round_, 1)))
        if round_ == self.topology.evaluation_round:
            self._arrives(Stop(round_, 0, name, name, "evaluation"))

    def _arrives(self, stop: Stop) -> None:
        self._waiting[stop.host].append(stop)
        self._take(stop.host)

    def _take(self, host: str) -> None:
        waiting, due = self._waiting[host], self._due[host]
        if host in self._busy or not waiting:
            return
        stop = due[0] if self.in_order else waiting[0]
        if stop not in waiting:
            return
        waiting.remove(stop)
        due.remove(stop)
        self._busy.add(host)
        if stop.kind == "evaluation":
            self._pass_on(stop)
        self._at(self.cost(stop.kind, host, stop.model), partial(self._over, stop))

    def _over(self, stop: Stop) -> None:
        self._busy.remove(stop.host)
        if stop.kind != "evaluation":
            self._pass_on(stop)
        if stop.kind == "homecoming":
            self._depart(stop.host, stop.round + 1)
        self._take(stop.host)

    def _pass_on(self, stop: Stop) -> None:
        onward = self.topology.onward(stop) if stop.hop else None
        if onward:
            self._at(DELAY_S, partial(self._arrives, onward))


def seconds_of(size: int, inbox: int, cost: Cost) -> float:
    """Play a run as it is."""
    found = forecast(scenario_of(size, inbox), cost, DELAY_S)
    if found.error:
        raise found.error
    return found.seconds


def own_work(size: int) -> float:
    """Give the seconds of the slow hospital's own steps, which it cannot do at once."""
    return FACTOR * size * (ROUNDS * SECONDS["visit"] + SECONDS["evaluation"])


def ordered(
    size: int, cost: Callable[[], Cost], *, in_order: bool, visits: int | None = None
) -> float:
    """Play it without messages, and with that many visits a round."""
    ring = replace(Topology.of(scenario_of(size, 1)), schedule=Schedule(visits=visits))
    return Ring(ring, cost(), in_order).played()


def main() -> list[Table]:
    title = f"{ROUNDS} rounds and the evaluation, one hospital {FACTOR:g} times as slow"
    return [
        Table(title, "s", dict(row for size in SIZES for row in even(size))),
        Table(
            "The same, every session of another length, from ten seeds",
            "s",
            dict(row for size in SIZES for row in uneven(size)),
        ),
    ]


def even(size: int) -> Iterator[tuple[str, list[float]]]:
    yield f"{size}, none slow", [seconds_of(size, 1, Costs())]
    for inbox in sorted({1, 2, 4, size}):
        yield f"{size}, one slow, inbox {inbox}", [seconds_of(size, inbox, Costs(FACTOR))]
    for order, in_order in (("program", True), ("arrival", False)):
        found = ordered(size, partial(Costs, FACTOR), in_order=in_order)
        yield f"{size}, one slow, order of {order}", [found]
    yield f"{size}, the slow one's own work", [own_work(size)]
    few = ordered(size, partial(Costs, FACTOR), in_order=True, visits=VISITS)
    yield f"{size}, one slow, {VISITS} visits a round", [few]


def uneven(size: int) -> Iterator[tuple[str, list[float]]]:
    for factor in (1.0, FACTOR):
        about = f"{size}, {'one slow' if factor > 1 else 'none slow'}"
        costs = [partial(Costs, factor, seed) for seed in range(DRAWS)]
        for inbox in (1, size):
            yield f"{about}, inbox {inbox}", [seconds_of(size, inbox, cost()) for cost in costs]
        found = [ordered(size, cost, in_order=False) for cost in costs]
        yield f"{about}, order of arrival", found

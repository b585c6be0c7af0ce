"""How long a run would take: its own program and messages played in simulated time, with what
every step is known to cost in place of the step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.base import NOTHING, LearnerState, Measures, Session
from fedskd_sim.member.controller import Controller
from fedskd_sim.member.reporter import Reporter
from fedskd_sim.member.work import Worker
from fedskd_sim.messages import Forms, Weights
from fedskd_sim.observe.events import EventLog
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import Terms
from fedskd_sim.records import Record, SampleCounts, Timing
from fedskd_sim.ring.program import RunPace
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import Scenario
from fedskd_sim.world.node import Node
from fedskd_sim.world.world import Weather, World

RUN = "forecast"
PLAYED = 6
"""Rounds that are played at most; further ones take what the later half of these took."""
Cost = Callable[[str, str, str], float]
"""Seconds of a step: of which kind (as in records), at which hospital, with whose model."""


class Forecast(NamedTuple):
    """How long a run would take, played in simulated time with the steps' measured seconds."""

    seconds: float
    """Until the last hospital is done, each at work beside the others."""
    work: float
    """Of all steps together, as one process takes that carries out one after the other."""
    error: FedskdError | None
    """What would end it early."""
    pace: RunPace
    """Where these seconds go; of a run of more than `PLAYED` rounds in so many of them."""


@dataclass
class CostedLearner:
    """A learner without data or models: every step lets pass what it costs."""

    host: str
    cost: Cost
    pause: Callable[[str, float], None]
    """Is called with whose model has a step, and its seconds; without a model where that need not
    wait for the step."""

    @property
    def expected(self) -> Mapping[str, Forms]:
        """Nothing: there are no tensors."""
        return {}

    def warm_up(self) -> Session:
        """Spend the warm-up's time."""
        return self._let_pass("warm_up", self.host)

    def alone(self, round_: int) -> Session | None:  # noqa: ARG002 - every round is alike
        """Spend the time of a session without a visitor."""
        return self._let_pass("alone", self.host)

    def depart(self, round_: int) -> Weights:  # noqa: ARG002 - every round is alike
        """Send nothing."""
        return {}

    def visit(self, stop: Stop, arriving: Weights) -> Session:  # noqa: ARG002 - nothing arrives
        """Spend the time of a session with a visitor, or of a part of a sum."""
        return self._let_pass(stop.kind, stop.model)

    def homecome(self, stop: Stop, arriving: Weights) -> Session:  # noqa: ARG002 - nothing arrives
        """Spend a homecoming's time."""
        return self._let_pass(stop.kind, stop.model)

    def assess(self) -> Measures:
        """Measure nothing: its time is part of the session's."""
        return {}

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:  # noqa: ARG002 - nothing arrives
        """Spend a test's time: the model goes on meanwhile."""
        self._let_pass("evaluation", model, waits=False)
        return {}

    def ensemble(self) -> Measures | None:
        """Spend the time of the test of all models together."""
        self._let_pass("ensemble", self.host, waits=False)
        return None

    def results(self) -> Mapping[str, Weights]:
        """Return nothing."""
        return {}

    def state(self) -> LearnerState:
        """Return nothing."""
        return NOTHING

    def restore(self, state: LearnerState) -> None:
        """Take nothing."""

    def _let_pass(self, kind: str, model: str, *, waits: bool = True) -> Session:
        self.pause(model if waits else "", self.cost(kind, self.host, model))
        return Session({})


class _Nowhere:
    """Takes records and forgets them."""

    def add(self, entry: Record | Timing | SampleCounts) -> None:
        """Forget an entry."""

    def close(self) -> None:
        """Do nothing."""


@dataclass
class _Late(Weather):
    """Weather in which every message takes the same time."""

    delay: float = 0.0

    def copies(self, sender: str, to: str) -> Iterator[float]:  # noqa: ARG002 - all links are alike
        """Yield the delay in seconds."""
        yield self.delay


def forecast(scenario: Scenario, cost: Cost, delay: float = 0.0) -> Forecast:
    """Play a run with its own time-outs and receive buffers.

    Args:
        scenario: the run.
        cost: seconds of every step.
        delay: seconds of every message between hospitals.

    Returns:
        Seconds from the start of the first warm-up to the end of the last hospital. A run of more
        than `PLAYED` rounds is played that far; rounds do not differ.

    """
    rounds = scenario.algorithm.rounds
    if rounds <= PLAYED:
        return _play(scenario, rounds, cost, delay)
    half, whole = (_play(scenario, number, cost, delay) for number in (PLAYED // 2, PLAYED))
    times = (rounds - PLAYED) / (PLAYED - PLAYED // 2)
    return Forecast(
        whole.seconds + times * (whole.seconds - half.seconds),
        whole.work + times * (whole.work - half.work),
        whole.error or half.error,
        whole.pace,
    )


def _play(scenario: Scenario, rounds: int, cost: Cost, delay: float) -> Forecast:
    algorithm = scenario.algorithm.model_copy(update={"rounds": rounds})
    scenario = scenario.model_copy(update={"algorithm": algorithm, "faults": ()})
    world, topology, terms = World(_Late(delay)), Topology.of(scenario), Terms.of(scenario, RUN)
    spent: list[tuple[str, str, float]] = []
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        world.controller = Controller(scenario, RUN, world, EventLog(nowhere))
        for name in scenario.names:
            learner = CostedLearner(name, cost, partial(_pass, world, spent, name))
            worker = Worker(scenario, topology, name, learner, _ignore, _ignore)
            machine = HospitalMachine.of(topology, name, terms)
            reporter = Reporter(scenario, name, _Nowhere(), _ignore)
            world.add(Node(machine, worker, reporter, world, partial(_same, learner)))
        world.run()
    own = [error for _, error in world.errors if not error.second_hand]
    late = [node for node in world.nodes.values() if not node.ended]
    if not own and late:
        own = [late[0].machine.missing(late[0].shell.state)]
    work = sum(seconds for _, _, seconds in spent)
    pace = RunPace.of(spent, world.seconds, chained=topology.pattern == "circulation")
    return Forecast(world.seconds, work, own[0] if own else None, pace)


def _pass(
    world: World, spent: list[tuple[str, str, float]], name: str, model: str, seconds: float
) -> None:
    world.nodes[name].cost += seconds
    spent.append((name, model, seconds))


def _same(learner: CostedLearner) -> CostedLearner:
    """Return the same learner to another life: it remembers nothing that a death could take."""
    return learner


def _ignore(*_: object) -> None:
    """Note nothing."""

"""An algorithm that somebody adds as the manual says is asked what it is, not which class."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest

from fedskd_sim import load
from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning import preflight
from fedskd_sim.operate.canary import changes
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Scenario, Schedule
from fedskd_sim.scenario.circulation import CommunicationPattern
from fedskd_sim.scenario.part import Count, Part


class Mine(Part):
    """An algorithm with a schedule, in the words of the manual."""

    pattern: ClassVar[CommunicationPattern] = "circulation"
    warms_up: ClassVar[bool] = True
    name: Literal["mine"] = "mine"
    rounds: Count = 4
    schedule: Schedule = Schedule()


class Sums(Mine):
    """The same of which sums travel."""

    pattern: ClassVar[CommunicationPattern] = "all_reduce"


def own(algorithm: Mine) -> Scenario:
    """Put an algorithm that the schema does not know into a scenario."""
    return load("quickstart").scenario.model_copy(update={"algorithm": algorithm})


def test_the_schedule_of_an_own_algorithm_is_kept() -> None:
    """Its shuffled order is drawn anew for every round, as that of a built-in one, and its short
    run has all visits.
    """
    wanted = Schedule(order="shuffled", visits=2)
    mine = Topology.of(own(Mine(schedule=wanted)))
    orders = [mine.seating(round_).names for round_ in range(1, 5)]
    assert len(set(orders)) > 1
    built_in = load("quickstart").scenario
    like = built_in.algorithm.model_copy(update={"schedule": wanted, "rounds": 4})
    known = Topology.of(built_in.model_copy(update={"algorithm": like}))
    assert orders == [known.seating(round_).names for round_ in range(1, 5)]
    assert (mine.visits, known.visits) == (2, 2)
    assert "algorithm.schedule.visits=null" in changes(own(Mine(schedule=wanted)))
    fixed = Topology.of(own(Mine()))
    assert len({fixed.seating(round_).names for round_ in range(1, 5)}) == 1


def test_a_schedule_by_which_nothing_travels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than taken and forgotten."""
    monkeypatch.setattr(preflight, "find_untaught", lambda _: ())
    (error,) = preflight._algorithm(
        own(Sums(schedule=Schedule(order="shuffled"))), None, preflight.Contracts()
    )
    assert isinstance(error, InvalidValue)
    assert error.key == ("algorithm", "schedule")
    assert not [*preflight._algorithm(own(Sums()), None, preflight.Contracts())]

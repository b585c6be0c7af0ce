"""What a hospital's faults leave for its next life."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedskd_sim import clock
from fedskd_sim.member.faults import FaultInjector
from fedskd_sim.member.schedule import FaultSchedule, place_of
from fedskd_sim.observe import events
from fedskd_sim.ring.program import Program, Step
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.world.node import Faults

TEXT = """
name: marks
hospitals: [{{name: a, architecture: buffer}}, {{name: b, architecture: buffer}}]
algorithm: {{name: placebo, rounds: 1}}
faults: [{faults}]
"""
SLOW = "{hospital: a, what: slow, round: 1, hop: 1, factor: 3, lasts: 60}"


def injector(scenario: Scenario, marks: Path, said: list[events.LogEvent]) -> FaultInjector:
    """Make another life of hospital a."""
    schedule = FaultSchedule.of(scenario, Topology.of(scenario), "a")
    return FaultInjector(schedule, said.append, marks)


def steps(scenario: Scenario) -> list[Step]:
    """Give all steps of hospital a."""
    program = Program(Topology.of(scenario), "a")
    return [step for number in range(len(program)) if (step := program.at(number))]


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let seconds pass on every clock, as many as are put into the list."""
    seconds = [0.0]
    for name in ("now", "unix"):
        real: Callable[[], float] = getattr(clock, name)
        monkeypatch.setattr(clock, name, lambda real=real: real() + sum(seconds))
    return seconds


def test_a_slow_hospital_is_still_slow_after_its_death(
    scenario_file: Callable, tmp_path: Path, passed: list[float]
) -> None:
    """It is so until its time is over, counted from when it struck, whatever it does meanwhile."""
    scenario = load(scenario_file(TEXT.format(faults=SLOW))).scenario
    said: list[events.LogEvent] = []
    first = injector(scenario, tmp_path / "a.marks", said)
    first.come_up()
    for step in steps(scenario):
        first.before(step)
    assert said == [events.FaultEvent("slow", 1, 1, 60.0)]
    for pause, factor in ((40, 3.0), (15, 3.0), (15, 1.0)):
        passed.append(pause)
        later = injector(scenario, tmp_path / "a.marks", said)
        later.come_up()
        later.before(steps(scenario)[0])
        assert later.schedule.slowness(later._seconds) == factor
        assert not later.schedule.left
    assert len(said) == 1


def test_in_simulated_time_a_death_makes_no_hospital_slow_for_longer(
    scenario_file: Callable,
) -> None:
    """Its next life counts from when the fault struck, too."""

    class Moment:
        asleep = seconds = 0.0

        def log(self, event: events.LogEvent) -> None:
            pass

    moment = Moment()
    moment.world = moment.reporter = moment  # type: ignore[attr-defined]
    scenario = load(scenario_file(TEXT.format(faults=SLOW))).scenario
    faults = Faults(FaultSchedule.of(scenario, Topology.of(scenario), "a"))
    for at, slow in ((10.0, 1.0), (40.0, 3.0), (69.0, 3.0), (71.0, 1.0)):
        moment.seconds = at
        faults.come_up(moment)  # type: ignore[arg-type]
        assert faults.slowness(moment) == slow  # type: ignore[arg-type]
        for step in steps(scenario):
            faults.before(moment, step)  # type: ignore[arg-type]


def test_a_mark_that_a_power_cut_has_torn_was_never_written(
    scenario_file: Callable, tmp_path: Path
) -> None:
    """Wherever the last line is cut, the next life comes up, what the whole lines say is known,
    and what it writes stands on a line of its own.
    """
    poison = "{hospital: a, what: poison, round: 1, hop: 1, factor: 2}"
    text = TEXT.format(faults=f"{SLOW}, {poison}").replace("placebo", "circulation")
    text += "data: {name: synthetic-skin}\n"
    scenario = load(scenario_file(text.replace("buffer", "cnn-plain"))).scenario
    whole, marks = "1\n1 at 1 1\n", tmp_path / "a.marks"
    for cut in range(len(whole)):
        marks.write_text(whole[:cut])
        said: list[events.LogEvent] = []
        life = injector(scenario, marks, said)
        life.come_up()
        assert ({1} <= life.schedule.left.keys()) == (cut < 2)
        assert not life.schedule.departures
        assert list(life.schedule.poisons) == ([1] if cut >= 2 else [])
        for step in steps(scenario):
            life.before(step)
            if place_of(step) == (1, 1):
                life.schedule.spoiled((1, 1), {})
        again = injector(scenario, marks, said)
        again.come_up()
        assert not again.schedule.left
        assert again.schedule.departures == {(1, 1): {1: 2.0}}

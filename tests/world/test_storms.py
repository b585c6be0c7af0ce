"""Runs that are disturbed in every way, and end as if they had not been."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from nights import few_of, part_of
from symbols import SHAPES, Run, lived, scenario_of, storm_of
from weather import OneDeath, Storm

from fedskd_sim.member.shell import Shell
from fedskd_sim.protocol.effects import Effect, Persist, Reply
from fedskd_sim.protocol.events import Event
from fedskd_sim.protocol.machine import HospitalMachine, Turn
from fedskd_sim.protocol.state import State
from fedskd_sim.scenario import Scenario
from fedskd_sim.world.world import ROOM, Weather

STORMS = int(os.environ.get("FEDSKD_STORMS", "200"))
"""Of these a thousand have been run once; the suite runs the first of them: at night all of those,
at other times a part that the commit draws."""

Deaths = Sequence[tuple[str, int]]


def ended_alike(run: Run, undisturbed: Run) -> bool:
    return run.world.over and not run.world.errors and run.result == undisturbed.result


def killed_everywhere(
    scenario: Scenario,
    machine: type[HospitalMachine] = HospitalMachine,
    disk_s: float = 0.0,
    some: Callable[[Deaths], Deaths] = part_of,
) -> Iterator[tuple[str, int]]:
    """Kill every hospital before every of its effects, one death a run, or carry out some of these
    runs; yields the deaths after which the run ends otherwise.
    """
    counted = OneDeath(disk_s=disk_s)
    undisturbed = lived(scenario, counted)
    deaths = [
        (name, number) for name, most in counted.effects.items() for number in range(1, most + 1)
    ]
    assert len(deaths) > 100
    for death in some(deaths):
        if not ended_alike(lived(scenario, OneDeath(*death, disk_s), machine), undisturbed):
            yield death


@pytest.mark.parametrize("shape", few_of(SHAPES))
def test_a_death_at_any_instant_changes_nothing(shape: str, tmp_path: Path) -> None:
    """A kill before every effect of every hospital, for every algorithm, of which a part at a time:
    restarted from custody, all end with the same bytes.
    """
    assert list(killed_everywhere(scenario_of(tmp_path, shape))) == []


def test_a_death_of_a_hospital_that_is_held_out_changes_nothing(tmp_path: Path) -> None:
    """The same with two hospitals that only test."""
    assert list(killed_everywhere(scenario_of(tmp_path, "ensemble", held_out=2))) == []


class AcknowledgesFirst(HospitalMachine):
    """The order of the sketchy kind: it says that a model is safe, and then makes it so."""

    def step(self, state: State, event: Event) -> Turn:
        state, effects = super().step(state, event)
        safe = [effect for effect in effects if isinstance(effect, Persist)]
        told = [effect for effect in effects if isinstance(effect, Reply)]
        others: list[Effect] = [effect for effect in effects if effect not in safe + told]
        return state, [*told, *safe, *others]


def test_a_machine_that_acknowledges_before_it_persists_is_caught(tmp_path: Path) -> None:
    """The harness can fail: with the order turned round, a kill between the two loses a model."""
    scenario = scenario_of(tmp_path, "circulation")
    assert any(killed_everywhere(scenario, AcknowledgesFirst, some=list))


def test_timers_that_nobody_needs_are_forgotten(tmp_path: Path) -> None:
    """Each of 2,700 stops sets two timers of a million seconds; what is to happen stays short."""
    run = lived(scenario_of(tmp_path, "circulation", size=30), Weather())
    assert run.world.over
    left = len(run.world._agenda)
    assert left < 2 * ROOM


SLOW_DISK_S = 0.5


@pytest.mark.parametrize("shape", ["circulation", "fedavg"])
def test_a_death_while_the_disk_is_slow_changes_nothing(shape: str, tmp_path: Path) -> None:
    """The same where a disk takes longer than a step: work goes on meanwhile, and what others
    rely on waits.
    """
    assert list(killed_everywhere(scenario_of(tmp_path, shape), disk_s=SLOW_DISK_S)) == []


def test_a_promise_before_the_disk_has_it_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness can fail here too: with acknowledgements that do not wait for the disk, a
    death loses a model.
    """
    monkeypatch.setattr(Shell, "_promises", lambda _, __: False)
    scenario = scenario_of(tmp_path, "circulation")
    assert any(killed_everywhere(scenario, disk_s=SLOW_DISK_S, some=list))


def test_storms_change_nothing(tmp_path: Path) -> None:
    """Loss, repeats, delays, overtaking and deaths, from many seeds: every run ends, with the
    undisturbed run's bytes.
    """
    known: dict[tuple[str, int, int], tuple[Scenario, Run]] = {}
    killed = 0
    seeds = part_of(range(STORMS))
    for seed in seeds:
        about = storm_of(seed)
        if about not in known:
            scenario = scenario_of(tmp_path, about[0], size=about[1], held_out=about[2])
            known[about] = scenario, lived(scenario, OneDeath())
        scenario, undisturbed = known[about]
        storm = Storm(seed)
        run = lived(scenario, storm)
        killed += storm.killed
        assert ended_alike(run, undisturbed), f"python -m tests.world {seed}: {run.world.errors}"
        assert not run.refusals, f"python -m tests.world {seed}"
    assert killed > len(seeds)
